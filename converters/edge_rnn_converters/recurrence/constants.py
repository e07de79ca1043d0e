"""What a graph computes of constants alone, computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.recurrence.moves import MOVES
from edge_rnn_converters.recurrence.step import Space, Steps
from edge_rnn_converters.tensors.graph import Op, TensorGraph

_POINTWISE = ("Add", "Sub", "Mul", "Div", "Neg", "Equal", "Where", "Sigmoid", "Tanh", "Relu")
_MOST = 1 << 22
"""Numbers in a result."""


def folded(graph: TensorGraph) -> TensorGraph:
    """The graph with what is computed of constants and of known shapes alone as constants."""
    constants, rest = dict(graph.constants), []
    for op in graph.operators:
        made = _computed(graph, op, constants)
        if made is None:
            rest.append(op)
        else:
            constants.update(zip(op.outputs, made, strict=False))
    return replace(graph, constants=constants, operators=tuple(rest))


def _computed(
    graph: TensorGraph, op: Op, constants: Mapping[str, NDArray[Any]]
) -> Sequence[NDArray[Any]] | None:
    """The operator's results; None where they depend on more, or are not to be had here."""
    shape = graph.shapes.get(op.inputs[0]) if op.kind == "Shape" else None
    if shape is not None and None not in shape:
        cut = slice(op.integer("start", 0), op.attributes.get("end"))
        return [np.array(shape[cut], np.int64)]
    read = {name: constants[name] for name in op.inputs if name in constants}
    if len(read) < len({name for name in op.inputs if name}) or not read:
        return None
    try:
        if not _size(op, list(read.values())) <= _MOST:
            return None
        known: dict[str, Any] = Steps((op,), read).run(Space(), {})
    except (UnsupportedError, ValueError, IndexError, TypeError):
        return None  # what runs the graph, or refuses it, says so better
    dtype = next((a.dtype for a in read.values() if a.dtype.kind == "f"), np.dtype(np.float32))
    made = (np.asarray(known[name]) for name in op.outputs if name in known)
    return [a.astype(dtype) if a.dtype.kind == "f" else a for a in made]


def _size(op: Op, arrays: Sequence[NDArray[Any]]) -> float:
    """How many numbers the operator makes at most; infinitely many where it is not followed."""
    shapes = [np.shape(a) for a in arrays]
    if op.kind in ("MatMul", "Gemm") and all(len(s) == 2 for s in shapes[:2]):
        return float(max(shapes[0]) * max(shapes[1]))
    if op.kind in _POINTWISE:
        return math.prod(np.broadcast_shapes(*shapes))
    if op.kind in ("ConstantOfShape", "Expand", "Tile"):
        return math.prod(abs(int(n)) for n in arrays[-1].ravel()) * math.prod(shapes[0])
    if op.kind == "Gather":
        return math.prod(shapes[0]) * math.prod(shapes[1])
    return sum(map(math.prod, shapes)) if op.kind in MOVES else math.inf
