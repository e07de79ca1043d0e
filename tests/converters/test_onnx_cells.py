"""Every attribute of ONNX's recurrent operators, and random ones, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn.errors import UnsupportedError
from edge_rnn.graph import NODES
from tests.converters.onnx_models import BLOCKS, Graph, H, I, random
from tests.converters.test_onnx_layers import agrees, kinds
from tests.effort import examples

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def cell(g: Graph, kind: str, direction: str, *more: str, seed: int = 0, **attrs: Any) -> Any:
    """With recurrent weights so small that what has no bound does not grow from step to step."""
    D, k = DIRECTIONS[direction], BLOCKS[kind]
    w, r = (g.const(random(D, k * H, n, seed=seed, scale=2 / (n + 2))) for n in (I, H))
    b = g.const(random(D, 2 * k * H, seed=seed))
    return g(kind, "x", w, r, b, *more, outputs=3 if kind == "LSTM" else 2, hidden_size=H,
             direction=direction, **attrs)  # fmt: skip


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", BLOCKS)
def test_every_step_in_each_direction(kind: str, direction: str, tmp_path: Path) -> None:
    g = Graph()
    y = cell(g, kind, direction)[0]
    read = agrees(g.model({"x": [20, 1, I]}, [y]), tmp_path)
    assert kinds(read).count("reverse") == (0 if direction == "forward" else 2)
    assert read.model.output_width == DIRECTIONS[direction] * H


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", BLOCKS)
def test_the_answer_of_a_window_in_each_direction(
    kind: str, direction: str, tmp_path: Path
) -> None:
    g = Graph()
    h = g("Transpose", cell(g, kind, direction)[1], perm=[1, 0, 2])
    w = g.const(random(DIRECTIONS[direction] * H, 2))
    y = g("Gemm", g("Reshape", h, g.const([1, -1])), w)
    read = agrees(g.model({"x": [20, 1, I]}, [y]), tmp_path)
    assert kinds(read).count("reverse") == (0 if direction == "forward" else 1)


def test_a_state_can_not_be_carried_on_backwards(tmp_path: Path) -> None:
    g = Graph()
    y, h = cell(g, "GRU", "reverse", "", "h")
    with pytest.raises(UnsupportedError, match="initial_h: is carried on, by a layer that looks"):
        agrees(g.model({"x": ["T", 1, I], "h": [1, 1, H]}, [y, h]), tmp_path)


LENGTHS: dict[str, Any] = {
    "constant": (lambda g: g.const([20], np.int32), {"x": [20, 1, I]}),
    "input": (lambda g: "n", {"x": ["T", 1, I], "n": [1]}),
    "of the input's shape": (
        lambda g: g("Cast", g("Slice", g("Shape", "x"), g.const([0]), g.const([1])),
                    to=onnx.TensorProto.INT32),
        {"x": ["T", 1, I]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "inputs"), LENGTHS.values(), ids=LENGTHS)
def test_lengths_that_are_all_the_steps(make: Any, inputs: Any, tmp_path: Path) -> None:
    g = Graph()
    y = g.cell("GRU", "x", g.bias("GRU"), make(g))[0]
    model = g.model(inputs, [y], {"n": onnx.TensorProto.INT32})
    assert kinds(agrees(model, tmp_path)) == ["gru"]


ATTRIBUTES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {"clip": 0.3}) for kind in BLOCKS),
    *(("GRU", {"linear_before_reset": n}) for n in (0, 1)),
    *(("LSTM", {"input_forget": n, "peepholes": p}) for n in (0, 1) for p in (False, True)),
    ("RNN", {"activations": ["ScaledTanh"] * 2, "activation_alpha": [0.7, 0.8],
             "activation_beta": [0.9, 1.1]}),
    ("GRU", {"activations": ["HardSigmoid", "LeakyRelu"] * 2,
             "activation_alpha": [0.3, 0.1, 0.25, 0.2], "activation_beta": [0.4, 0.5]}),
    ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Elu"] * 2,
              "activation_alpha": [0.3, 0.6, 0.25, 0.7], "activation_beta": [0.4, 0.5]}),
]  # fmt: skip
"""What ONNX Runtime runs of what a cell may have; it has no layout 1 (see test_onnx)."""


@pytest.mark.parametrize(("kind", "attrs"), ATTRIBUTES)
def test_each_attribute_in_both_directions(
    kind: str, attrs: dict[str, Any], tmp_path: Path
) -> None:
    g, attrs = Graph(), dict(attrs)
    more = ["", "", "", g.const(random(2, 3 * H))] if attrs.pop("peepholes", False) else []
    y = cell(g, kind, "bidirectional", *more, **attrs)[0]
    agrees(g.model({"x": [20, 1, I]}, [y]), tmp_path)


ACTS = {"Relu": 0, "Tanh": 0, "Sigmoid": 0, "Softsign": 0, "Softplus": 0, "HardSigmoid": 2,
        "Elu": 1, "LeakyRelu": 1, "ScaledTanh": 2, "ThresholdedRelu": 1, "Affine": 2}  # fmt: skip
"""The activations of cells, and how many numbers each takes."""


def acts(draw: st.DrawFn, kind: str, directions: int) -> dict[str, Any]:
    """Activations for a cell, with numbers; gates have values from 0 to 1."""
    names = {"RNN": [ACTS], "GRU": [("Sigmoid", "HardSigmoid"), ACTS],
             "LSTM": [("Sigmoid", "HardSigmoid"), ACTS, ACTS]}[kind] * directions  # fmt: skip
    chosen = [draw(st.sampled_from(sorted(n))) for n in names]
    alphas, betas = ([round(draw(st.floats(0.1, 0.4)), 3) for n in chosen if ACTS[n] >= least]
                     for least in (1, 2))  # fmt: skip
    found = {"activations": chosen, "activation_alpha": alphas, "activation_beta": betas}
    return {name: values for name, values in found.items() if values}


@given(data=st.data())
@examples(40)
def test_random_cells(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = data.draw(st.sampled_from(sorted(BLOCKS)))
    ready = sorted(DIRECTIONS) if "reverse" in NODES else ["forward"]
    direction = data.draw(st.sampled_from(ready))
    D, peep = DIRECTIONS[direction], kind == "LSTM" and data.draw(st.booleans())
    attrs: dict[str, Any] = {}
    if data.draw(st.booleans()):
        attrs |= data.draw(st.composite(acts)(kind, D))
    if data.draw(st.booleans()):
        attrs["clip"] = data.draw(st.sampled_from([0.25, 0.5, 1.0]))
    if kind == "GRU":
        attrs["linear_before_reset"] = data.draw(st.integers(0, 1))
    if kind == "LSTM":
        attrs["input_forget"] = data.draw(st.integers(0, 1))
    g = Graph(data.draw(st.sampled_from([7, 14, 22])))
    more = ["", "", "", g.const(random(D, 3 * H))] if peep else []
    y = cell(g, kind, direction, *more, seed=data.draw(st.integers(0, 99)), **attrs)[0]
    agrees(g.model({"x": [20, 1, I]}, [y]), tmp_path_factory.mktemp("cell"))
