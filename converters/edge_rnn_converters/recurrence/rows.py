"""The sequences that a graph takes apart, row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from edge_rnn_converters.tensors.graph import Op, TensorGraph

LEAST = 3
"""The shortest loop that is told from other operators."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Sequence:
    """A value that is taken apart along `axis`, and the names of its rows."""

    name: str
    axis: int
    rows: tuple[str, ...]


def sequences(graph: TensorGraph, shapes: Shapes) -> list[Sequence]:
    """Those of at least LEAST rows that are taken apart whole, (steps, batch, width) or batch
    first."""
    found: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for op in graph.operators:
        for axis, at, name in _rows(graph, op):
            found[op.inputs[0], axis].setdefault(at, name)
    return [
        Sequence(name, axis, tuple(rows[t] for t in range(len(rows))))
        for (name, axis), rows in found.items()
        if len(rows) >= LEAST
        and len(shapes.get(name, ())) == 3
        and axis < 2
        and set(rows) == set(range(shapes[name][axis]))
    ]


def _rows(graph: TensorGraph, op: Op) -> list[tuple[int, int, str]]:
    """(axis, index, name) of the single rows that the operator takes."""
    given = [graph.constants.get(name) for name in op.inputs[1:]]
    match op.kind, given:
        case "Split", [] | [np.ndarray()] if not given or np.all(given[0] == 1):
            return [(op.integer("axis", 0), t, name) for t, name in enumerate(op.outputs)]
        case "Gather", [np.ndarray() as index] if index.size == 1:
            return [(op.integer("axis", 0), int(index.flat[0]), op.outputs[0])]
        case "Slice", [np.ndarray() as starts, np.ndarray() as ends, np.ndarray() as axes, *_]:
            cuts = zip(axes.tolist(), starts.tolist(), ends.tolist(), strict=True)
            single = [(axis, start) for axis, start, end in cuts if end - start == 1 and start >= 0]
            # Of a batch of one 0:1 is all of it, and no row.
            rows = [cut for cut in single if cut[1] or cut[0]] or single
            return [(*rows[-1], op.outputs[0])] if rows else []
    return []
