"""The nodes inside one message: right against the reference, blind to company, in every format."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn import Session, reference
from edge_rnn.errors import ModelError
from edge_rnn.graph import (
    Activation,
    Dense,
    FrameConv,
    FramePool,
    Matrix,
    Model,
    Node,
    Take,
    bounds,
    multiply_adds,
    value_widths,
)
from edge_rnn.program import compile_model
from tests.core import models
from tests.core.models import FORMATS, Random, frame_conv
from tests.effort import examples

FRAMES = [kind for kind in models.NODES if kind.startswith("frame")]
CHANNELS = st.integers(1, 40)


def conv(format: str, length: int, c: int, n: int, seed: int = 0, **choices: Any) -> Model:
    """A convolution over a message of `length` positions."""
    node = frame_conv(Random(seed, format), c, n, "x", **choices)
    return models.model(node, width=length * c)


@examples(80)
@given(
    format=st.sampled_from(FORMATS),
    c=CHANNELS,
    n=st.integers(1, 70),
    kernel=st.integers(1, 9),
    stride=st.integers(1, 5),
    more=st.integers(0, 40),
    batch=st.integers(1, 4),
)
def test_a_window_has_the_bits_of_a_dense_layer(
    format: str, c: int, n: int, kernel: int, stride: int, more: int, batch: int
) -> None:
    """Whatever windows and rows share a load of weights, and with a unit for each window."""
    length = kernel + more
    model = conv(format, length, c, n, kernel=kernel, stride=stride, act="silu")
    x = models.inputs(batch, length * c) * np.float32([[1], [1e-20], [1e6], [30]])[:batch]
    y = Session(model).step([str(b) for b in range(batch)], x)
    node = model.nodes[0]
    assert isinstance(node, FrameConv)
    dense = Dense("y", "x", node.w, node.b, node.act, node.activations)
    starts = [p * c for p in range(0, length - kernel + 1, stride)]
    windows = np.array([row[p : p + kernel * c] for row in x for p in starts])
    expected = Session(models.model(dense, width=kernel * c)).run("a", windows)
    assert y.tobytes() == expected.tobytes()


@examples(40)
@given(
    c=CHANNELS, n=st.integers(1, 70), kernel=st.integers(1, 9), stride=st.integers(1, 5),
    more=st.integers(0, 40), format=st.sampled_from(["float32", "float16", "int8"]),
)  # fmt: skip
def test_any_convolution_matches_the_reference(
    c: int, n: int, kernel: int, stride: int, more: int, format: str
) -> None:
    model = conv(format, kernel + more, c, n, kernel=kernel, stride=stride)
    x = models.inputs(3, model.input_width)
    np.testing.assert_allclose(
        Session(model).run("a", x), reference.run(model, x), rtol=2e-5, atol=3e-5
    )


@examples(60)
@given(
    c=CHANNELS, kernel=st.integers(1, 9), stride=st.integers(1, 5), more=st.integers(0, 40),
    kind=st.sampled_from(["max", "average"]),
)  # fmt: skip
def test_any_pool_matches_the_reference(
    c: int, kernel: int, stride: int, more: int, kind: Any
) -> None:
    model = models.model(FramePool("y", "x", kind, c, kernel, stride), width=(kernel + more) * c)
    x = models.inputs(3, model.input_width)
    y = Session(model).run("a", x)
    np.testing.assert_allclose(y, reference.run(model, x), rtol=1e-6, atol=1e-6)


@examples(60)
@given(places=st.lists(st.integers(-1, 99), min_size=1, max_size=400), width=st.just(100))
def test_any_places_are_taken(places: list[int], width: int) -> None:
    model = models.model(Take("y", "x", np.float32(places)), width=width)
    x = models.inputs(2, width)
    expected = np.where(np.array(places) < 0, np.float32(0), x[:, places])
    assert Session(model).run("a", x).tobytes() == expected.tobytes()
    np.testing.assert_array_equal(reference.run(model, x), expected)


def test_a_convolution_is_numpys() -> None:
    """One channel in and out: the reference against `np.correlate`."""
    node = FrameConv("y", "x", Matrix(np.float32([[1, -2, 3]])), np.zeros(1, np.float32), 3, 2)
    x = models.inputs(4, 11)
    expected = [np.correlate(row.astype(float), [1, -2, 3])[::2] for row in x]
    np.testing.assert_allclose(reference.run(models.model(node, width=11), x), expected)


@pytest.mark.parametrize("positions", [31, 32, 33, 100])
@pytest.mark.parametrize("format", FORMATS)
def test_positions_beyond_a_tile(positions: int, format: str) -> None:
    """Weights are loaded once for a tile of windows, kept once for all of them."""
    model = conv(format, positions, 8, 48, kernel=1)
    other = compile_model(conv(format, 1, 8, 48, kernel=1))
    program = compile_model(model)
    held = [p.int8s.nbytes + p.halves.nbytes + p.floats.nbytes for p in (program, other)]
    assert held[0] == held[1]
    x = models.inputs(2, 8 * positions)
    y = Session(model).step(["a", "b"], x).reshape(2, positions, 48)
    alone = Session(conv(format, 1, 8, 48, kernel=1))
    for row, outputs in zip(x.reshape(2, positions, 8), y, strict=True):
        assert outputs.tobytes() == alone.run("a", row).tobytes()


def test_a_wide_window_does_not_take_room_for_many() -> None:
    model = conv("float32", 40, 1, 4000, kernel=9)
    program = compile_model(model)
    assert program.windows == 2
    assert program.scratch_width < 40 + 4000 * 32 + 2 * 4100


def test_bounds_go_through_a_frame() -> None:
    r = Random()
    model = models.model(
        Activation("bounded", "x", "relu6"),
        Take("frame", "bounded", np.float32([0, 1, 2, 3, 4, -1])),
        FramePool("pool", "frame", "max", 2, 2, 1),
        frame_conv(r, x="pool", kernel=1, act="tanh"),
    )
    assert bounds(model) == {"x": 0, "bounded": 6, "frame": 6, "pool": 6, "conv": 1}


def test_multiply_adds_are_those_of_every_window() -> None:
    model = conv("float32", 10, 2, 7, kernel=3, stride=2)
    assert multiply_adds(model.nodes[0], value_widths(model)) == 4 * 7 * 6


def test_a_window_that_overflows_leaves_the_others() -> None:
    model = conv("int8 int8", 4, 2, 3, kernel=2, stride=2)
    first = Dense("big", "x", Matrix(np.eye(8, dtype="f4") * 1e30), np.zeros(8, np.float32))
    nodes = (first, dataclasses.replace(model.nodes[0], input="big"))
    x = np.float32([[1e10, 0, 0, 0, 1, 2, 3, 4]])
    y = Session(dataclasses.replace(model, nodes=nodes)).run("a", x).reshape(2, 3)
    assert not np.isfinite(y[0]).any() and np.isfinite(y[1]).all()


@pytest.mark.parametrize("kind", ["max", "average"])
def test_a_nan_stays_in_its_channel(kind: Any) -> None:
    nodes = (Activation("r", "x", "sqrt"), FramePool("y", "r", kind, 2, 2, 2))
    x = np.float32([[4, 4, -1, 4, 4, 4, 4, 4]])
    y = Session(models.model(*nodes, width=8)).run("a", x)
    assert np.isnan(y[0]).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Take("y", "x", np.float32([0, 5])), "places has 5.0, expected whole numbers from -1 to 4"),
        (Take("y", "x", np.float32([0, -2])), "places has -2.0"),
        (Take("y", "x", np.float32([0.5])), "places has 0.5"),
        (Take("y", "x", np.float32([np.nan])), "places: nan at index 0"),
        (Take("y", "x", np.zeros(0, np.float32)), r"places has shape \(0,\)"),
        (FramePool("y", "x", "max", 2, 2, 2), "reads 5 numbers, expected 2 channels at 2 pos"),
        (FramePool("y", "x", "max", 1, 6, 2), "expected 1 channels at 6 positions or more"),
        (FramePool("y", "x", "min", 1, 2, 2), "kind is 'min'"),  # type: ignore[arg-type]
        (FramePool("y", "x", "max", 0, 2, 2), "channels is 0, allowed: int from 1"),
        (frame_conv(Random(), 2, x="x"), "reads 5 numbers, expected 2 channels at 3 positions"),
        (frame_conv(Random(), 1, x="x", kernel=3, stride=0), "stride is 0"),
        (
            dataclasses.replace(frame_conv(Random(), 1, x="x"), kernel=2),
            "w has 3 columns for a kernel of 2",
        ),
        (
            FrameConv("y", "x", Matrix(np.zeros((4, 0), np.float32)), np.zeros(4, np.float32), 1),
            "w has 0 columns",
        ),
        (
            FrameConv("y", "x", Matrix(np.zeros(4, np.float32)), np.zeros(4, np.float32), 1),
            r"w has shape \(4,\), expected \(N, K\)",
        ),
    ],
)
def test_what_can_not_be_is_refused(node: Node, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        Session(models.model(node))


def test_too_many_outputs_are_refused_before_memory_is_taken() -> None:
    node = frame_conv(Random(), 1, 1000, "x", kernel=1)
    with pytest.raises(ModelError, match=r"values .* wide in all"):
        Session(models.model(node, width=1 << 20))
