"""Operators that move the elements of an array, whatever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn_converters.tensors.graph import Op

Array: TypeAlias = NDArray[Any]


def _parameter(op: Op, name: str, given: Any) -> list[int] | None:
    """Integers that are an attribute in older operator sets and an input in newer ones."""
    value = op.attributes.get(name, given)
    return None if value is None else [int(i) for i in np.atleast_1d(value)]


def _reshape(op: Op, a: Array, shape: Any = None) -> list[Array]:
    sizes = _parameter(op, "shape", shape) or []
    if not op.integer("allowzero", 0):
        sizes = [a.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return [a.reshape(sizes)]


def _squeeze(op: Op, a: Array, axes: Any = None) -> list[Array]:
    at = _parameter(op, "axes", axes)
    return [np.squeeze(a, None if at is None else tuple(at))]


def _unsqueeze(op: Op, a: Array, axes: Any = None) -> list[Array]:
    return [np.expand_dims(a, tuple(_parameter(op, "axes", axes) or ()))]


def _slice(op: Op, a: Array, *given: Any) -> list[Array]:
    values = (*given, None, None, None, None)
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (_parameter(op, n, v) for n, v in zip(names, values, strict=False))
    starts, ends = starts or [], ends or []
    index = [slice(None)] * a.ndim
    cuts = zip(axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True)
    for axis, start, end, step in cuts:
        past = step < 0 and end < -a.shape[axis]
        index[axis] = slice(start, None if past else end, step)
    return [a[tuple(index)]]


def _split(op: Op, a: Array, sizes: Any = None) -> list[Array]:
    parts = _parameter(op, "split", sizes)
    cuts: Any = len(op.outputs) if parts is None else np.cumsum(parts)[:-1]
    return np.array_split(a, cuts, axis=op.integer("axis", 0))


MOVES: dict[str, Callable[..., list[Array]]] = {
    "Identity": lambda op, a: [a],
    "Cast": lambda op, a: [a],
    "Shape": lambda op, a: [np.array(a.shape, np.int64)],
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": lambda op, a: [a.reshape(int(np.prod(a.shape[: op.integer("axis", 1)])), -1)],
    "Transpose": lambda op, a: [np.transpose(a, op.attributes.get("perm"))],
    "Slice": _slice,
    "Split": _split,
    "Gather": lambda op, a, i: [np.take(a, np.asarray(i, np.int64), axis=op.integer("axis", 0))],
    "Concat": lambda op, *parts: [np.concatenate(parts, op.integer("axis", 0))],
    "Tile": lambda op, a, times: [np.tile(a, tuple(times))],
    "Expand": lambda op, a, shape: [np.broadcast_to(a, np.broadcast_shapes(a.shape, tuple(shape)))],
}
"""Operator -> what it makes of its arguments: an array, then where elements go, in NumPy."""
