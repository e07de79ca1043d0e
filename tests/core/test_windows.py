"""Windows and masks: what a model with one means, in files and in the float64 reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_rnn
from edge_rnn import reference
from edge_rnn.cli.inspect import describe
from edge_rnn.errors import ModelError, ModelFileError
from edge_rnn.graph import (
    Add,
    Concat,
    Dense,
    Model,
    Pad,
    Pool,
    Reverse,
    Schedule,
    Window,
    digest,
    lengths,
    schedules,
    state_width,
)
from edge_rnn.validation import validate
from tests.core import models
from tests.effort import examples

R = models.Random()
GRU = models.model(models.gru(R), Dense("y", "cell", R.matrix(3, models.H), R.vector(3)))


def bidirectional(sequences: bool = False) -> Model:
    """A GRU from each side, whose last outputs (or, reversed back, all) a dense layer joins."""
    r = models.Random(1)
    back = [Reverse("again", "back")] if sequences else []
    return models.model(
        models.gru(r, "forth"),
        Reverse("reversed", "x"),
        models.gru(r, "back", "reversed"),
        *back,
        Concat("both", "forth", (back[-1].name if back else "back",)),
        Dense("y", "both", r.matrix(3, 2 * models.H), r.vector(3)),
    )


def centred() -> Model:
    """A centred convolution with a residual, maxima of two rows, an LSTM."""
    r = models.Random(2)
    return models.model(
        Pad("pad", "x", 1, 1),
        models.conv(r, "conv", "pad", n=models.I, padding="valid", act="relu"),
        Add("sum", "conv", ("x",)),
        Pad("pad2", "sum", 0, 1, -3.0e38),
        Pool("pool", "pad2", "max", 2, 2),
        models.lstm(r, "lstm", "pool"),
        Dense("y", "lstm", r.matrix(3, models.H), r.vector(3)),
    )


def windowed(model: Model, length: int, hop: int | None = None, **others: Any) -> Model:
    model = replace(model, window=Window(length, hop or length, **others))
    validate(model)
    return model


@pytest.mark.parametrize(
    ("model", "window", "expected"),
    [
        (GRU, Window(8, 8), Schedule(7, 8)),
        (GRU, Window(8, 3), Schedule(7, 3)),
        (GRU, Window(8, 8, every=True), Schedule(0, 1)),
        (models.strided(), Window(24, 5), Schedule(19, 5)),  # outputs at 7, 13, 19
        (models.strided(), Window(8, 8), Schedule(7, 8)),
        (bidirectional(), Window(8, 3), Schedule(7, 3)),
    ],
)
def test_when_a_stream_answers(model: Model, window: Window, expected: Schedule) -> None:
    model = replace(model, window=window)
    validate(model)
    assert model.schedule == expected
    steps, y = reference.answers(model, models.inputs(40))
    assert list(steps) == [t for t in range(40) if expected.due(t)]
    assert y.shape == (len(steps), model.output_width)


def test_a_window_is_a_sequence_of_its_own() -> None:
    x = models.inputs(40)
    for model in (GRU, bidirectional(), centred()):
        steps, y = reference.answers(windowed(model, 8, 3), x)
        for step, row in zip(steps, y, strict=True):
            assert np.array_equal(row, reference.run(model, x[step - 7 : step + 1])[-1])


def test_each_step_of_tumbling_windows() -> None:
    x = models.inputs(21)
    steps, y = reference.answers(windowed(GRU, 8, every=True), x)
    assert list(steps) == list(range(21))
    assert np.array_equal(y, np.concatenate([reference.run(GRU, x[a : a + 8]) for a in (0, 8, 16)]))


def test_reverse_and_pad() -> None:
    x = models.inputs(4)
    assert np.array_equal(reference.run(models.model(Reverse("r", "x")), x), x[::-1])
    y = reference.run(models.model(Pad("p", "x", 2, 1, -5.0)), x)
    assert np.array_equal(y[2:6], x)
    assert np.array_equal(y[[0, 1, 6]], np.full((3, 5), -5))


@examples(60)
@given(n=st.integers(1, 40))
def test_lengths_are_those_of_the_reference(n: int) -> None:
    for model in (GRU, bidirectional(sequences=True), centred()):
        assert lengths(model, n)["y"] == len(reference.run(model, models.inputs(n)))


def test_lengths_of_a_strided_window() -> None:
    found = lengths(centred(), 9)
    assert [found[n] for n in ("x", "pad", "conv", "pad2", "pool", "y")] == [9, 11, 9, 10, 5, 5]
    with pytest.raises(ModelError, match="'thin': a window of 7 is too short for a row of it"):
        lengths(models.strided(), 7)


@examples(60)
@given(
    kept=st.lists(st.booleans(), max_size=40),
    window=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    every=st.booleans(),
)
def test_masked_messages_are_left_out(kept, window, every) -> None:
    length, hop = window[0], min(window)
    x = models.inputs(len(kept))
    x[~np.array(kept, bool)] = 0.25
    model = replace(GRU, mask=0.25)
    steps, y = reference.answers(model, x)
    assert list(steps) == [t for t, k in enumerate(kept) if k]
    assert np.array_equal(y, reference.run(GRU, x[steps]))
    every = every and hop == length
    steps, y = reference.answers(windowed(model, length, hop, every=every), x)
    for step, row in zip(steps, y, strict=True):
        start = step - step % length if every else step - length + 1
        seen = [x[t] for t in range(start, step + 1) if kept[t]]
        np.testing.assert_allclose(
            row, reference.run(GRU, seen)[-1], rtol=1e-12
        )  # BLAS sums by shape
    whole = range(length - 1, len(kept), hop)
    due = [t for t in whole if any(kept[t - length + 1 : t + 1])]
    assert list(steps) == ([t for t, k in enumerate(kept) if k] if every else due)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (bidirectional(), "'reversed': reverse looks ahead: the model needs a window"),
        (replace(GRU, window=Window(0, 1)), "window of 0 messages every 1"),
        (replace(GRU, window=Window(4, 5)), "window of 4 messages every 5"),
        (replace(GRU, window=Window(4, 0)), "window of 4 messages every 0"),
        (replace(GRU, window=Window(4.0, 1)), "window of 4.0 messages"),  # type: ignore[arg-type]
        (replace(GRU, window=Window(4, 2, every=True)), "at every step where none overlap"),
        (replace(bidirectional(), window=Window(4, 4, every=True)), "no node looks ahead"),
        (replace(models.strided(), window=Window(7, 7)), "7 ends before its first output"),
        (replace(models.strided(), window=Window(20, 20, every=True)), "a multiple of"),
        (replace(bidirectional(), window=Window(1 << 22, 1)), "more than 16777216 numbers"),
        (replace(GRU, window=Window(1 << 20, 1)), "stream's state has 7340032 numbers"),
        (replace(GRU, mask=float("nan")), "mask is nan"),
        (replace(GRU, mask=1e300), "mask is 1e.300"),
        (replace(GRU, mask=1), "mask is 1, expected"),
        (replace(models.strided(), mask=0.0), "node 'wide': conv1d counts rows"),
        (
            replace(
                models.model(Pad("more", "x", 1, 0), Concat("both", "x", ("more",))),
                window=Window(8, 8),
            ),
            "'both' reads 'x', of 8 rows a window, and 'more', of 9 rows a window: .* as many rows",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(model: Model, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        validate(model)


def test_schedules_are_of_streams_only() -> None:
    with pytest.raises(ModelError, match="looks ahead"):
        schedules(windowed(bidirectional(), 8))


def test_the_numbers_of_a_state() -> None:
    assert state_width(GRU) == models.H
    assert state_width(windowed(GRU, 8, 3)) == 3 * models.H
    assert state_width(windowed(replace(GRU, mask=0.0), 8, 3)) == 3 * (models.H + 4)
    assert state_width(windowed(bidirectional(), 8, 3)) == 8 * models.I


@pytest.mark.parametrize("mask", [None, 0.5])
def test_a_file_keeps_window_and_mask(tmp_path: Path, mask: float | None) -> None:
    for model in (windowed(bidirectional(), 9, 2), windowed(GRU, 9, every=True)):
        edge_rnn.save(replace(model, mask=mask), tmp_path / "m.ernn")
        again = edge_rnn.load(tmp_path / "m.ernn")
        assert (again.window, again.mask) == (model.window, mask)
        assert digest(again) == digest(replace(model, mask=mask)) != digest(GRU)
        assert (digest(again) == digest(model)) == (mask is None)
        assert [row.op for row in describe(again)] == [n.OP for n in model.nodes]


def test_a_file_without_a_window_says_nothing_of_one(tmp_path: Path) -> None:
    edge_rnn.save(GRU, tmp_path / "m.ernn")
    raw = (tmp_path / "m.ernn").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert not {"window", "mask"} & set(json.loads(header["__metadata__"]["ernn"]))


@pytest.mark.parametrize("window", ["4", '{"length": 4}', '{"length": 4, "hop": 2.5}', "[]"])
def test_a_file_with_another_window_is_refused(tmp_path: Path, window: str) -> None:
    path = tmp_path / "m.ernn"
    edge_rnn.save(windowed(GRU, 4), path)
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n])
    description = json.loads(header["__metadata__"]["ernn"])
    description["window"] = json.loads(window)
    header["__metadata__"]["ernn"] = json.dumps(description)
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + raw[8 + n :])
    with pytest.raises(ModelFileError, match="window"):
        edge_rnn.load(path)
