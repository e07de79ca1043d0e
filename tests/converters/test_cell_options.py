"""What few cells have, against the frameworks that define it: ONNX's clip, alpha and beta, and
TFLite's clips and the bias of its projection."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from onnx import helper, numpy_helper

from edge_rnn import Session, reference
from edge_rnn.graph import F32, CoupledLstm, Input, Lstm, Matrix, Model, Node
from edge_rnn_converters import gates
from edge_rnn_converters.peers.litert_file import Graph

I, H, T = 3, 4, 40
BLOCKS = {"RNN": 1, "GRU": 3, "LSTM": 4}
USUAL = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
NUMBERS: dict[str, tuple[float, ...]] = {
    "Affine": (0.5, 0.3),
    "Elu": (0.7,),
    "HardSigmoid": (0.3, 0.4),
    "LeakyRelu": (0.3,),
    "ScaledTanh": (1.7, 0.6),
    "ThresholdedRelu": (0.4,),
    "Softplus": (),
    "Softsign": (),
    "Relu": (),
}
X = np.random.default_rng(5).normal(0, 2, (T, 1, I)).astype(np.float32)


def cell(kind: str, seed: int = 0) -> dict[str, F32]:
    """W, R, B and P as ONNX has them; not so large that a linear cell explodes."""
    rng, k = np.random.default_rng(seed), BLOCKS[kind]
    shapes = {"W": (1, k * H, I), "R": (1, k * H, H), "B": (1, 2 * k * H), "P": (1, 3 * H)}
    return {n: rng.normal(0, 0.4, s).astype(np.float32) for n, s in shapes.items()}


def onnx_run(kind: str, arrays: dict[str, F32], steps: int = T, **attributes: Any) -> F32:
    """ONNX Runtime's outputs (steps, H)."""
    names = ["X", "W", "R", "B", *(["", "", "", "P"] if "P" in arrays else [])]
    node = helper.make_node(kind, names, ["Y"], hidden_size=H, **attributes)
    held = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    x, y = (
        helper.make_tensor_value_info(n, 1, s)
        for n, s in (("X", (steps, 1, I)), ("Y", (steps, 1, 1, H)))
    )
    graph = helper.make_graph([node], "cell", [x], [y], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    result: F32 = session.run(None, {"X": X[:steps]})[0][:, 0, 0]
    return result


def ours(kind: str, arrays: dict[str, F32], clip: float, names: list[str], after: bool) -> Node:
    """The same cell as a node, by the converters' table."""
    w, u, b = (arrays[n][0] for n in "WRB")
    stored = gates.Cell("onnx", w, u, *gates.onnx_biases(b, len(w)))
    acts = []
    for k, name in enumerate(names):
        act = gates.onnx_act(name, *(*NUMBERS.get(name, ()), 0, 0)[:2])
        assert act is not None
        acts.append(act if k == 2 else gates.clipped(act, clip))
    if kind == "RNN":
        return gates.rnn("y", "x", stored, *acts)
    if kind == "GRU":
        return gates.gru("y", "x", stored, "after" if after else "before", *acts)
    node = gates.lstm("y", "x", stored, *acts)
    if "P" not in arrays:
        return node
    i, o, f = arrays["P"][0].reshape(3, H)
    return dataclasses.replace(node, peephole=np.concatenate([i, f, o]))


def agree(node: Node, expected: F32) -> None:
    """The runtime and the reference give the framework's outputs."""
    model = Model((Input("x", I),), (node,), ("y",))
    x, limit = X[: len(expected), 0], 1e-5 * max(1, float(np.abs(expected).max()))
    np.testing.assert_allclose(reference.run(model, x), expected, rtol=0, atol=limit)
    np.testing.assert_allclose(Session(model).run("a", x), expected, rtol=0, atol=limit)


CASES = [("RNN", {}), ("GRU", {"linear_before_reset": 0}), ("GRU", {"linear_before_reset": 1}),
         ("LSTM", {})]  # fmt: skip


@pytest.mark.parametrize("clip", [0.2, 0.7, 2.0])
@pytest.mark.parametrize(("kind", "form"), CASES)
def test_clip_is_onnx_runtimes(kind: str, form: dict[str, int], clip: float) -> None:
    arrays = cell(kind)
    if kind != "LSTM":
        del arrays["P"]
    node = ours(kind, arrays, clip, USUAL[kind], bool(form.get("linear_before_reset")))
    agree(node, onnx_run(kind, arrays, clip=clip, **form))
    free = ours(kind, arrays, 0, USUAL[kind], bool(form.get("linear_before_reset")))
    assert np.abs(onnx_run(kind, arrays, **form) - onnx_run(kind, arrays, clip=clip, **form)).max()
    agree(free, onnx_run(kind, arrays, **form))


@pytest.mark.parametrize("clip", [0.3, 2.0])
def test_clip_of_a_coupled_lstm_is_onnx_runtimes(clip: float) -> None:
    arrays = cell("LSTM")
    whole = ours("LSTM", arrays, clip, USUAL["LSTM"], after=False)
    assert isinstance(whole, Lstm) and whole.peephole is not None
    kept = np.r_[0:H, 2 * H : 4 * H]
    node = CoupledLstm(
        *("y", "x", Matrix(whole.w.data[kept]), Matrix(whole.u.data[kept]), whole.b[kept]),
        *(whole.gate, whole.cell, whole.hidden),
        peephole=whole.peephole[np.r_[0:H, 2 * H : 3 * H]],
    )
    agree(node, onnx_run("LSTM", arrays, clip=clip, input_forget=1))


@pytest.mark.parametrize("clip", [0, 0.5])
@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(("kind", "form"), CASES)
def test_activations_are_onnx_runtimes(
    kind: str, form: dict[str, int], name: str, clip: float
) -> None:
    """In the place of each activation of the cell, with numbers that are none's default; for a few
    steps, as gates without a bound soon leave none to the numbers."""
    arrays = cell(kind, seed=1)
    del arrays["P"]
    for place in range(len(USUAL[kind])):
        names = list(USUAL[kind])
        names[place] = name
        given = (*NUMBERS[name], None, None)
        attributes: dict[str, Any] = {"activations": names, **form}
        for k, key in enumerate(("activation_alpha", "activation_beta")):
            attributes |= {key: [given[k]]} if given[k] is not None else {}
        attributes |= {"clip": clip} if clip else {}
        node = ours(kind, arrays, clip, names, bool(form.get("linear_before_reset")))
        agree(node, onnx_run(kind, arrays, steps=6, **attributes))


def litert_run(arrays: dict[str, F32 | None], cell_clip: float, projection_clip: float) -> F32:
    """LiteRT's outputs (T, R) of a fused LSTM: its 24 inputs by place, states among them."""
    graph = Graph()
    x = graph.tensor((T, 1, I))
    R = len(arrays["projection"]) if arrays["projection"] is not None else H
    states = [graph.tensor((1, R)), graph.tensor((1, H))]
    held = [-1 if a is None else graph.constant(a) for a in arrays.values()]
    for state in states:
        graph._graph.tensors[state].isVariable = True
    y = graph.tensor((T, 1, R))
    graph.op("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *held, *states, -1, -1, -1, -1], [y])
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    options.cellClip, options.projClip, options.timeMajor = cell_clip, projection_clip, True
    operator = graph._graph.operators[-1]
    operator.builtinOptionsType = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
    operator.builtinOptions = options
    interpreter = Interpreter(model_content=graph.file([x], [y]))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], X)
    interpreter.invoke()
    result: F32 = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[:, 0]
    return result


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("cell_clip", [0, 0.25])
@pytest.mark.parametrize("projection_clip", [0, 0.2])
def test_clips_are_litert_s(
    peephole: bool, projection: bool, cell_clip: float, projection_clip: float
) -> None:
    rng, R = np.random.default_rng(3), 2 if projection else H
    node = Lstm(
        "y",
        "x",
        *(Matrix(rng.normal(0, 1, (4 * H, n)).astype(np.float32)) for n in (I, R)),
        rng.normal(0, 1, 4 * H).astype(np.float32),
        peephole=rng.normal(0, 1, 3 * H).astype(np.float32) if peephole else None,
        projection=Matrix(rng.normal(0, 1, (R, H)).astype(np.float32)) if projection else None,
        projection_bias=rng.normal(0, 0.3, R).astype(np.float32) if projection else None,
        cell_clip=np.float32([cell_clip]) if cell_clip else None,
        projection_clip=np.float32([projection_clip]) if projection_clip and projection else None,
    )
    looks = [None] * 3 if node.peephole is None else list(node.peephole.reshape(3, H))
    parts = [*np.split(node.w.data, 4), *np.split(node.u.data, 4), *looks, *np.split(node.b, 4)]
    # LiteRT's order is i, f, g (which it calls c), o, as ours.
    arrays: dict[str, F32 | None] = {str(k): a for k, a in enumerate(parts)}
    arrays["projection"] = None if node.projection is None else node.projection.data
    arrays["bias"] = node.projection_bias
    agree(node, litert_run(arrays, cell_clip, projection_clip))
