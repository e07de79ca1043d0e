"""What every node computes: whole sequences in float64 NumPy, written to be read.

Nothing here is fast. The kernels and the converters are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edge_rnn.graph import Model, Node, bounds, reads
from edge_rnn.reference import cells, frames, layers  # noqa: F401 - what `forward` knows
from edge_rnn.reference.base import F64, activate, forward
from edge_rnn.reference.cells import GATED, Watch

__all__ = ["F64", "Watch", "activate", "evaluate", "forward", "run"]


def run(model: Model, x: ArrayLike) -> F64:
    """The model's outputs (n, O) for one stream's inputs x (T, I), from the initial state.

    A value has a row for each step at which it is there: n is T where that is every step.
    """
    values = evaluate(model, x)
    return np.concatenate([values[name] for name in model.outputs], axis=1)


def evaluate(
    model: Model, x: ArrayLike, watch: Callable[[Node], Watch | None] = lambda node: None
) -> dict[str, F64]:
    """Every value of `run` by name, inputs and nodes; `watch` says who watches inside a node that
    has gates (an LSTM, a GRU and those like them), None for nobody."""
    columns = np.asarray(x, np.float64)
    values: dict[str, F64] = {}
    start = 0
    for i in model.inputs:
        values[i.name] = columns[:, start : start + i.width]
        start += i.width
    ranges = bounds(model)
    for node in model.nodes:
        read = [values[name] for name in reads(node)]
        inside = watch(node) if isinstance(node, GATED) else None
        watched: dict[str, Any] = {} if inside is None else {"watch": inside}
        values[node.name] = forward(node, *read, limit=ranges[node.input], **watched)
    return values
