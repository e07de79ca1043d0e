"""Windows and masks against Keras and ONNX Runtime, run on each window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn import Session
from edge_rnn.graph import (
    Concat,
    Conv1d,
    Dense,
    Gru,
    Input,
    Lstm,
    Matrix,
    Model,
    Node,
    Pad,
    Pool,
    Reverse,
    Window,
)
from edge_rnn.validation import validate
from edge_rnn_converters import convert
from tests.converters.keras_models import H, I, inputs, layers, made
from tests.converters.onnx_models import Graph, random
from tests.converters.test_onnx import saved
from tests.effort import examples

MASK = 0.5
N = 7
"""Messages of a window."""
LOWEST = -3.4028234663852886e38


def matrix(a: Any) -> Matrix:
    return Matrix(np.ascontiguousarray(np.asarray(a, np.float32).T))


def node(layer: Any, name: str, x: str) -> Node:
    """A Keras layer as one node."""
    kernel, *others = (np.asarray(v.value) for v in layer.weights)
    if isinstance(layer, layers.GRU):
        u, b = others
        start = b[0] + np.concatenate([b[1, : 2 * H], np.zeros(H, np.float32)])
        return Gru(name, x, matrix(kernel), matrix(u), start, b[1, 2 * H :].copy())
    if isinstance(layer, layers.LSTM):
        return Lstm(name, x, matrix(kernel), matrix(others[0]), others[1])
    if isinstance(layer, layers.Dense):
        return Dense(name, x, matrix(kernel), others[0])
    assert isinstance(layer, layers.Conv1D)
    taps = np.ascontiguousarray(kernel.transpose(2, 0, 1).reshape(kernel.shape[2], -1))
    return Conv1d(name, x, Matrix(taps), others[0], len(kernel), padding="valid", act="relu")


def model(*nodes: Node, mask: float | None = None) -> Model:
    return Model((Input("x", I),), nodes, (nodes[-1].name,), mask=mask)


def bidirectional(kind: Any, mask: bool) -> tuple[Any, Model]:
    """Two bidirectional layers and a dense one, in Keras and here."""
    both = layers.Bidirectional
    masking = [layers.Masking(MASK)] if mask else []
    stack = [both(kind(H, return_sequences=True)), both(kind(H)), layers.Dense(2)]
    source = made(*masking, *stack)
    nodes: list[Node] = []
    x = "x"
    for k, layer in enumerate(stack[:2]):
        nodes += [
            node(layer.forward_layer, f"forth{k}", x),
            Reverse(f"reversed{k}", x),
            node(layer.backward_layer, f"back{k}", f"reversed{k}"),
        ]
        if k == 0:
            nodes.append(Reverse("again", "back0"))
        nodes.append(Concat(f"both{k}", f"forth{k}", ("again" if k == 0 else "back1",)))
        x = f"both{k}"
    nodes.append(node(stack[2], "y", x))
    return source, model(*nodes, mask=MASK if mask else None)


def convolved() -> tuple[Any, Model]:
    conv, cell, last = layers.Conv1D(4, 3, padding="same", activation="relu"), None, None
    cell, last = layers.LSTM(H), layers.Dense(2)
    source = made(conv, layers.MaxPooling1D(2, padding="same"), cell, last)
    return source, model(
        Pad("around", "x", 1, 1),
        node(conv, "conv", "around"),
        Pad("behind", "conv", 0, 1, LOWEST),
        Pool("pool", "behind", "max", 2, 2),
        node(cell, "cell", "pool"),
        node(last, "y", "cell"),
    )


def flattened(n: int) -> tuple[Any, Model]:
    """Flatten and a dense layer over all rows."""
    cell, last = layers.GRU(H, return_sequences=True), layers.Dense(2)
    source = made(cell, layers.Flatten(), last, shape=(n, I))
    kernel, bias = (np.asarray(v.value) for v in last.weights)
    whole = Conv1d("y", "cell", matrix(kernel), bias, n, padding="valid")
    return source, model(node(cell, "cell", "x"), whole)


def stacked(kind: Any) -> tuple[Any, Model]:
    """Two layers behind a mask."""
    stack = [kind(H, return_sequences=True), kind(H), layers.Dense(2)]
    source = made(layers.Masking(MASK), *stack)
    a, b, c = stack
    return source, model(node(a, "a", "x"), node(b, "b", "a"), node(c, "y", "b"), mask=MASK)


SOURCES: dict[str, Callable[[], tuple[Any, Model]]] = {
    "bidirectional GRU": lambda: bidirectional(layers.GRU, False),
    "bidirectional LSTM": lambda: bidirectional(layers.LSTM, False),
    "bidirectional GRU, mask": lambda: bidirectional(layers.GRU, True),
    "bidirectional LSTM, mask": lambda: bidirectional(layers.LSTM, True),
    "centred convolution, pooling": convolved,
    "flattened": lambda: flattened(N),
    "GRU, mask": lambda: stacked(layers.GRU),
    "LSTM, mask": lambda: stacked(layers.LSTM),
}
source_of = cache(lambda kind: SOURCES[kind]())


def compare(source: Any, used: Model, x: np.ndarray) -> None:
    """The session's answers to x are those of the source run on each window of N."""
    assert used.window is not None
    y, emitted = np.empty((len(x), 2), np.float32), np.empty(len(x), bool)
    session = Session(used)
    session.step_slots(session.slots(["a"] * len(x)), x, y, emitted)
    starts = np.arange(0, len(x) - N + 1, used.window.hop)
    windows = np.zeros((len(x), N, I), np.float32)  # always as many: a shape is compiled once
    windows[: len(starts)] = x[starts[:, None] + np.arange(N)]
    expected = np.asarray(source.predict_on_batch(windows))[: len(starts)]
    mask = np.float32(np.nan if used.mask is None else used.mask)
    seen = (windows[: len(starts)] != mask).any(axis=(1, 2))
    assert np.flatnonzero(emitted).tolist() == (starts[seen] + N - 1).tolist()
    np.testing.assert_allclose(y[emitted], expected[seen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SOURCES)
@examples(25)
@given(
    hop=st.integers(1, N),
    masked=st.lists(st.booleans(), min_size=24, max_size=24),
    seed=st.integers(0, 99),
)
def test_windows_equal_keras_on_each_window(kind, hop, masked, seed) -> None:
    source, ours = source_of(kind)
    used = replace(ours, window=Window(N, hop))
    validate(used)
    x = inputs(seed=seed)[:24]
    x[np.array(masked)] = MASK
    compare(source, used, x)


def test_a_dense_layer_over_windows_of_one_message() -> None:
    source, ours = flattened(1)
    x = inputs()[:5]
    y = Session(replace(ours, window=Window(1, 1))).run("a", x)
    expected = np.asarray(source.predict_on_batch(x[:, None]))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [Window(N, N), Window(N, 3)])
def test_converted_keras_layers_equal_keras_on_each_window(window: Window, tmp_path: Path) -> None:
    source = made(layers.GRU(H, return_sequences=True), layers.LSTM(H), layers.Dense(2))
    source.save(tmp_path / "m.keras")
    compare(source, convert(tmp_path / "m.keras", "float32", mode=window), inputs())


@pytest.mark.parametrize("window", [Window(8, 8), Window(8, 3), Window(8, 8, every=True)])
def test_converted_onnx_equals_onnx_runtime_on_each_window(window: Window, tmp_path: Path) -> None:
    g = Graph()
    y = g("MatMul", g.cell("GRU", "x")[0], g.const(random(5, 2)))
    path = saved(g.model({"x": ["T", 1, I]}, [y]), tmp_path)
    used = convert(path, "float32", mode=window)
    x = inputs()
    session = onnxruntime.InferenceSession(path)
    expected = []
    for start in range(0, len(x) - 7, window.hop):
        (rows,) = session.run(None, {"x": x[start : start + 8, None]})
        rows = np.asarray(rows).reshape(8, 2)
        expected.append(rows if window.every else rows[-1:])
    np.testing.assert_allclose(
        Session(used).run("a", x), np.concatenate(expected), rtol=1e-5, atol=1e-5
    )
