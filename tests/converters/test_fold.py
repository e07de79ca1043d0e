"""Folding makes fewer nodes and the same numbers, and leaves alone what others read."""

from __future__ import annotations

import numpy as np
import pytest

from edge_rnn import reference
from edge_rnn.graph import Activation, Dense, Input, Matrix, Model, Node, Scale
from edge_rnn_converters.fold import fold

X = np.random.default_rng(0).normal(size=(8, 2))


def dense(name: str, source: str, act: str = "linear") -> Dense:
    w = Matrix(np.float32([[1, 2], [3, 4]]))
    return Dense(name, source, w, np.float32([0.5, -1]), act)  # type: ignore[arg-type]


def scale(name: str, source: str, offset: float, factor: float, shift: float) -> Scale:
    return Scale(name, source, *(np.full(2, v, np.float32) for v in (offset, factor, shift)))


def model(*nodes: Node, outputs: tuple[str, ...] = ()) -> Model:
    return Model((Input("x", 2),), nodes, outputs or (nodes[-1].name,))


FOLDED = {
    "bias and activation": model(
        dense("a", "x"), scale("b", "a", 0, 1, 3), Activation("c", "b", "tanh")
    ),
    "offset into a bias": model(dense("a", "x"), scale("b", "a", 2, 1, 0)),
    "normalisation": model(scale("a", "x", 2, 1, 0), scale("b", "a", 0, 0.25, 0)),
    "scale then shift": model(scale("a", "x", 0, 3, 0), scale("b", "a", 0, 1, 5)),
}
KEPT = {
    "two readers": model(
        dense("a", "x"), Activation("b", "a", "relu"), Activation("c", "a", "tanh"),
        outputs=("b", "c"),
    ),
    "an output": model(dense("a", "x"), Activation("b", "a", "relu"), outputs=("a", "b")),
    "neighbours that do not read each other": model(
        dense("a", "x"), Activation("b", "x", "relu"), outputs=("a", "b")
    ),
    "an activation already": model(dense("a", "x", "tanh"), Activation("b", "a", "relu")),
    "two roundings": model(scale("a", "x", 0, 0.1, 0), scale("b", "a", 0, 0.3, 0)),
    "shift then scale": model(scale("a", "x", 0, 1, 2), scale("b", "a", 0, 3, 0)),
    "scaled weights": model(dense("a", "x"), scale("b", "a", 0, 3, 0)),
}  # fmt: skip


@pytest.mark.parametrize("before", FOLDED.values(), ids=FOLDED)
def test_chains_become_one_node(before: Model) -> None:
    after = fold(before)
    assert len(after.nodes) == 1 and after.outputs == before.outputs
    np.testing.assert_allclose(reference.run(after, X), reference.run(before, X), rtol=1e-6)


@pytest.mark.parametrize("before", KEPT.values(), ids=KEPT)
def test_what_others_read_or_rounds_twice_is_left_alone(before: Model) -> None:
    assert fold(before).nodes == before.nodes
