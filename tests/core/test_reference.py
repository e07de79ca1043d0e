"""The reference itself, judged by real frameworks: PyTorch's recorded runs, ONNX Runtime, Keras."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_rnn import reference
from edge_rnn.graph import (
    CoupledLstm,
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Lru,
    Lstm,
    Matrix,
    MinGru,
    Node,
    NormLstm,
    PRelu,
    RmsNorm,
    Rnn,
    Softmax,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "torch.npz"
with np.load(GOLDEN) as arrays:
    TORCH = dict(arrays)
X = TORCH["x"].astype(np.float64)
ACTIVATIONS = [
    *("relu", "relu6", "tanh", "sigmoid", "softsign", "silu", "hard_sigmoid_relu6", "elu", "selu"),
    *("gelu", "gelu_tanh", "softplus", "mish", "hard_swish", "hard_tanh", "exponential"),
    "log_sigmoid",
]
H = 6


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_are_pytorchs(act: str) -> None:
    # PyTorch's softplus cuts off at 20 and its selu has constants of its own digits.
    np.testing.assert_allclose(reference.activate(act, X), TORCH[f"{act}/y"], rtol=1e-8, atol=1e-14)


def layer_norm() -> Node:
    return LayerNorm("y", "x", *(TORCH[f"layer_norm/{f}"] for f in ("gain", "bias")), epsilon=1e-3)


def lstm() -> Node:
    w, u, b1, b2, p = (
        TORCH[f"lstm/{f}_l0"] for f in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    )
    return Lstm("y", "x", Matrix(w), Matrix(u), b1 + b2, projection=Matrix(p))


def rnn() -> Node:
    w, u, b1, b2 = (TORCH[f"rnn/{f}_l0"] for f in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    return Rnn("y", "x", Matrix(w), Matrix(u), b1 + b2, act="relu")


def min_gru() -> Node:
    w = TORCH["min_gru/to_hidden_and_gate.weight"]
    n, z = np.split(w, 2)
    b = np.zeros(len(w), np.float32)
    return MinGru("y", "x", Matrix(np.concatenate([z, n])), b, candidate="min_gru")


def lru() -> Node:
    nu, theta, gamma = (TORCH[f"lru/{f}_log"].astype(np.float64) for f in ("nu", "theta", "gamma"))
    place = np.exp(-np.exp(nu) + 1j * np.exp(theta)).astype(np.complex64)
    b, c = (np.exp(gamma)[:, None] * TORCH["lru/B"]).astype(np.complex64), TORCH["lru/C"]
    parts = (Matrix(a) for a in (b.real, b.imag, c.real, c.imag))
    return Lru("y", "x", place.real, place.imag, *parts, d=Matrix(TORCH["lru/D"]))


def norm_lstm() -> Node:
    d = {name: TORCH[f"norm_lstm/{name}"] for name in ("w", "u", "x_gain", "x_bias", "h_gain")}
    return NormLstm(
        "y",
        "x",
        w=Matrix(d["w"]),
        u=Matrix(d["u"]),
        b=d["x_bias"] + TORCH["norm_lstm/h_bias"],
        gain=d["x_gain"],
        recurrent_gain=d["h_gain"],
        cell_norm=np.concatenate([TORCH[f"norm_lstm/c_{f}"] for f in ("gain", "bias")]),
        carried="normalised",
    )


LAYERS = {
    "layer_norm": layer_norm,
    "rms_norm": lambda: RmsNorm("y", "x", TORCH["layer_norm/gain"], epsilon=1e-3),
    "l2_norm": lambda: L2Norm("y", "x"),
    "softmax": lambda: Softmax("y", "x"),
    "log_softmax": lambda: LogSoftmax("y", "x"),
    "prelu": lambda: PRelu("y", "x", TORCH["prelu/slope"]),
    "lstm": lstm,
    "rnn": rnn,
    "min_gru": min_gru,
    "lru": lru,
    "norm_lstm": norm_lstm,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_pytorchs(name: str) -> None:
    # What is folded here (two biases, lambda, gamma) is rounded to float32 once more.
    folded = name in ("lstm", "rnn", "lru", "norm_lstm")
    y = reference.forward(LAYERS[name](), X)
    np.testing.assert_allclose(y, TORCH[f"{name}/y"], atol=2e-6 if folded else 1e-12)


def onnx_lstm(arrays: dict[str, np.ndarray], **attributes: int) -> np.ndarray:
    """ONNX Runtime's LSTM over X, weights in its order i, o, f, c."""
    names = ["X", "W", "R", "B", "", "", "", "P"][: 8 if "P" in arrays else 4]
    node = helper.make_node("LSTM", names, ["Y"], hidden_size=H, **attributes)
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1, X.shape[1]])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(a[None], name) for name, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"X": X.astype(np.float32)[:, None]})[0][:, 0, 0]


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("coupled", [False, True])
def test_peepholes_and_coupled_gates_are_onnx_runtimes(coupled: bool, peephole: bool) -> None:
    rng = np.random.default_rng(0)
    i, o, f, g = rng.normal(0, 0.4, (4, H, X.shape[1] + H + 2)).astype(np.float32)
    p = dict(zip("iof", rng.normal(0, 0.4, (3, H)).astype(np.float32), strict=True))
    rows = np.concatenate([i, o, f, g])
    w, u, b = np.split(rows, [X.shape[1], X.shape[1] + H], axis=1)
    arrays = {"W": w, "R": u, "B": np.concatenate([b[:, 0], b[:, 1]])}
    arrays |= {"P": np.concatenate(list(p.values()))} if peephole else {}
    expected = onnx_lstm(arrays, input_forget=int(coupled))
    cls = CoupledLstm if coupled else Lstm
    ours = np.concatenate([i, g, o] if coupled else [i, f, g, o])
    w, u, b = np.split(ours, [X.shape[1], X.shape[1] + H], axis=1)
    looking = cls.GATES.replace("g", "")
    node = cls(
        "y",
        "x",
        Matrix(w),
        Matrix(u),
        b.sum(axis=1),
        peephole=np.concatenate([p[k] for k in looking]) if peephole else None,
    )
    np.testing.assert_allclose(reference.forward(node, X), expected, atol=2e-6)


KERAS_ACTIVATIONS = {
    **{name: name for name in ("elu", "selu", "gelu", "softplus", "mish", "exponential", "silu")},
    **{name: name for name in ("hard_tanh", "log_sigmoid", "softsign", "relu6", "sigmoid", "tanh")},
    "hard_swish": "hard_silu",
    "hard_sigmoid_relu6": "hard_sigmoid",
}


@pytest.mark.parametrize("act", [*KERAS_ACTIVATIONS, "gelu_tanh"])
def test_activations_are_keras(act: str) -> None:
    x = X.astype(np.float32)
    if act == "gelu_tanh":
        y = keras.activations.gelu(x, approximate=True)
    elif act == "gelu":
        y = keras.activations.gelu(x, approximate=False)
    else:
        y = keras.activations.get(KERAS_ACTIVATIONS[act])(x)
    np.testing.assert_allclose(reference.activate(act, X), np.asarray(y), rtol=1e-5, atol=1e-6)


def test_norms_are_keras() -> None:
    rng = np.random.default_rng(0)
    gain, bias = rng.normal(1, 0.5, (2, X.shape[1])).astype(np.float32)
    layers = keras.layers
    for node, layer, weights in (
        (
            LayerNorm("y", "x", gain, bias, epsilon=0.25),
            layers.LayerNormalization(epsilon=0.25),
            [gain, bias],
        ),
        (
            RmsNorm("y", "x", gain, epsilon=0.25),
            layers.RMSNormalization(epsilon=0.25),
            [gain],
        ),
        (L2Norm("y", "x"), layers.UnitNormalization(), []),
    ):
        layer.build(X.shape)
        layer.set_weights(weights)
        y = np.asarray(layer(X.astype(np.float32)))
        np.testing.assert_allclose(reference.forward(node, X), y, atol=2e-6)
