"""What of ONNX is refused: the message names the operator and the attribute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_rnn_converters.refused import ONNX_CELL_REFUSED, ONNX_REFUSED
from edge_rnn_converters.tensors.execute import OPERATORS
from tests.converters.onnx_models import Graph, H, I, random
from tests.converters.runtime import refusal


def onnx_refusal(model: onnx.ModelProto, folder: Path) -> str:
    onnx.save(model, folder / "m.onnx")
    return refusal(folder / "m.onnx")


@pytest.mark.parametrize("kind", [*ONNX_REFUSED, "Erf", "Cos"])
def test_onnx_operators_refused_by_name(kind: str, tmp_path: Path) -> None:
    g = Graph()
    model = g.model({"x": ["T", 1, I]}, [g(kind, g.cell("GRU", "x")[0], name="it")])
    assert onnx_refusal(model, tmp_path).startswith(f"{kind} 'it': operator: ")


def test_onnx_operators_of_other_domains(tmp_path: Path) -> None:
    g = Graph()
    y = g("Attention", "x", name="q", domain="com.microsoft")
    message = onnx_refusal(g.model({"x": ["T", 1, I]}, [y], domains=("com.microsoft",)), tmp_path)
    assert message.startswith("com.microsoft.Attention 'q': operator")


CELL_ATTRIBUTES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "sequence_lens": ("GRU", ["", "lengths"], {}),
}


@pytest.mark.parametrize("attribute", ONNX_CELL_REFUSED)
def test_onnx_cell_attributes(attribute: str, tmp_path: Path) -> None:
    kind, more, attrs = CELL_ATTRIBUTES[attribute]
    g = Graph()
    constants = {"lengths": g.const([7], np.int32)}
    y = g.cell(kind, "x", *(constants.get(m, m) for m in more or [""]), **attrs)[0]
    message = onnx_refusal(g.model({"x": ["T", 1, I]}, [y]), tmp_path)
    assert message.startswith(f"{kind} '/{kind}_") and f"': {attribute}" in message


Wrap = Callable[[Graph], str]


def cell(g: Graph, *more: str, **attrs: Any) -> str:
    return g.cell("GRU", "x", *more, **attrs)[0]


GRAPHS: dict[str, tuple[Wrap, str]] = {
    "upside down clip": (
        lambda g: g("Clip", cell(g), g.const(np.float32(1)), g.const(np.float32(-1)), name="a"),
        "Clip 'a': min=1.0, max=-1.0: leaves a single number",
    ),
    "one over another": (
        lambda g: g("Div", cell(g), cell(g), name="a"),
        "Div 'a': inputs: it divides one value by another",
    ),
    "a choice by the stream": (
        lambda g: g("Where", g("Greater", cell(g), g.const(np.float32(0)), name="a"), cell(g),
                    cell(g)),
        "Greater 'a': inputs: depend on the stream",
    ),
    "cube": (
        lambda g: g("Pow", cell(g), g.const(np.float32(3)), name="a"),
        "Pow 'a': exponent 3.0",
    ),
    "mean of the batch": (
        lambda g: g("ReduceMean", cell(g), name="a", axes=[2]),
        "ReduceMean 'a': axes: it runs over",
    ),
    "norm over a part": (
        lambda g: g(
            "LayerNormalization",
            g("Reshape", g("MatMul", cell(g), g.const(random(H, 6))), g.const([0, 0, 0, 2, 3])),
            g.const(random(3)),
            name="a",
        ),
        "LayerNormalization 'a': axis",
    ),
    "states apart in a batch": (
        lambda g: cell(g, "", "", g.const(random(1, 2, H))),
        "GRU '/GRU_4': initial_h: is no constant that is the same for all of a batch",
    ),
    "softmax over time": (
        lambda g: g("Softmax", cell(g), name="a", axis=0),
        "Softmax 'a': axes: axis 0 of 'x' is time and can't be features",
    ),
    "one over x": (
        lambda g: g("Div", g.const(random(1)), cell(g), name="a"),
        "Div 'a': inputs: it divides by the stream",
    ),
    "constant per step": (
        lambda g: g("Mul", cell(g), g.const(random(7, 1, 1, 1)), name="a"),
        "Mul 'a': axes: axis 0 of 'x' is time and can't be features",
    ),
    "weights times x": (
        lambda g: g("MatMul", g.const(random(4, 1)), cell(g), name="a"),
        "MatMul 'a': first input",
    ),
    "transposed Gemm": (
        lambda g: g("Gemm", g("Squeeze", cell(g), g.const([1, 2])), g.const(random(H, 2)),
                    name="a", transA=1),
        "Gemm 'a': transA=1",
    ),
    "time as batch": (
        lambda g: g.cell("GRU", g("Transpose", g("Squeeze", cell(g), g.const([1])),
                                  perm=[1, 0, 2]), width=H)[0],
        "GRU '/GRU_11': axes: axis 1 of 'x' is batch and can't be time too",
    ),
    "middle step": (
        lambda g: g("Gather", cell(g), g.const(3), name="a", axis=0),
        "Gather 'a': axes: index 3 of [axis 0 of 'x'] is not the last step",
    ),
    "some steps": (
        lambda g: g("Slice", cell(g), g.const([1]), g.const([5]), g.const([0]), name="a"),
        "Slice 'a': axes: 1:5 of",
    ),
    "squeeze of who knows": (
        lambda g: g("Squeeze", cell(g), name="a"),
        "Squeeze 'a': axes: it names no axes",
    ),
    "squeezed time": (
        lambda g: g("Squeeze", cell(g), g.const([0]), name="a"),
        "Squeeze 'a': axes: axis 0 of 'x' is time and can't be batch too",
    ),
    "features merged with steps": (
        lambda g: g("MatMul", g("Reshape", cell(g), g.const([1, -1])), g.const(random(H, 2)),
                    name="a"),
        "MatMul 'a': axes: how many axis 0",
    ),
    "guessed reshape": (
        lambda g: g("Reshape", cell(g), g.const([7, H]), name="a"),
        "Reshape 'a': axes: whether axis 0 of 'x' has 7 elements",
    ),
    "transposed by a reshape": (
        lambda g: g(
            "Reshape",
            g("Squeeze", cell(g), g.const([1])),
            g("Gather", g("Shape", "x"), g.const([1, 0, 2])),
            name="a",
        ),
        "Reshape 'a': axes: the axes [axis 1 of 'x'] are not next to each other there",
    ),
    "half precision": (
        lambda g: g("Cast", cell(g), name="a", to=onnx.TensorProto.FLOAT16),
        "Cast 'a': to float16",
    ),
    "double weights": (
        lambda g: g("MatMul", cell(g), g.const(random(H, 2), np.float64), name="a"),
        "MatMul 'a': second input of float64",
    ),
    "computed weights": (
        lambda g: g("MatMul", cell(g), cell(g), name="a"),
        "MatMul 'a': second input",
    ),
    "training": (
        lambda g: g("Dropout", cell(g), g.const(np.float32(0.5)), g.const(True), name="a"),
        "Dropout 'a': training_mode",
    ),
    "the input itself": (lambda g: g("Identity", "x"), "model: output"),
    "a constant": (lambda g: g("Identity", g.const(random(2))), "model: outputs"),
    "decoder": (
        lambda g: g.cell("GRU", g.cell("GRU", "x")[1], width=H)[0],
        "GRU '/GRU_8': X: it reads the one last step",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "names"), GRAPHS.values(), ids=GRAPHS)
def test_onnx_graphs(make: Wrap, names: str, tmp_path: Path) -> None:
    g = Graph()
    model = g.model({"x": ["T", "B", I]}, [make(g)])
    assert onnx_refusal(model, tmp_path).startswith(names)


def test_onnx_softmax_before_operator_set_13(tmp_path: Path) -> None:
    g = Graph(11)
    y = g("Squeeze", g.cell("GRU", "x")[0], axes=[1])
    message = onnx_refusal(g.model({"x": ["T", "B", I]}, [g("Softmax", y, name="a")]), tmp_path)
    assert message.startswith("Softmax 'a': axis=1: before operator set 13")


@pytest.mark.parametrize(
    ("inputs", "dtypes", "names"),
    [
        ({"x": ["T", 1, I], "sr": []}, {}, "input 'sr': value: is a single number"),
        ({"x": ["T", 1, I]}, {"x": onnx.TensorProto.DOUBLE}, "input 'x': float64"),
        ({"x": ["T", 1, I]}, {"x": onnx.TensorProto.INT64}, "GRU '/GRU_4': input: integers"),
        ({"x": None}, {}, "input 'x': type"),
    ],
)
def test_onnx_inputs(inputs: Any, dtypes: Any, names: str, tmp_path: Path) -> None:
    g = Graph()
    model = g.model(inputs, [g.cell("GRU", "x")[0]], dtypes)
    assert onnx_refusal(model, tmp_path).startswith(names)


def test_an_old_operator_set(tmp_path: Path) -> None:
    g = Graph(6)
    message = onnx_refusal(g.model({"x": ["T", 1, I]}, [g("Relu", "x")]), tmp_path)
    assert message.startswith("m.onnx: operator set 6")


def test_nothing_is_both_supported_and_refused() -> None:
    assert not set(OPERATORS) & set(ONNX_REFUSED)
