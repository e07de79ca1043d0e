"""The layers around the cells, in ONNX: each against ONNX Runtime."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_rnn import reference
from edge_rnn.errors import EdgeRnnError, UnsupportedError
from edge_rnn.graph import AHEAD
from edge_rnn_converters.onnx import source
from edge_rnn_converters.source import Options, Source
from tests.converters.onnx_models import Graph, H, I, random

Make = Callable[[Graph, str], str]


def agrees(model: onnx.ModelProto, folder: Path, options: Options | None = None) -> Source:
    """The source read from the model, once its reference and ONNX Runtime are seen to agree within
    1e-5, or within that of a value above 1: random cells may grow without a bound."""
    onnx.save(model, folder / "m.onnx")
    read = source.read(folder / "m.onnx", "onnx", options or Options())
    steps = read.regime.window or 30
    x = np.random.default_rng(3).normal(size=(steps, read.model.input_width)).astype(np.float32)
    ahead = any(isinstance(n, AHEAD) for n in read.model.nodes)
    given, rows = read.run(x), reference.run(read.model, x)
    first, period = (0, 1) if ahead else read.model.schedule
    rows = rows[(given.steps - first) // period]
    scale = np.maximum(1, np.abs(rows))
    np.testing.assert_allclose(given.y / scale, rows / scale, rtol=0, atol=1e-5)
    return read


def kinds(read: Source) -> list[str]:
    return [node.OP for node in read.model.nodes]


def after_a_cell(make: Make) -> onnx.ModelProto:
    g = Graph(20)
    return g.model({"x": ["T", 1, I]}, [make(g, g.cell("GRU", "x")[0])])


def f32(value: float) -> np.ndarray:
    return np.array(value, np.float32)


ACTIVATIONS = ["Softplus", "Mish", "HardSwish", "Selu", "Elu", "Gelu", "LeakyRelu", "Exp", "Abs",
               "LogSoftmax", "Softmax", "Neg", "Relu", "Tanh"]  # fmt: skip


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind: str, tmp_path: Path) -> None:
    assert len(kinds(agrees(after_a_cell(lambda g, y: g(kind, y)), tmp_path))) == 2


LAYERS: dict[str, tuple[Make, list[str]]] = {
    "gelu by tanh": (lambda g, y: g("Gelu", y, approximate="tanh"), ["activation"]),
    "elu": (lambda g, y: g("Elu", y, alpha=0.3), ["activation"]),
    "hard sigmoid": (
        lambda g, y: g("HardSigmoid", y, alpha=0.3, beta=0.4),
        ["activation"],
    ),
    "clip": (
        lambda g, y: g("Clip", y, g.const(f32(-0.2)), g.const(f32(0.3))),
        ["activation"],
    ),
    "clip from below": (
        lambda g, y: g("Clip", y, g.const(f32(-0.2))), ["activation"]
    ),
    "clip from above": (
        lambda g, y: g("Clip", y, "", g.const(f32(0.2))), ["activation"]
    ),
    "max": (lambda g, y: g("Max", y, g.const(f32(0.1))), ["activation"]),
    "min": (lambda g, y: g("Min", g.const(f32(0.1)), y), ["activation"]),
    "prelu": (lambda g, y: g("PRelu", y, g.const(random(H))), ["prelu"]),
    "square": (lambda g, y: g("Pow", y, g.const(f32(2))), ["activation"]),
    "root": (lambda g, y: g("Sqrt", g("Abs", y)), ["activation", "activation"]),
    "log": (lambda g, y: g("Log", g("Exp", y)), ["activation", "activation"]),
    "sum": (lambda g, y: g("Add", y, g("Tanh", y)), ["activation", "add"]),
    "difference": (lambda g, y: g("Sub", y, g("Tanh", y)), ["activation", "scale", "add"]),
    "product": (lambda g, y: g("Mul", y, g("Sigmoid", y)), ["activation", "multiply"]),
    "one gate for all": (
        lambda g, y: g("Mul", y, g("Sigmoid", g("MatMul", y, g.const(random(H, 1))))),
        ["dense", "take", "multiply"],
    ),
    "side by side": (lambda g, y: g("Concat", y, g("Relu", y), axis=3), ["activation", "concat"]),
    "with a constant": (
        lambda g, y: g("Tanh", g("Concat", g("Slice", y, *cut(g, 1, 3)), g("Relu", y), axis=-1)),
        ["slice", "activation", "concat", "activation"],
    ),
    "glu": (
        lambda g, y: glu(g, g("MatMul", y, g.const(random(H, 8)))),
        ["dense", "slice", "slice", "activation", "multiply"],
    ),
    "parts of different sizes": (
        lambda g, y: g("Mul", *g("Split", y, g.const([2, 2, 1]), axis=3, outputs=3)[:2]),
        ["slice", "slice", "multiply"],
    ),
    "backwards features": (
        lambda g, y: g("Slice", y, *cut(g, -1, -(2**31)), g.const([-1])), ["take"]
    ),
    "some features": (lambda g, y: g("Gather", y, g.const([3, 1, 0]), axis=3), ["take"]),
    "padded features": (
        lambda g, y: g("Pad", y, g.const([0, 0, 0, 1, 0, 0, 0, 2]), g.const(f32(0.5))),
        ["take", "scale"],
    ),
    "reflected features": (
        lambda g, y: g("Pad", y, g.const([0, 0, 0, 1, 0, 0, 0, 2]), mode="reflect"), ["take"]
    ),
    "transposed features": (
        lambda g, y: g("Reshape", g("Transpose", g("Reshape", g("MatMul", y, g.const(
            random(H, 6))), g.const([0, 0, 2, 3])), perm=[0, 1, 3, 2]), g.const([0, 0, 6])),
        ["dense", "take"],
    ),
    "layer norm": (
        lambda g, y: g("LayerNormalization", y, g.const(random(H)), g.const(random(H))),
        ["layer_norm"],
    ),
    "l2 norm": (lambda g, y: g("LpNormalization", y, axis=3), ["l2_norm"]),
    "layer norm in pieces": (lambda g, y: layer_norm(g, y), ["layer_norm"]),
    "rms norm in pieces": (lambda g, y: g("Mul", y, g("Reciprocal", root(g, y))), ["rms_norm"]),
    "l2 norm in pieces": (
        lambda g, y: g("Div", y, g("Clip", g("ReduceL2", y, g.const([-1])), g.const(f32(1e-12)))),
        ["l2_norm"],
    ),
    "PyTorch's normalize": (
        lambda g, y: g("Div", y, g("Expand", g("Clip", g("ReduceL2", y, g.const([-1])), g.const(
            f32(1e-12))), g("Shape", y))),
        ["l2_norm"],
    ),
}  # fmt: skip


def cut(g: Graph, start: int, stop: int) -> tuple[str, str, str]:
    return g.const([start]), g.const([stop]), g.const([3])


def glu(g: Graph, y: str) -> str:
    a, b = g("Split", y, axis=3, outputs=2, num_outputs=2)
    return g("Mul", a, g("Sigmoid", b))


def root(g: Graph, y: str) -> str:
    mean = g("ReduceMean", g("Mul", y, y), g.const([-1]))
    return g("Sqrt", g("Add", mean, g.const(f32(1e-6))))


def layer_norm(g: Graph, y: str) -> str:
    centred = g("Sub", y, g("ReduceMean", y, g.const([-1])))
    mean = g("ReduceMean", g("Pow", centred, g.const(f32(2))), g.const([-1]))
    normal = g("Div", centred, g("Sqrt", g("Add", mean, g.const(f32(1e-5)))))
    return g("Add", g("Mul", normal, g.const(random(H))), g.const(random(H, seed=3)))


@pytest.mark.parametrize(("make", "nodes"), LAYERS.values(), ids=LAYERS)
def test_layers_after_a_cell(make: Make, nodes: list[str], tmp_path: Path) -> None:
    assert kinds(agrees(after_a_cell(make), tmp_path)) == ["gru", *nodes]


REDUCTIONS = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"]


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions_over_features(kind: str, keep: int, tmp_path: Path) -> None:
    agrees(after_a_cell(lambda g, y: g(kind, y, g.const([3]), keepdims=keep)), tmp_path)


def test_two_inputs_side_by_side(tmp_path: Path) -> None:
    g = Graph()
    y = g.cell("GRU", g("Concat", "x", "z", axis=2), width=I + 2)[0]
    read = agrees(g.model({"x": ["T", 1, I], "z": ["T", 1, 2]}, [y]), tmp_path)
    assert [(i.name, i.width) for i in read.model.inputs] == [("x", I), ("z", 2)]


def test_two_outputs_side_by_side(tmp_path: Path) -> None:
    g = Graph()
    y = g.cell("GRU", "x")[0]
    classes = g("Softmax", g("MatMul", y, g.const(random(H, 3))))
    read = agrees(g.model({"x": ["T", 1, I]}, [g("Tanh", y), classes]), tmp_path)
    assert read.model.output_width == H + 3


def test_outputs_of_every_step_and_of_the_last_do_not_go_together(tmp_path: Path) -> None:
    g = Graph()
    y, h = g.cell("GRU", "x")
    model = g.model({"x": ["T", 1, I]}, [g("Tanh", y), g("Relu", h)])
    with pytest.raises(UnsupportedError, match="some are of every step"):
        agrees(model, tmp_path)


def branches(g: Graph, y: str) -> dict[str, onnx.GraphProto]:
    def graph(name: str, kind: str) -> onnx.GraphProto:
        node = onnx.helper.make_node(kind, [y], [name])
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph([node], name, [], [value])

    return {"then_branch": graph("then", "Tanh"), "else_branch": graph("else", "Relu")}


def test_a_rate_that_only_chooses(tmp_path: Path) -> None:
    g = Graph()
    y = g.cell("GRU", "x")[0]
    y = g("If", g("Equal", "sr", g.const(16000)), **branches(g, y))
    types = {"sr": onnx.TensorProto.INT64}
    model = g.model({"x": ["T", 1, I], "sr": []}, [y], types)
    read = agrees(model, tmp_path)
    assert "'sr' is taken to be 16000" in read.notes[0]
    assert read.model.nodes[-1].act == "tanh"  # type: ignore[attr-defined]
    other = agrees(model, tmp_path, Options(inputs={"sr": 8000}))
    assert other.model.nodes[-1].act == "relu" and not other.notes  # type: ignore[attr-defined]


def test_a_choice_by_the_stream_itself(tmp_path: Path) -> None:
    g = Graph()
    y = g.cell("GRU", "x")[0]
    y = g("If", "on", **branches(g, y), name="a")
    model = g.model({"x": ["T", 1, I], "on": [1]}, [y], {"on": onnx.TensorProto.BOOL})
    with pytest.raises(UnsupportedError, match=r"input 'on': bool|If 'a': cond: depends"):
        agrees(model, tmp_path)


def test_a_state_that_no_cell_keeps_is_refused(tmp_path: Path) -> None:
    """Run alone, it would forget."""
    g = Graph()
    h = g("Mul", g("Tanh", g("MatMul", "x", g.const(random(I, H)))),
          g("MatMul", "h", g.const(random(H, H))))  # fmt: skip
    with pytest.raises(UnsupportedError, match="no cell has these equations"):
        agrees(g.model({"x": [1, I], "h": [1, H]}, [g("Relu", h), h]), tmp_path)


BOMBS: dict[str, Make] = {
    "repeated": lambda g, y: g("Tile", y, g.const([1, 1, 1, 1 << 40])),
    "expanded": lambda g, y: g("Expand", g("Unsqueeze", y, g.const([4])),
                               g.const([1, 1, 1, 1, 1 << 40])),
    "padded": lambda g, y: g("Pad", y, g.const([0, 0, 0, 1 << 40, 0, 0, 0, 0])),
    "gathered": lambda g, y: g("Gather", g("Reshape", g("Gather", y, g.const(np.zeros(9000, int)),
                               axis=3), g.const([0, 0, 0, 3000, 3])),
                               g.const(np.zeros(8000, int)), axis=4),
    "spread": lambda g, y: g("Mul", g("Gather", y, g.const(np.zeros((9000, 1), int)), axis=3),
                             g.const(np.ones(9000, np.float32))),
    "dilated": lambda g, y: g("Conv", g("Transpose", y, perm=[0, 1, 3, 2]), g.const(
        random(9, 1, H, 2)), dilations=[1, 1 << 40], pads=[0, 0, 0, 1 << 40]),
}  # fmt: skip


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_no_memory_is_taken_for_what_is_too_large(make: Make, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(EdgeRnnError):
            agrees(after_a_cell(make), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 29
    finally:
        tracemalloc.stop()
