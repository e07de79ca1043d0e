"""Layers around recurrent cells in a model file, and those that no model may have."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_rnn
from edge_rnn import Session
from edge_rnn.graph import (
    Add,
    Concat,
    Dense,
    Input,
    Matrix,
    Model,
    Multiply,
    Pool,
    Probe,
    Schedule,
    Slice,
    digest,
    output_digest,
)
from tests.core import models
from tests.core.test_layers import ROOT, STRIDED, close, conv
from tests.core.test_modelfile import edit_model, put
from tests.effort import examples


@pytest.mark.process
def test_a_probe_holds_the_steps_that_have_an_output(tmp_path: Path) -> None:
    x = models.inputs(20)
    y = Session(STRIDED).run("a", x)
    good = dataclasses.replace(STRIDED, probe=Probe(x, y, output_digest(y)))
    edge_rnn.save(good, tmp_path / "m.ernn")
    probe = edge_rnn.load(tmp_path / "m.ernn").probe
    assert probe is not None
    assert probe.output.shape == (3, 14)
    command = [sys.executable, "-m", "edge_rnn", "verify", str(tmp_path / "m.ernn")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    for steps, rows in ((20, y[:2]), (7, y[:0])):
        bad = dataclasses.replace(good, probe=Probe(x[:steps], rows, output_digest(rows)))
        with pytest.raises(edge_rnn.errors.ModelError, match="probe output has shape"):
            edge_rnn.save(bad, tmp_path / "bad.ernn")


@pytest.fixture(scope="module")
def strided_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strided") / "m.ernn"
    edge_rnn.save(STRIDED, path)
    return path


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        ("nodes/0/kernel", "3", "Expected `int`, got `str`"),
        ("nodes/0/kernel", 2.5, "Expected `int`, got `float`"),
        ("nodes/0/kernel", True, "Expected `int`, got `bool`"),
        ("nodes/0/kernel", 4, "'wide': w has shape .7, 15., expected .N, K. with I=5, K=20"),
        ("nodes/0/stride", 0, "'wide': stride is 0, allowed: int from 1 to 1048576"),
        ("nodes/0/dilation", 1 << 20, "a stream's state has 10485"),
        ("nodes/0/padding", "same", "Invalid enum value 'same'"),
        ("nodes/0/groups", 1 << 65, "groups is 36893488147419103232, allowed|out of range"),
        ("nodes/2/others", "local", "Expected `array`, got `str`"),
        ("nodes/2/others", [1], "Expected `str`, got `int`"),
        ("nodes/2/others", [], "others is empty"),
        ("nodes/2/others", ["behind"], "'residual' reads 'behind', which comes after it"),
        ("nodes/3/kind", "min", "Invalid enum value 'min'"),
        ("nodes/6/stop", 99, "'left': slice 0 to 99 of a value 14 wide"),
        (
            "nodes/9/others",
            ["residual"],
            "'gated' reads 'left', there at steps 7, 13, ",
        ),
        ("outputs", ["all", "x"], "the model's outputs are 'all', there at steps 7, .*, and 'x'"),
    ],
)
def test_a_hostile_description_is_refused(
    place: str, value: object, text: str, strided_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.ernn"
    path.write_bytes(edit_model(put(place, value))(strided_file))
    with pytest.raises(edge_rnn.errors.ModelFileError, match=f"hostile.ernn: .*({text})"):
        edge_rnn.load(path)


@examples(300)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.sampled_from(b"0123459,e-")), min_size=1))
def test_changed_numbers_load_or_are_refused(changes, strided_file: Path) -> None:
    blob = bytearray(strided_file.read_bytes())
    end = blob.index(b"outputs")
    digits = [i for i in range(blob.index(b"inputs"), end) if blob[i : i + 1].isdigit()]
    for place, value in changes[:3]:
        blob[digits[int(place * (len(digits) - 1))]] = value
    path = strided_file.with_name("changed.ernn")
    path.write_bytes(blob)
    try:
        model = edge_rnn.load(path)
    except edge_rnn.errors.ModelFileError:
        return
    x = models.inputs(30, model.input_width)
    close(model, x)


def test_the_digest_tells_what_is_read_and_chosen() -> None:
    one = models.model(Dense("a", "x", Matrix(np.eye(5, dtype="f4")), np.zeros(5, "f4")), width=5)
    variants = [
        Add("y", "a", ("x",)),
        Add("y", "x", ("a",)),
        Add("y", "x", ("a", "a")),
        Multiply("y", "x", ("a",)),
        Slice("y", "x", 0, 5),
        Slice("y", "x", 0, 4),
        Pool("y", "x", "max", 2, 1),
        Pool("y", "x", "max", 2, 2),
    ]
    built = [dataclasses.replace(one, nodes=(*one.nodes, v), outputs=("y",)) for v in variants]
    assert len({digest(m) for m in built}) == len(built)


def refusal(*nodes: Any, width: int = 4, outputs: tuple[str, ...] = ()) -> str:
    model = Model((Input("x", width),), nodes, outputs or (nodes[-1].name,))
    with pytest.raises(edge_rnn.errors.ModelError) as e:
        Session(model)
    return str(e.value)


@pytest.mark.parametrize("name", ["kernel", "stride", "dilation", "groups"])
@pytest.mark.parametrize("value", [0, -1, True, 1.0, "2", None, (1 << 20) + 1, 1 << 70])
def test_a_number_that_is_none_is_refused(name: str, value: object) -> None:
    layer = dataclasses.replace(conv(4, 4), **{name: value})
    assert refusal(layer) == (f"node 'conv': {name} is {value!r}, allowed: int from 1 to 1048576")


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (dataclasses.replace(conv(4, 4), padding="same"), "padding is 'same', allowed: causal, v"),
        (dataclasses.replace(conv(4, 4), act="mush"), "act is 'mush', allowed: linear, relu"),
        (dataclasses.replace(conv(4, 4), kernel=2), r"w has shape (4, 12), expected (N, K) with"),
        (
            dataclasses.replace(conv(4, 4), groups=3),
            "groups is 3, which must divide its 4 features",
        ),
        (dataclasses.replace(conv(4, 6, groups=2), groups=4), "and 6 rows"),
        (dataclasses.replace(conv(4, 4), dilation=1 << 20), "state has 8388612 numbers, at most 4"),
        (Pool("y", "x", "min", 2, 2), "kind is 'min', allowed: max, average"),  # type: ignore[arg-type]
        (Pool("y", "x", "max", 1 << 20, 2), None),
        (Slice("y", "x", 2, 2), "slice 2 to 2 of a value 4 wide"),
        (Slice("y", "x", 3, 5), "slice 3 to 5 of a value 4 wide"),
        (Slice("y", "x", -1, 3), "start is -1, allowed: int from 0"),
        (Add("y", "x", ()), "others is empty, expected at least one name"),
        (Add("y", "x", ("y",)), "node 'y' reads 'y', which comes after it"),
        (Concat("y", "x", ("z",)), "node 'y' reads 'z', which nothing makes"),
        (Concat("y", "x", ("x",) * (1 << 18)), "1048580 wide, at most 1048576 allowed"),
    ],
)
def test_a_layer_that_is_none_is_refused(node: Any, text: str | None) -> None:
    if text is None:
        assert Session(models.model(node, width=4), capacity=1).state_bytes == 4 << 22
    else:
        assert text in refusal(node)


def test_values_that_differ_in_width_are_not_added() -> None:
    text = refusal(Slice("part", "x", 0, 3), Multiply("y", "x", ("part",)))
    assert text == "node 'y': reads values of width 4 and 3, expected equal widths"


def test_values_that_are_there_at_different_steps_never_meet() -> None:
    half = Pool("half", "x", "max", 2, 2)
    same = Pool("same", "x", "average", 2, 2)
    text = refusal(half, Add("y", "x", ("half",)))
    assert text.startswith(
        "node 'y' reads 'x', there at steps 0, 1, 2, ..., and 'half', there at steps 1, 3, 5, ...:"
    )
    assert refusal(half, outputs=("half", "x")).startswith("the model's outputs are 'half', there")
    model = models.model(half, same, Add("y", "half", ("same",)), width=4)
    assert model.schedule == (1, 2)


def test_a_schedule_beyond_counting_is_refused() -> None:
    chain = [Pool(f"p{k}", f"p{k - 1}" if k else "x", "max", 1, 1 << 20) for k in range(3)]
    assert "node 'p2': steps" in refusal(*chain)
    late = models.model(*chain[:2], width=4)
    assert late.schedule == (0, 1 << 40)
    assert len(Session(late).run("a", models.inputs(5, 4))) == 1


@examples(100)
@given(st.integers(0, 50), st.integers(1, 20), st.integers(0, 200))
def test_a_schedule_counts_what_is_due(first: int, period: int, steps: int) -> None:
    schedule = Schedule(first, period)
    due = [n for n in range(steps) if schedule.due(n)]
    assert schedule.count(steps) == len(due)
    assert due == list(range(first, steps, period))
    assert all(b - a == period for a, b in pairwise(due))
