"""The largest |y| that a value can have, where it is known: a fixed unit for its integers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edge_rnn.activations import is_share, largest
from edge_rnn.graph.cells import Gru, Lstm, MinGru, NormGru, Rnn
from edge_rnn.graph.frames import FrameConv, FramePool, Take
from edge_rnn.graph.layers import Activation, Conv1d, Dense, Pool, Slice
from edge_rnn.graph.model import Model
from edge_rnn.graph.node import Node
from edge_rnn.graph.norms import Softmax
from edge_rnn.graph.windows import Pad, Reverse


def bound(node: Node, of_input: float = 0.0) -> float:
    """The largest |y| that the node can put out, 0 where there is none that is known.

    `of_input` is its input's. A recurrent cell's is also that of its h.
    """
    usual, first = _bound(node, of_input), getattr(node, "initial_h", None)
    return usual if first is None or not usual else max(usual, float(np.abs(first).max()))


def _bound(node: Node, of_input: float) -> float:
    """`bound` of a cell whose h begins at zeros, and of other nodes."""
    match node:
        case Rnn() | Dense() | Conv1d() | FrameConv() | Activation() if largest(node.act):
            return largest(node.act)
        case Lstm(projection=None):
            return product_bound(node)
        case Gru() | NormGru() | MinGru() if is_share(node.gate):
            return largest(node.candidate)
        case Softmax():
            return 1.0
        case Slice() | Pool() | Take() | FramePool() | Reverse() | Activation(act="linear"):
            return of_input
        case Pad() if abs(node.value) <= of_input:
            return of_input
    return 0.0


def product_bound(node: Lstm) -> float:
    """The largest |o hidden(c)|, which a projection sees, 0 where there is none that is known."""
    return largest(node.gate) * largest(node.hidden)


def bounds(model: Model, of_inputs: Mapping[str, float] | None = None) -> dict[str, float]:
    """`bound` of every value by name; of an input that is not among `of_inputs`, 0."""
    found = {i.name: 0.0 for i in model.inputs} | dict(of_inputs or {})
    for node in model.nodes:
        found[node.name] = bound(node, found[node.input])
    return found
