"""Layers around recurrent cells: right against the reference, on time, blind to company."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edge_rnn
from edge_rnn import Session, reference
from edge_rnn.errors import InputError
from edge_rnn.graph import (
    Add,
    Concat,
    Conv1d,
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
from tests.core.test_modelfile import edit_model, put
from tests.golden import torch_layers

ROOT = Path(__file__).parents[2]
STRIDED = models.strided("int8")
T = 60
LAYERS = ("conv", "pool", "add", "multiply", "concat", "slice")


def conv(width: int, n: int, seed: int = 0, weights: str = "float32", **choices: Any) -> Conv1d:
    return models.conv(models.Random(seed, weights), i=width, n=n, **choices)


def close(model: Model, x: np.ndarray) -> np.ndarray:
    """The session's outputs, which are the reference's."""
    y, expected = Session(model).run("a", x), reference.run(model, x)
    assert y.shape == expected.shape == (model.schedule.count(len(x)), model.output_width)
    # float32 against float64: rounding of up to 2,000 terms of size one.
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=3e-5)
    return y


@pytest.mark.parametrize(("width", "n"), [(1, 1), (700, 3), (3, 700), (33, 31), (131, 257)])
@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_a_convolution_of_any_width(width: int, n: int, weights: str) -> None:
    layer = conv(width, n, weights=weights, kernel=3, stride=2, dilation=2)
    close(models.model(layer, width=width), models.inputs(20, width))


@pytest.mark.parametrize("width", [1, 7, 16, 31, 33, 257, 700])
@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_a_depthwise_convolution_of_any_width(width: int, weights: str) -> None:
    layer = conv(width, width, weights=weights, kernel=5, groups=width)
    close(models.model(layer, width=width), models.inputs(20, width))


@pytest.mark.parametrize("width", [1, 7, 31, 33, 700])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_a_pool_of_any_width(kind: Any, width: int) -> None:
    pool = Pool("pool", "x", kind, 7, 3, "causal")
    close(models.model(pool, width=width), models.inputs(20, width))


@pytest.mark.parametrize("width", [1, 31, 350])
def test_values_of_any_width_meet_and_part(width: int) -> None:
    model = models.model(
        Slice("left", "x", 0, width),
        Slice("right", "x", width, 2 * width),
        Add("sum", "left", ("right", "left")),
        Multiply("product", "sum", ("right",)),
        Concat("all", "product", ("x", "sum")),
        width=2 * width,
    )
    y = close(model, models.inputs(5, 2 * width))
    assert y.shape[1] == 4 * width
    assert y[:, width : 3 * width].tobytes() == models.inputs(5, 2 * width).tobytes()


windows = st.fixed_dictionaries(
    {
        "kernel": st.integers(1, 6),
        "stride": st.integers(1, 5),
        "padding": st.sampled_from(["causal", "valid"]),
    }
)


@settings(max_examples=150, deadline=None)
@given(
    window=windows,
    dilation=st.integers(1, 4),
    groups=st.integers(1, 5),
    parts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    weights=st.sampled_from(["float32", "float16", "int8"]),
    steps=st.integers(0, 40),
)
def test_any_convolution_matches_the_reference(
    window, dilation, groups, parts, weights, steps
) -> None:
    width, n = groups * parts[0], groups * parts[1]
    layer = conv(width, n, weights=weights, dilation=dilation, groups=groups, **window)
    close(models.model(layer, width=width), models.inputs(steps, width))


@settings(max_examples=100, deadline=None)
@given(window=windows, kind=st.sampled_from(["max", "average"]), steps=st.integers(0, 40))
def test_any_pool_matches_the_reference(window, kind, steps) -> None:
    close(models.model(Pool("pool", "x", kind, **window)), models.inputs(steps))


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from(["conv", "max", "gru"]), windows), max_size=5),
    steps=st.integers(0, 80),
)
def test_any_stack_matches_the_reference(kinds, steps) -> None:
    """Schedules of schedules, with cells and residuals that run at them."""
    r, nodes, last = models.Random(), [models.rnn(models.Random(), "first")], "first"
    for k, (kind, window) in enumerate(kinds):
        name = f"n{k}"
        if kind == "conv":
            nodes.append(models.conv(r, name, last, models.H, **window))
        elif kind == "max":
            nodes.append(Pool(name, last, "max", **window))
        else:
            nodes.append(models.gru(r, f"{name}-cell", last, models.H))
            nodes.append(Add(name, f"{name}-cell", (last,)))
        last = name
    close(models.model(*nodes), models.inputs(steps))


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_the_strided_stack_matches_the_reference(weights: str) -> None:
    y = close(models.strided(weights), models.inputs(300))
    assert models.strided(weights).schedule == Schedule(7, 6)
    assert len(y) == 49


# PyTorch as the judge of the reference; the runtime is compared with it too.


@pytest.mark.parametrize("name", torch_layers.CONVOLUTIONS)
def test_convolutions_are_pytorchs(name: str) -> None:
    case = dict(torch_layers.CONVOLUTIONS[name])
    with np.load(torch_layers.FILE) as arrays:
        x, weight, bias, y = (arrays[f"{name}/{key}"] for key in ("x", "weight", "bias", "y"))
    width, n = case.pop("i"), case.pop("n")
    w = np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(n, -1)
    model = models.model(Conv1d("conv", "x", Matrix(w), bias, **case), width=width)
    np.testing.assert_allclose(reference.run(model, x), y, rtol=1e-12, atol=1e-12)
    close(model, x)


@pytest.mark.parametrize("name", torch_layers.POOLS)
def test_pools_are_pytorchs(name: str) -> None:
    with np.load(torch_layers.FILE) as arrays:
        x, y = arrays[f"{name}/x"], arrays[f"{name}/y"]
    model = models.model(Pool("pool", "x", **torch_layers.POOLS[name]))
    np.testing.assert_allclose(reference.run(model, x), y, rtol=1e-12, atol=1e-12)
    close(model, x)


# On time, whatever else is stepped.


def test_steps_without_an_output_are_nan_and_masked() -> None:
    session, x = Session(STRIDED), models.inputs(T)
    expected = session.run("alone", x)
    y = session.step(["a"] * T, x)
    due = [STRIDED.schedule.due(n) for n in range(T)]
    assert np.isnan(y).all(axis=1).tolist() == [not d for d in due]
    assert y[due].tobytes() == expected.tobytes()
    for dtype in (np.bool_, np.uint8):
        out, emitted = np.zeros_like(y), np.full(T, 7).astype(dtype)
        session.reset("a")
        session.step_slots(session.slots(["a"] * T), x, out, emitted)
        assert emitted.tolist() == due
        assert out.tobytes() == y.tobytes()


def test_a_model_with_an_output_at_every_step_says_so() -> None:
    session = Session(models.stack())
    emitted = np.zeros(3, np.bool_)
    out = np.empty((3, 4), np.float32)
    session.step_slots(session.slots(["a", "b", "a"]), models.inputs(3), out, emitted)
    assert emitted.all()
    assert models.stack().schedule == Schedule(0, 1)


@pytest.mark.parametrize(
    "emitted",
    [np.zeros(2, np.bool_), np.zeros(3), np.zeros((3, 1), np.bool_), np.zeros(6, np.bool_)[::2]],
)
def test_a_wrong_mask_is_refused(emitted: np.ndarray) -> None:
    session = Session(STRIDED)
    out = np.empty((3, 14), np.float32)
    with pytest.raises(InputError, match="emitted"):
        session.step_slots(session.slots(["a"] * 3), models.inputs(3), out, emitted)
    assert session.steps("a") == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, T - 1), max_size=8))
def test_any_chunking_equals_the_whole(cuts: list[int]) -> None:
    session, x = Session(STRIDED), models.inputs(T)
    whole = session.run("whole", x)
    chunks = [session.run("chunked", c) for c in np.split(x, sorted(set(cuts)))]
    assert np.concatenate(chunks).tobytes() == whole.tobytes()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 40), st.sampled_from([1, 2, 3, 5, 256]))
def test_interleaved_streams_equal_separate_ones(seed: int, batch: int, max_batch: int) -> None:
    """Streams at different steps of a stride in one chunk, so that only some of its rows run."""
    order = np.random.default_rng(seed).integers(0, 5, 200).tolist()
    session, x = Session(STRIDED, max_batch=max_batch), models.inputs(200)
    alone = {s: Session(STRIDED).step(["a"] * 200, x * (s + 1)) for s in set(order)}
    rows = [(s, order[:k].count(s)) for k, s in enumerate(order)]
    for k in range(0, len(rows), batch):
        part = rows[k : k + batch]
        y = session.step([f"s{s}" for s, _ in part], np.array([x[n] * (s + 1) for s, n in part]))
        assert y.tobytes() == np.array([alone[s][n] for s, n in part]).tobytes()


@pytest.mark.parametrize("cut", range(25))
def test_a_snapshot_continues_in_the_middle_of_a_stride(cut: int) -> None:
    x = models.inputs(T)
    session = Session(STRIDED)
    whole = session.run("whole", x)
    first = session.run("dev", x[:cut]) if cut else whole[:0]
    other = Session(STRIDED)
    other.run("before", x[:5])
    other.slots(["dev"])
    if cut:
        other.restore(session.snapshot(["dev"]))
    assert np.concatenate([first, other.run("dev", x[cut:])]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("steps", [-1, 1 << 62, (1 << 63) - 1])
def test_a_snapshot_at_an_impossible_step_is_refused(steps: int) -> None:
    session = Session(STRIDED)
    session.run("a", models.inputs(4))
    state = dataclasses.replace(session.states()[0], steps=steps)
    with pytest.raises(edge_rnn.errors.SnapshotError, match="at step"):
        session.load_states([state])


def test_reset_starts_the_schedule_over() -> None:
    session, x = Session(STRIDED), models.inputs(T)
    whole = session.run("a", x)
    session.run("a", x[:4])
    session.reset("a")
    assert session.run("a", x).tobytes() == whole.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("at", [3, 8, 11])
def test_a_bad_row_steps_nobody(at: int, bad: float) -> None:
    session, x = Session(STRIDED), models.inputs(T).astype(float)
    whole = session.run("whole", x)
    first = session.run("a", x[:at])
    rows = np.stack([x[at], x[at]])
    rows[1, 3] = bad
    with pytest.raises(InputError, match=r"row 1: x\[3\] is .*expected a finite number"):
        session.step(["a", "b"], rows)
    assert session.steps("a") == at
    assert np.concatenate([first, session.run("a", x[at:])]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("kind", ["max", "average"])
def test_what_has_overflowed_shows_until_it_leaves_the_window(kind: Any) -> None:
    """inf - inf in one feature's column; the window of three keeps it for three steps."""
    w = np.array([[3e38, 3e38], [1, 0]], np.float32)
    model = models.model(
        Dense("big", "x", Matrix(w), np.zeros(2, np.float32)),
        Dense("small", "x", Matrix(-w), np.zeros(2, np.float32)),
        Add("nan", "big", ("small",)),
        Pool("pool", "nan", kind, 3, 1, "causal"),
        width=2,
    )
    x = np.zeros((8, 2), np.float32)
    x[2] = 1
    y = Session(model).run("a", x)
    assert np.isnan(y[:, 0]).tolist() == [n in (2, 3, 4) for n in range(8)]
    assert (y[:, 1] == 0).all()


def test_the_same_bits_with_the_jit_off() -> None:
    script = (
        "import sys; from tests.core import test_layers\n"
        "sys.stdout.buffer.write(test_layers.every_layers_bits())"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    assert done.stdout == every_layers_bits()


def every_layers_bits() -> bytes:
    """Of a few steps of three streams, in the two forms of weights that kernels read.

    With the JIT off a vector that reaches beyond an array is an error: no row is spare here.
    """
    kinds = [kind for kind in models.NODES if kind.startswith(LAYERS)]
    cases = [models.single(kind, w) for kind in kinds for w in ("float32", "int8")]
    streams = ["a", "b", "a", "a", "c", "b", "a", "a", "b"]
    parts = []
    for model in [*cases, models.strided("int8")]:
        session = Session(model, capacity=3)
        parts += [session.step(streams, models.inputs(9)), session.step(streams, models.inputs(9))]
    return b"".join(y.tobytes() for y in parts)


# The file, and models that are refused.


@pytest.mark.parametrize("kind", [k for k in models.NODES if k.startswith(LAYERS)])
@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_round_trip(kind: str, weights: str, tmp_path: Path) -> None:
    model, x = models.single(kind, weights), models.inputs(30)
    edge_rnn.save(model, tmp_path / "m.ernn")
    again = edge_rnn.load(tmp_path / "m.ernn")
    assert digest(again) == digest(model)
    assert Session(again).run("a", x).tobytes() == Session(model).run("a", x).tobytes()


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


@settings(max_examples=300, deadline=None)
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
        (dataclasses.replace(conv(4, 4), act="mish"), "act is 'mish', allowed: linear, relu"),
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


@given(st.integers(0, 50), st.integers(1, 20), st.integers(0, 200))
def test_a_schedule_counts_what_is_due(first: int, period: int, steps: int) -> None:
    schedule = Schedule(first, period)
    due = [n for n in range(steps) if schedule.due(n)]
    assert schedule.count(steps) == len(due)
    assert due == list(range(first, steps, period))
    assert all(b - a == period for a, b in pairwise(due))
