"""Sums and products of streams and constants, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_rnn.graph import Add, Multiply, Scale
from edge_rnn_converters.tensors import norms
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import CHAIN, along, same
from edge_rnn_converters.tensors.moves import is_zero
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, weights
from edge_rnn_converters.tensors.values import (
    AxisError,
    Dim,
    Filled,
    Known,
    Opaque,
    Role,
    State,
    Stream,
    Value,
)
from edge_rnn_converters.tensors.vectors import few_enough, gathered, places

operator = Operators()

_FOLDED = 1 << 24
_FOLDS: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Pow": np.power,
    "Min": np.minimum, "Max": np.maximum, "Mod": np.mod,
    "Equal": np.equal, "Less": np.less, "Greater": np.greater, "LessOrEqual": np.less_equal,
    "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or,
    "Not": np.logical_not, "Where": np.where, "Neg": np.negative, "Abs": np.abs,
    "Sqrt": np.sqrt, "Exp": np.exp, "Log": np.log, "Floor": np.floor, "Ceil": np.ceil,
    "Reciprocal": np.reciprocal, "Sign": np.sign,
}  # fmt: skip


def folded(op: Op, args: list[Value | None]) -> Value | None:
    """The operator's result where all it reads are constants and numbers; else None."""
    if not args or not all(isinstance(a, Known | Filled) for a in args):
        return None
    arrays = [a.array for a in args if isinstance(a, Known)]
    if len(arrays) < len(args) or any(a.dtype == object for a in arrays):
        return Opaque(op.outputs[0])
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    if np.prod(shape, dtype=np.float64) > _FOLDED:
        return Opaque(op.outputs[0])
    with np.errstate(all="ignore"):
        if op.kind == "Div":
            a, b = arrays
            return Known(np.divide(a, b) if a.dtype.kind == "f" else a // b)
        found = _FOLDS[op.kind](*arrays)
    return Known(np.asarray(found, found.dtype if found.dtype == bool else arrays[-1].dtype))


_LOGIC = "Mod Equal Less Greater LessOrEqual GreaterOrEqual And Or Not Where Floor Ceil Sign"


@operator(_LOGIC, "of constants")
def _logic(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    found = folded(op, args)
    if found is None and any(isinstance(a, Stream | State) for a in args):
        raise op.refuse("inputs", "depend on the stream, and choose by its values", CHAIN)
    return [found or Opaque(op.outputs[0])]


@operator("Add Sub Mul Div", "by a constant, of two values; Div in a norm")
def _arithmetic(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    found = folded(op, args)
    if found is not None:
        return [found]
    if op.kind == "Add" and any(map(is_zero, args)):
        states = [a for a in args if isinstance(a, State)]
        if states:
            return [states[0]]
    if not any(isinstance(a, Stream | State) for a in args):
        return [Opaque(op.outputs[0])]
    a, b = args
    if isinstance(b, Known | Filled):
        return [_with_constant(trace, op, as_stream(trace, op, a, "input"), b, reverse=False)]
    if isinstance(a, Known | Filled):
        return [_with_constant(trace, op, as_stream(trace, op, b, "input"), a, reverse=True)]
    if any(isinstance(v, State) and v.stream is None for v in args):
        raise op.refuse("inputs", "it computes with a state before the cell reads it", CHAIN)
    return [_of_two(trace, op, *(as_stream(trace, op, v, "input") for v in args))]


def _with_constant(trace: Trace, op: Op, x: Stream, c: Known | Filled, *, reverse: bool) -> Stream:
    array = (
        np.array([c.number], np.float32) if isinstance(c, Filled) else weights(op, c, "constant")
    )
    c64 = array.astype(np.float64)
    match op.kind, reverse:
        case "Add", _:
            return scaled(trace, op, x, 0, 1, c64)
        case "Sub", False:
            return scaled(trace, op, x, c64, 1, 0)
        case "Sub", True:
            return scaled(trace, op, x, 0, -1, c64)
        case "Mul", _:
            return scaled(trace, op, x, 0, c64, 0)
        case "Div", False if np.all(c64):
            return scaled(trace, op, x, 0, 1 / c64, 0)
        case "Div", True:
            inverse = norms.reciprocal(trace, op, x)
            if inverse is not None:
                return inverse
    raise op.refuse("inputs", "it divides by the stream or by zero", CHAIN)


def scaled(
    trace: Trace, op: Op, x: Stream, offset: ArrayLike, scale: ArrayLike, shift: ArrayLike
) -> Stream:
    """(x - offset) scale + shift, each a number or broadcast along the features."""
    x = _spread(trace, op, x, [np.asarray(a) for a in (offset, scale, shift)])
    parts = [along(trace, op, x, np.asarray(a)) for a in (offset, scale, shift)]
    return same(trace, op, x, lambda name: Scale(name, x.value, *parts))


def _spread(trace: Trace, op: Op, x: Stream, arrays: list[NDArray[Any]]) -> Stream:
    """The stream repeated along dimensions of one that the constants are longer in."""
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    rank = max(len(shape), len(x.dims))
    shape = (1,) * (rank - len(shape)) + shape
    dims = ((),) * (rank - len(x.dims)) + x.dims
    if rank == len(x.dims) and not any(n > 1 and not d for n, d in zip(shape, dims, strict=True)):
        return x
    old = places(trace, x)
    old = old.reshape((1,) * (rank - old.ndim) + old.shape)
    repeats = [n if not d else 1 for n, d in zip(shape, dims, strict=True)]
    few_enough(math.prod(repeats) * old.size)
    return gathered(trace, op, x, np.tile(old, repeats), dims)


def _of_two(trace: Trace, op: Op, a: Stream, b: Stream) -> Stream:
    if op.kind == "Div":
        found = norms.quotient(trace, op, a, b)
        if found is None:
            why = "it divides one value by another, and this is no norm that is known"
            raise op.refuse("inputs", why, CHAIN)
        return found
    if op.kind == "Sub":
        b = scaled(trace, op, b, 0, -1, 0)
    if op.kind == "Mul":
        for one, other in ((a, b), (b, a)):
            found = norms.product(trace, op, one, other)
            if found is not None:
                return found
    a, b = met(trace, op, a, b)
    node = Multiply if op.kind == "Mul" else Add
    return same(trace, op, a, lambda name: node(name, a.value, (b.value,)))


def met(trace: Trace, op: Op, a: Stream, b: Stream) -> tuple[Stream, Stream]:
    """Both with equal dimensions and vectors in the same order, broadcast where they need it."""
    if a.last != b.last:
        raise AxisError("the last step's vector meets those of every step")
    rank = max(len(a.dims), len(b.dims))
    a, b = (replace(s, dims=((),) * (rank - len(s.dims)) + s.dims) for s in (a, b))
    for one, other in zip(a.dims, b.dims, strict=True):
        trace.meet(one, other)
    pa, pb = places(trace, a), places(trace, b)
    dims = tuple(one or other for one, other in zip(a.dims, b.dims, strict=True))
    shape = np.broadcast_shapes(pa.shape, pb.shape)
    few_enough(math.prod(shape))
    if pa.shape == pb.shape and np.array_equal(pa, pb):
        return replace(a, dims=dims), b
    wide = [(np.broadcast_to(p, shape), s) for p, s in ((pa, a), (pb, b))]
    first, second = (_arranged(trace, op, s, p, dims) for p, s in wide)
    return first, second


def _arranged(
    trace: Trace, op: Op, s: Stream, wanted: NDArray[np.int64], dims: tuple[Dim, ...]
) -> Stream:
    feature = [d if d and not trace.axes.has(d, Role.FEATURE) else () for d in dims]
    return gathered(trace, op, s, np.ascontiguousarray(wanted), feature)
