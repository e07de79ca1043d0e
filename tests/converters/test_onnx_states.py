"""ONNX graphs that take their state as inputs and return it: the stream keeps it instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_rnn import Session
from edge_rnn.errors import UnsupportedError
from edge_rnn_converters import convert, convert_with_report
from tests.converters.onnx_models import BLOCKS, Graph, H, I, T, answer, inputs, random
from tests.converters.runtime import run
from tests.converters.test_onnx import saved


def driven(model: onnx.ModelProto, states: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Every step by hand: x (1, 1, I), states fed back; outputs are y, then the states."""
    held = {name: np.zeros(shape, np.float32) for name, shape in states.items()}
    rows = []
    for x in inputs():
        y, *after = answer(model, x=x[None, None], **held)
        held = dict(zip(held, after, strict=True))
        rows.append(y.reshape(-1))
    return np.array(rows)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("steps", [1, "T"])
def test_states_of_one_cell(kind: str, steps: Any, tmp_path: Path) -> None:
    g = Graph()
    names = ["h0", "c0"][: 2 if kind == "LSTM" else 1]
    y, *finals = g.cell(kind, "x", g.bias(kind), "", *names)
    states = dict.fromkeys(names, (1, 1, H))
    shapes = {"x": [steps, 1, I], **{n: list(s) for n, s in states.items()}}
    model = g.model(shapes, [y, *finals])
    expected = driven(model, states)
    y = run(saved(model, tmp_path), inputs(), check="require")
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_two_layers_whose_states_are_stacked(tmp_path: Path) -> None:
    """As PyTorch exports nn.LSTM(num_layers=2): h0 and c0 (2, B, H), sliced and joined again."""
    g = Graph()
    finals: list[list[str]] = [[], []]
    x = "x"
    for n in range(2):
        parts = [g("Slice", s, g.const([n]), g.const([n + 1]), g.const([0])) for s in ("h0", "c0")]
        y, *after = g.cell(
            "LSTM", x, g.bias("LSTM", n), "", *parts, width=I if not n else H, seed=n
        )
        x = g("Squeeze", y, g.const([1]))
        for into, value in zip(finals, after, strict=True):
            into.append(value)
    joined = [g("Concat", *parts, axis=0) for parts in finals]
    shapes = {"x": [1, 1, I], "h0": [2, "B", H], "c0": [2, "B", H]}
    model = g.model(shapes, [g("MatMul", x, g.const(random(H, 2))), *joined])
    expected = driven(model, {"h0": (2, 1, H), "c0": (2, 1, H)})
    np.testing.assert_allclose(
        run(saved(model, tmp_path), inputs(), check="require"), expected, atol=1e-5
    )


def test_h_and_c_packed_in_one_tensor(tmp_path: Path) -> None:
    """As DTLN keeps them: (1, 1, H, 2), the last axis is h, c."""
    g = Graph()
    pick = [g("Gather", "s", g.const(n), axis=3) for n in range(2)]
    y, *after = g.cell("LSTM", "x", g.bias("LSTM"), "", *pick)
    packed = g("Concat", *(g("Unsqueeze", a, g.const([3])) for a in after), axis=3)
    model = g.model({"x": [1, 1, I], "s": [1, 1, H, 2]}, [y, packed])
    expected = driven(model, {"s": (1, 1, H, 2)})
    np.testing.assert_allclose(
        run(saved(model, tmp_path), inputs(), check="require"), expected, atol=1e-5
    )


def test_a_step_whose_answer_is_its_hidden_state(tmp_path: Path) -> None:
    g = Graph()
    _, h = g.cell("GRU", "x", g.bias("GRU"), "", "h0")
    model = g.model({"x": [1, 1, I], "h0": [1, 1, H]}, [h])
    converted = convert_with_report(saved(model, tmp_path), "float32", check="require")
    assert converted.report.source_steps == 256
    assert converted.model.output_width == H


def test_a_dense_layer_on_the_hidden_state(tmp_path: Path) -> None:
    g = Graph()
    _, h, c = g.cell("LSTM", "x", g.bias("LSTM"), "", "h0", "c0")
    y = g("Gemm", g("Squeeze", h, g.const([0])), g.const(random(H, 2)))
    model = g.model({"x": [1, 1, I], "h0": [1, 1, H], "c0": [1, 1, H]}, [y, h, c])
    expected = driven(model, {"h0": (1, 1, H), "c0": (1, 1, H)})
    np.testing.assert_allclose(
        run(saved(model, tmp_path), inputs(), check="require"), expected, atol=1e-5
    )
    assert len(expected) == T


def swapped(g: Graph) -> onnx.ModelProto:
    """Two layers that return each other's states."""
    y, h1 = g.cell("GRU", "x", g.bias("GRU"), "", g("Slice", "h", *cut(g, 0)))
    _, h2 = g.cell("GRU", g("Squeeze", y, g.const([1])), g.bias("GRU"), "",
                   g("Slice", "h", *cut(g, 1)), width=H)  # fmt: skip
    y = g("MatMul", h2, g.const(random(H, 2)))
    return g.model({"x": [1, 1, I], "h": [2, 1, H]}, [y, g("Concat", h2, h1, axis=0)])


def cut(g: Graph, n: int) -> tuple[str, str, str]:
    return g.const([n]), g.const([n + 1]), g.const([0])


def unreturned(g: Graph) -> onnx.ModelProto:
    y, _ = g.cell("GRU", "x", g.bias("GRU"), "", "h")
    return g.model({"x": [1, 1, I], "h": [1, 1, H]}, [y])


def processed(g: Graph) -> onnx.ModelProto:
    y, h = g.cell("GRU", "x", g.bias("GRU"), "", "h")
    return g.model({"x": [1, 1, I], "h": [1, 1, H]}, [y, g("Tanh", h)])


def scaled(g: Graph) -> onnx.ModelProto:
    y, h = g.cell("GRU", "x", g.bias("GRU"), "", g("Mul", "h", g.const(np.float32(2))))
    return g.model({"x": [1, 1, I], "h": [1, 1, H]}, [y, h])


def shared(g: Graph) -> onnx.ModelProto:
    y, h = g.cell("LSTM", "x", g.bias("LSTM"), "", "h", "h")[:2]
    return g.model({"x": [1, 1, I], "h": [1, 1, H]}, [y, h])


def handed_on(g: Graph) -> onnx.ModelProto:
    """A decoder that starts where the encoder ended."""
    _, h = g.cell("GRU", "x")
    return g.model({"x": ["T", 1, I]}, [g.cell("GRU", "x", g.bias("GRU"), "", h)[0]])


def forgetful(g: Graph) -> onnx.ModelProto:
    return g.model({"x": [1, 1, I]}, [g.cell("GRU", "x")[0]])


def batched(g: Graph) -> onnx.ModelProto:
    y, h = g.cell("GRU", "x", g.bias("GRU"), "", "h")
    return g.model({"x": [1, 4, I], "h": [1, 4, H]}, [y, h])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (swapped, r"input 'h': state: no output is its next value"),
        (unreturned, r"input 'h': state: no output is its next value"),
        (processed, r"input 'h': state: no output is its next value"),
        (scaled, r"GRU '/GRU_\d': initial_h: is no constant"),
        (shared, r"LSTM '/LSTM_\d': initial_c: starts from elements that another state"),
        (handed_on, r"GRU '/GRU_\d': initial_h: is the final state of another cell"),
        (forgetful, r"GRU '/GRU_4': initial_h: .*forgets everything at every step"),
        (batched, r"GRU '/GRU_\d': initial_h: has shape \(1, 4, 5\)"),
    ],
)
def test_states_that_can_not_be_carried_on(make: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=match):
        convert(saved(make(Graph()), tmp_path))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("batch", [1, "B"])
def test_a_state_that_begins_at_constants(
    kind: str, direction: str, batch: Any, tmp_path: Path
) -> None:
    g = Graph()
    D = 1 + (direction == "bidirectional")
    k = BLOCKS[kind]
    w, r = g.const(random(D, k * H, I)), g.const(random(D, k * H, H))
    starts = [g.const(random(D, 1, H, seed=n)) for n in range(1 + (kind == "LSTM"))]
    if batch == "B":
        sizes = g("Concat", g.const([D]), g("Slice", g("Shape", "x"), g.const([1]), g.const([2])),
                  g.const([H]), axis=0)  # fmt: skip
        starts = [g("Expand", s, sizes) for s in starts]
    y = g(kind, "x", w, r, "", "", *starts, outputs=1, hidden_size=H, direction=direction)
    steps = "T" if D == 1 else T
    model = g.model({"x": [steps, batch, I]}, [y])
    (expected,) = answer(model, x=inputs()[:, None])
    found = convert_with_report(saved(model, tmp_path), "float32", check="require")
    assert found.report.source_error is not None and found.report.source_error < 1e-5
    y = Session(found.model, capacity=1).run("a", inputs())
    rows = expected.reshape(T, -1)
    np.testing.assert_allclose(y, rows if D == 1 else rows[-1:], atol=1e-5)
