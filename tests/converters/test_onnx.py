"""ONNX graphs against ONNX Runtime, and against onnx's own reference where that computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edge_rnn_converters import convert, convert_with_report
from tests.converters.onnx_models import Graph, H, I, T, answer, inputs, random
from tests.converters.runtime import run

CELLS = ["RNN", "GRU", "LSTM"]
SIXTH = float(np.float32(1 / 6))


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def check(model: onnx.ModelProto, folder: Path, tolerance: float = 1e-5) -> None:
    """A graph (T, 1, I) -> (T, ..., O): the runtime against ONNX Runtime on all steps."""
    x = inputs()
    expected = answer(model, x=x[:, None])[0].reshape(T, -1)
    y = run(saved(model, folder), x, check="require")
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


def cell_model(kind: str, *more: str, graph: Graph | None = None, **attrs: Any) -> onnx.ModelProto:
    g = graph or Graph()
    y = g.cell(kind, "x", *more, **attrs)[0]
    return g.model({"x": ["T", 1, I]}, [y])


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 22])
@pytest.mark.parametrize("kind", CELLS)
def test_each_cell_in_each_operator_set(kind: str, opset: int, tmp_path: Path) -> None:
    check(cell_model(kind, graph=Graph(opset)), tmp_path)


@pytest.mark.parametrize("kind", CELLS)
def test_each_cell_against_the_reference_evaluator(kind: str, tmp_path: Path) -> None:
    model = cell_model(kind)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": inputs()[:, None]})
    y = run(saved(model, tmp_path), inputs())
    np.testing.assert_allclose(y, expected.reshape(T, H), atol=1e-5)


@pytest.mark.parametrize("linear_before_reset", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_where_a_gru_resets(linear_before_reset: int, bias: bool, tmp_path: Path) -> None:
    g = Graph()
    more = [] if bias else [""]
    check(cell_model("GRU", *more, graph=g, linear_before_reset=linear_before_reset), tmp_path)


@pytest.mark.parametrize(
    "attrs",
    [
        {"activations": ["Relu"]},
        {"activations": ["Sigmoid"]},
        {"activations": ["Softsign"]},
        {"activations": ["HardSigmoid"]},
        {"activations": ["HardSigmoid"], "activation_alpha": [0.2], "activation_beta": [0.5]},
        {"activations": ["HardSigmoid"], "activation_alpha": [SIXTH], "activation_beta": [0.5]},
        {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]},
    ],
    ids=lambda a: "-".join(map(str, (*a["activations"], *a.get("activation_alpha", ())))),
)
def test_activations_of_an_rnn(attrs: dict[str, Any], tmp_path: Path) -> None:
    g = Graph()
    w, r = g.const(random(1, H, I)), g.const(random(1, H, H, scale=0.2))
    y, _ = g("RNN", "x", w, r, outputs=2, hidden_size=H, **attrs)
    check(g.model({"x": ["T", 1, I]}, [y]), tmp_path)


@pytest.mark.parametrize(
    ("kind", "attrs"),
    [
        ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Relu"],
                  "activation_alpha": [SIXTH], "activation_beta": [0.5]}),
        ("LSTM", {"activations": ["Sigmoid", "HardSigmoid", "HardSigmoid"],
                  "activation_alpha": [0.2, SIXTH], "activation_beta": [0.5, 0.5]}),
        ("GRU", {"activations": ["HardSigmoid", "HardSigmoid"],
                 "activation_alpha": [SIXTH, 0.2], "activation_beta": [0.5, 0.5]}),
        ("GRU", {"activations": ["HardSigmoid", "Softsign"]}),
    ],
)  # fmt: skip
def test_parameters_go_to_the_activations_that_take_them(
    kind: str, attrs: dict[str, Any], tmp_path: Path
) -> None:
    check(cell_model(kind, **attrs), tmp_path)


@pytest.mark.parametrize("kind", CELLS)
def test_layout_1_is_layout_0_with_its_axes_elsewhere(kind: str, tmp_path: Path) -> None:
    """ONNX Runtime does not run layout 1, so the same weights in layout 0 tell."""
    y0 = run(saved(cell_model(kind), tmp_path), inputs())
    g = Graph()
    y = g.cell(kind, "x", layout=1)[0]  # (B, T, 1, H)
    model = g.model({"x": ["B", "T", I]}, [g("Squeeze", y, g.const([2]))])
    np.testing.assert_array_equal(run(saved(model, tmp_path), inputs()), y0)


def test_layers_around_a_cell(tmp_path: Path) -> None:
    g = Graph()
    scaled = g("Div", g("Sub", "x", g.const(random(I))), g.const(np.float32([2, 4, 0.5])))
    dense = g("Relu", g("Add", g("MatMul", scaled, g.const(random(I, 4))), g.const(random(4))))
    y = g("Squeeze", g.cell("GRU", dense, width=4)[0], g.const([1]))
    y = g("Tanh", g("Squeeze", y, g.const([1])))
    y = g("Gemm", y, g.const(random(6, H)), g.const(random(6)), transB=1, alpha=0.5, beta=2.0)
    model = g.model({"x": ["T", 1, I]}, [g("Softmax", y)])
    check(model, tmp_path)
    ops = [node.OP for node in convert(tmp_path / "m.onnx", check="skip").nodes]
    assert ops == ["scale", "dense", "gru", "activation", "dense", "softmax"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda g, y: g("Add", y, g.const(random(1))),
        lambda g, y: g("Sub", g.const(random(I)), y),
        lambda g, y: g("Mul", y, g.const(np.float32(3))),
        lambda g, y: g("Div", y, g.const(random(1, 1, I))),
        lambda g, y: g("Sigmoid", y),
        lambda g, y: g("Softsign", y),
        lambda g, y: g("HardSigmoid", y),
        lambda g, y: g("HardSigmoid", y, alpha=SIXTH, beta=0.5),
        lambda g, y: g("Clip", y, g.const(np.float32(0)), g.const(np.float32(6))),
        lambda g, y: g("Clip", y, g.const(np.float32(0))),
        lambda g, y: g("Softmax", y, axis=2),
        lambda g, y: g("Identity", g("Dropout", y)),
        lambda g, y: g("Cast", y, to=1),
        lambda g, y: g("MatMul", y, g.const(random(I, I))),
        lambda g, y: g("Mul", y, g("Add", g.const(random(I)), g.const(random(I, seed=4)))),
    ],
)
def test_operators_on_the_stream(wrap: Any, tmp_path: Path) -> None:
    g = Graph()
    y = g.cell("RNN", wrap(g, "x"))[0]
    check(g.model({"x": ["T", 1, I]}, [y]), tmp_path)


def test_batch_normalization_over_dimension_1(tmp_path: Path) -> None:
    g = Graph()
    y = g("Squeeze", g.cell("GRU", "x")[0], g.const([1, 2]))
    stored = [random(H, seed=n) for n in range(3)] + [np.abs(random(H, seed=3)) + 0.1]
    y = g("BatchNormalization", y, *(g.const(a) for a in stored), epsilon=0.01)
    check(g.model({"x": ["T", 1, I]}, [y]), tmp_path)


def test_an_embedding(tmp_path: Path) -> None:
    g = Graph()
    y = g.cell("LSTM", g("Gather", g.const(random(9, 4)), "x"), width=4)[0]
    model = g.model({"x": ["T", 1]}, [y], {"x": onnx.TensorProto.INT64})
    x = np.random.default_rng(0).integers(0, 9, (T, 1))
    y = run(saved(model, tmp_path), x.astype(np.float32), check="require")
    np.testing.assert_allclose(y, answer(model, x=x)[0].reshape(T, H), atol=1e-5)


def batch_first(g: Graph, x: str, kind: str = "GRU") -> str:
    y = g.cell(kind, g("Transpose", x, perm=[1, 0, 2]))[0]  # (T, 1, B, H)
    y = g("Transpose", y, perm=[0, 2, 1, 3])
    return g("Transpose", g("Reshape", y, g.const([0, 0, -1])), perm=[1, 0, 2])


@pytest.mark.parametrize("shape", [["B", "T", I], [1, "T", I], [4, T, I], [None, None, I]])
def test_batch_first_graphs_of_open_and_fixed_sizes(shape: list[Any], tmp_path: Path) -> None:
    g = Graph()
    y = g("MatMul", batch_first(g, "x"), g.const(random(H, 2)))
    model = g.model({"x": shape}, [y])
    x = inputs()
    batch = shape[0] if isinstance(shape[0], int) else 1
    expected = answer(model, x=np.repeat(x[None], batch, axis=0))[0][0]
    np.testing.assert_allclose(run(saved(model, tmp_path), x, check="require"), expected, atol=1e-5)


def test_steps_merged_with_the_batch_and_taken_apart_again(tmp_path: Path) -> None:
    g = Graph()
    y = batch_first(g, "x")
    sizes = g("Slice", g("Shape", y), g.const([0]), g.const([2]))
    y = g("Gemm", g("Reshape", y, g.const([-1, H])), g.const(random(H, 2)))
    y = g("Reshape", y, g("Concat", sizes, g.const([2]), axis=0))
    model = g.model({"x": ["B", "T", I]}, [y])
    expected = answer(model, x=inputs()[None])[0][0]
    np.testing.assert_allclose(
        run(saved(model, tmp_path), inputs(), check="require"), expected, atol=1e-5
    )


ZEROS: dict[str, Any] = {
    "constant": lambda g: g.const(np.zeros((1, 1, H), np.float32)),
    "constant_of_shape": lambda g: g("ConstantOfShape", g.const([1, 1, H])),
    "of_the_input's_shape": lambda g: g(
        "ConstantOfShape",
        g("Concat", g.const([1]), g("Unsqueeze", g("Gather", g("Shape", "x"), g.const(1)),
                                    g.const([0])), g.const([H]), axis=0),
    ),
    "expanded": lambda g: g(
        "Expand", g.const(np.zeros((1, 1, 1), np.float32)), g.const([1, 1, H])
    ),
    "sliced": lambda g: g(
        "Slice", g("ConstantOfShape", g.const([2, 1, H])), g.const([1]), g.const([2]), g.const([0])
    ),
    "by_unfollowed_arithmetic": lambda g: g(
        "Expand",
        g.const(np.zeros((1, 1, H), np.float32)),
        g("Where", g("Equal", g("Shape", "x"), g.const([-1, -1, -1])), g.const([1, 1, 1]),
          g.const([1, 1, 1])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("zeros", ZEROS.values(), ids=ZEROS)
def test_a_provably_zero_initial_state(zeros: Any, tmp_path: Path) -> None:
    g = Graph()
    y = g.cell("GRU", "x", g.bias("GRU"), "", zeros(g))[0]
    check(g.model({"x": ["T", 1, I]}, [y]), tmp_path)


@pytest.mark.parametrize(
    "last",
    [
        lambda g, y, h: g("Squeeze", h, g.const([0])),
        lambda g, y, h: g("Gather", g("Squeeze", y, g.const([1])), g.const(-1), axis=0),
        lambda g, y, h: g(
            "Squeeze", g("Slice", y, g.const([-1]), g.const([2**31 - 1]), g.const([0])),
            g.const([0, 1]),
        ),
    ],
    ids=["Y_h", "gather", "slice"],
)  # fmt: skip
def test_a_graph_that_answers_for_the_last_step(last: Any, tmp_path: Path) -> None:
    g = Graph()
    y, h = g.cell("GRU", "x")
    model = g.model({"x": ["T", 1, I]}, [g("MatMul", last(g, y, h), g.const(random(H, 2)))])
    report = convert_with_report(saved(model, tmp_path), "float32", check="require").report
    assert "answers once" in report.notes[0]
    assert report.source_steps == 3
    ends = [1, 10, T]
    expected = np.concatenate([answer(model, x=inputs()[:n, None])[0] for n in ends])
    y = run(tmp_path / "m.onnx", inputs())[[n - 1 for n in ends]]
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_a_final_state_beside_the_result_is_left_out_and_said(tmp_path: Path) -> None:
    g = Graph()
    y, h, _ = g.cell("LSTM", "x")
    model = g.model({"x": ["T", 1, I]}, [y, h])
    report = convert_with_report(saved(model, tmp_path), check="require").report
    assert "final state" in report.notes[0] and repr(h) in report.notes[0]


def test_operators_that_no_output_needs_are_no_matter(tmp_path: Path) -> None:
    g = Graph()
    y = g.cell("RNN", "x")[0]
    g("ReduceMean", "x")
    check(g.model({"x": ["T", 1, I]}, [y]), tmp_path)


def test_names_become_what_a_model_file_allows(tmp_path: Path) -> None:
    g = Graph()
    w, r = g.const(random(1, H, I)), g.const(random(1, H, H))
    y, _ = g("RNN", "x y:0", w, r, outputs=2, name="/layers.0/rnn:é", hidden_size=H)
    y, _ = g.cell("RNN", g("Squeeze", y, g.const([1])), width=H)
    model = g.model({"x y:0": ["T", 1, I]}, [y])
    converted = convert(saved(model, tmp_path), check="require")
    assert [i.name for i in converted.inputs] == ["x_y_0"]
    assert converted.nodes[0].name == "layers.0_rnn"
