"""A stream's state: its vectors in order, their first values, and how many numbers it has."""

from __future__ import annotations

import numpy as np

from edge_rnn.graph.model import Model, value_dimensions, value_widths
from edge_rnn.graph.node import F32


def state_tensors(model: Model) -> list[tuple[str, str, int]]:
    """(node name, state name, width) of every state vector of a stream, in order."""
    widths = value_widths(model)
    return [
        (node.name, name, value_dimensions(node, widths)[symbol])
        for node in model.nodes
        for name, symbol in node.STATE.items()
    ]


def initial_state(model: Model) -> F32:
    """What the vectors of `state_tensors` are before the first step, side by side."""
    nodes = {node.name: node for node in model.nodes}
    parts = [np.zeros(0, np.float32)]
    for name, state, width in state_tensors(model):
        given = getattr(nodes[name], f"initial_{state}", None)
        parts.append(np.zeros(width, np.float32) if given is None else given)
    return np.concatenate(parts)


def state_width(model: Model) -> int:
    """The numbers of a stream's state: of a window that looks ahead, the messages themselves."""
    if model.window is None:
        return sum(width for _, _, width in state_tensors(model))
    if model.looks_ahead:
        return model.window.length * model.input_width
    answer = 0 if model.mask is None else 1 + model.output_width
    return model.window.phases * (answer + sum(width for _, _, width in state_tensors(model)))
