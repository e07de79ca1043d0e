"""The one table of gate orders, biases and activations, from both sides: what the frameworks'
manuals say, and what comes out as ours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edge_rnn import reference
from edge_rnn.graph import ACTS
from edge_rnn_converters import gates

I, H = 3, 4
# Where each framework's manual puts the blocks, in the letters of the graph's nodes.
MANUALS = {
    ("keras", "rnn"): ["h"],
    ("keras", "lstm"): ["i", "f", "g", "o"],  # i, f, c, o
    ("keras", "gru"): ["z", "r", "n"],  # z, r, h
    ("onnx", "rnn"): ["h"],
    ("onnx", "lstm"): ["i", "o", "f", "g"],  # i, o, f, c
    ("onnx", "gru"): ["z", "r", "n"],  # z, r, h
    ("pytorch", "rnn"): ["h"],
    ("pytorch", "lstm"): ["i", "f", "g", "o"],
    ("pytorch", "gru"): ["r", "z", "n"],
}


def test_the_table_is_complete() -> None:
    assert gates.ORDER.keys() == MANUALS.keys()
    for (framework, kind), order in gates.ORDER.items():
        assert list(order) == MANUALS[framework, kind]
        assert sorted(order) == sorted(gates.OURS[kind])


@pytest.mark.parametrize(("framework", "kind"), MANUALS)
def test_reorder_puts_each_block_where_ours_is(framework: Any, kind: Any) -> None:
    blocks = {
        gate: np.full((H, I), n, np.float32) for n, gate in enumerate(MANUALS[framework, kind])
    }
    stored = np.concatenate([blocks[gate] for gate in MANUALS[framework, kind]])
    ours = np.concatenate([blocks[gate] for gate in gates.OURS[kind]])
    np.testing.assert_array_equal(gates.reorder(stored, framework, kind), ours)


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def cell(framework: Any, kind: str, seed: int = 0) -> tuple[gates.Cell, dict[str, Any]]:
    """A cell as the framework keeps it and its blocks by letter: w, u, input and recurrent bias."""
    rng = np.random.default_rng(seed)
    order = MANUALS[framework, kind]
    shapes = ((H, I), (H, H), (H,), (H,))
    by_gate = {g: [rng.normal(size=s).astype(np.float32) for s in shapes] for g in order}
    stored = [np.concatenate([by_gate[g][part] for g in order]) for part in range(4)]
    return gates.Cell(framework, *stored), by_gate


@pytest.mark.parametrize("framework", ["keras", "onnx", "pytorch"])
def test_an_lstm_from_the_equations(framework: Any) -> None:
    stored, by_gate = cell(framework, "lstm")
    node = gates.lstm("n", "x", stored, "sigmoid", "tanh", "tanh")
    x, h, c, expected = np.random.default_rng(1).normal(size=(6, I)), np.zeros(H), np.zeros(H), []
    for x_t in x:
        s = {g: w @ x_t + u @ h + wb + rb for g, (w, u, wb, rb) in by_gate.items()}
        c = sigmoid(s["f"]) * c + sigmoid(s["i"]) * np.tanh(s["g"])
        h = sigmoid(s["o"]) * np.tanh(c)
        expected.append(h)
    np.testing.assert_allclose(reference.forward(node, x), expected, atol=1e-6)


@pytest.mark.parametrize("framework", ["keras", "onnx", "pytorch"])
@pytest.mark.parametrize("reset", ["before", "after"])
def test_a_gru_from_the_equations(framework: Any, reset: Any) -> None:
    stored, by_gate = cell(framework, "gru")
    node = gates.gru("n", "x", stored, reset, "sigmoid", "tanh")
    x, h, expected = np.random.default_rng(1).normal(size=(6, I)), np.zeros(H), []
    for x_t in x:
        z, r = (sigmoid(w @ x_t + u @ h + wb + rb) for w, u, wb, rb in (by_gate["z"], by_gate["r"]))
        w, u, wb, rb = by_gate["n"]
        inner = r * (u @ h + rb) if reset == "after" else u @ (r * h) + rb
        h = z * h + (1 - z) * np.tanh(w @ x_t + wb + inner)
        expected.append(h)
    np.testing.assert_allclose(reference.forward(node, x), expected, atol=1e-6)


def test_an_rnn_from_the_equations() -> None:
    stored, by_gate = cell("onnx", "rnn")
    w, u, wb, rb = by_gate["h"]
    x, h, expected = np.random.default_rng(1).normal(size=(6, I)), np.zeros(H), []
    for x_t in x:
        h = np.tanh(w @ x_t + u @ h + wb + rb)
        expected.append(h)
    node = gates.rnn("n", "x", stored, "tanh")
    np.testing.assert_allclose(reference.forward(node, x), expected, atol=1e-6)


def test_biases_as_each_framework_keeps_them() -> None:
    wb, rb = np.arange(4, dtype=np.float32), np.arange(4, 8, dtype=np.float32)
    np.testing.assert_array_equal(gates.onnx_biases(np.concatenate([wb, rb]), 4), (wb, rb))
    np.testing.assert_array_equal(gates.keras_biases(np.stack([wb, rb]), 4), (wb, rb))
    np.testing.assert_array_equal(gates.keras_biases(wb, 4), (wb, np.zeros(4)))


CURVES: dict[str, Any] = {
    "linear": lambda v: v,
    "relu": lambda v: np.where(v > 0, v, 0),
    "relu6": lambda v: np.minimum(np.where(v > 0, v, 0), 6),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softsign": lambda v: v / (1 + abs(v)),
    "silu": lambda v: v * sigmoid(v),
    "swish": lambda v: v * sigmoid(v),
    "elu": lambda v: np.where(v > 0, v, np.exp(v) - 1),
    "celu": lambda v: np.where(v > 0, v, np.exp(v) - 1),
    "selu": lambda v: 1.0507009873554805 * np.where(v > 0, v, 1.6732632423543772 * (np.exp(v) - 1)),
    "gelu": lambda v: 0.5 * v * (1 + np.vectorize(math.erf)(v / math.sqrt(2))),
    "softplus": lambda v: np.log(1 + np.exp(v)),
    "mish": lambda v: v * np.tanh(np.log(1 + np.exp(v))),
    "hard_silu": lambda v: v * np.clip(v / 6 + 0.5, 0, 1),
    "hard_swish": lambda v: v * np.clip(v / 6 + 0.5, 0, 1),
    "hard_tanh": lambda v: np.clip(v, -1, 1),
    "exponential": np.exp,
    "log_sigmoid": lambda v: -np.log(1 + np.exp(-v)),
}
HARD = {2: lambda v: np.clip(0.2 * v + 0.5, 0, 1), 3: lambda v: np.clip(v / 6 + 0.5, 0, 1)}
V = np.linspace(-9, 9, 181)


@pytest.mark.parametrize("major", [2, 3])
@pytest.mark.parametrize("name", gates.KERAS_ACTS)
def test_keras_activations_are_the_curves_of_their_manual(name: str, major: int) -> None:
    act = gates.keras_act(name, major)
    assert act in ACTS
    curve = HARD[major] if name == "hard_sigmoid" else CURVES[name]
    np.testing.assert_allclose(reference.activate(act, V), curve(V), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "alpha", "beta", "curve"),
    [
        ("Relu", 0, 0, CURVES["relu"]),
        ("TANH", 0, 0, np.tanh),
        ("sigmoid", 0, 0, sigmoid),
        ("Softsign", 0, 0, CURVES["softsign"]),
        ("Affine", 1, 0, CURVES["linear"]),
        ("HardSigmoid", 0.2, 0.5, HARD[2]),
        ("HardSigmoid", float(np.float32(1 / 6)), 0.5, HARD[3]),
        ("HardSigmoid", 0.25, 0.5, lambda v: np.clip(0.25 * v + 0.5, 0, 1)),
        ("HardSigmoid", 0.5, 0.25, lambda v: np.clip(0.5 * v + 0.25, 0, 1)),
        ("Affine", 2, -1, lambda v: 2 * v - 1),
        ("Elu", 1, 0, lambda v: np.where(v > 0, v, np.expm1(v))),
        ("Elu", 0.5, 0, lambda v: np.where(v > 0, v, 0.5 * np.expm1(v))),
        ("ScaledTanh", 1, 1, np.tanh),
        ("ScaledTanh", 1.5, 0.25, lambda v: 1.5 * np.tanh(0.25 * v)),
        ("LeakyRelu", 0.125, 0, lambda v: np.where(v > 0, v, 0.125 * v)),
        ("ThresholdedRelu", 2, 0, lambda v: np.where(v > 2, v, 0)),
        ("Softplus", 0, 0, lambda v: np.log1p(np.exp(v))),
    ],
)
def test_onnx_activations_are_the_curves_of_their_manual(
    name: str, alpha: float, beta: float, curve: Any
) -> None:
    act = gates.onnx_act(name, alpha, beta)
    assert act is not None
    np.testing.assert_allclose(reference.activate(act, V), curve(V), atol=1e-12)


@pytest.mark.parametrize("name", ["", "Gelu", "softmax"])
def test_onnx_activations_without_a_name_of_ours(name: str) -> None:
    assert gates.onnx_act(name, 0, 0) is None


def test_a_clip_comes_before_the_activation() -> None:
    assert gates.clipped("tanh", None) == gates.clipped("tanh", 0) == "tanh"
    act = gates.clipped("tanh", 2)
    np.testing.assert_allclose(reference.activate(act, V), np.tanh(np.clip(V, -2, 2)))
    assert gates.clipped("linear", 2) == "clip(-2.0, 2.0)"


@pytest.mark.parametrize("name", ["softmax", "glu", "sparsemax", "tanh_shrink", ""])
def test_keras_activations_without_a_name_of_ours(name: str) -> None:
    assert gates.keras_act(name, 3) is None
