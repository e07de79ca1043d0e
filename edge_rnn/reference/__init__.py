"""What every node computes: whole sequences in float64 NumPy, written to be read.

Nothing here is fast. The kernels and the converters are tested against it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_rnn.graph import Model, bounds, reads
from edge_rnn.reference import cells, frames, layers  # noqa: F401 - what `forward` knows
from edge_rnn.reference.base import F64, activate, forward

__all__ = ["F64", "activate", "forward", "run"]


def run(model: Model, x: ArrayLike) -> F64:
    """The model's outputs (n, O) for one stream's inputs x (T, I), from the initial state.

    A value has a row for each step at which it is there: n is T where that is every step.
    """
    columns = np.asarray(x, np.float64)
    values: dict[str, F64] = {}
    start = 0
    for i in model.inputs:
        values[i.name] = columns[:, start : start + i.width]
        start += i.width
    ranges = bounds(model)
    for node in model.nodes:
        read = [values[name] for name in reads(node)]
        values[node.name] = forward(node, *read, limit=ranges[node.input])
    return np.concatenate([values[name] for name in model.outputs], axis=1)
