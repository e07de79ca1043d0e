"""Operators that put arrays side by side, or one as often as wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import Concat
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.moves import is_zero
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, constant
from edge_rnn_converters.tensors.values import (
    AxisError,
    Dim,
    Filled,
    Known,
    Lengths,
    Opaque,
    Role,
    Size,
    State,
    Stream,
    Value,
    known_shape,
)
from edge_rnn_converters.tensors.vectors import Places, few_enough, gathered, places, plus

operator = Operators()

_FOLDED = 1 << 24


@operator("Concat", "of features, of states")
def _concat(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    at = op.integer("axis", 0)
    if all(isinstance(a, Known) for a in args):
        return [known_array(np.concatenate([a.array for a in args if isinstance(a, Known)], at))]
    if all(isinstance(a, State) for a in args):
        return [State(np.concatenate([a.ids for a in args if isinstance(a, State)], at))]
    if any(isinstance(a, Stream | State) for a in args):
        if any(isinstance(a, Opaque) for a in args):
            raise op.refuse("inputs", "the stream is joined with a value not followed", _WAY)
        return [side_by_side(trace, op, args, at)]
    return [Filled(0.0) if all(map(is_zero, args)) else Opaque(op.outputs[0])]


_WAY = "export a plain chain of layers"


def known_array(a: NDArray[Any]) -> Known:
    """A constant, with its numbers as such where sizes of the stream turned out to be ints."""
    return known_shape(a) if a.dtype == object else Known(a)


def side_by_side(trace: Trace, op: Op, args: Sequence[Value | None], at: int) -> Stream:
    """Streams and constants joined along their features' dimension `at`."""
    streams = [None if isinstance(a, Known) else as_stream(trace, op, a, "input") for a in args]
    real = [s for s in streams if s is not None]
    first = real[0]
    at %= len(first.dims)
    parts: list[Places] = []
    shift: list[NDArray[Any]] = []
    start = 0
    for s, a in zip(streams, args, strict=True):
        if s is None:
            array = np.asarray(constant(op, a, "input"), np.float32)
            parts.append(np.full(array.shape, -1))
            shift.append(array)
            continue
        if len(s.dims) != len(first.dims):
            raise AxisError("it joins arrays of different numbers of axes")
        if s.dims[at] and not trace.axes.has(s.dims[at], Role.FEATURE):
            trace.features(s, at)
        parts.append(places(trace, s) + start)
        shift.append(np.zeros(parts[-1].shape, np.float32))
        start += trace.width(s)
    joined = _joined(trace, op, real)
    dims = _met(trace, real, at)
    result = gathered(trace, op, joined, np.concatenate(parts, at), dims)
    return plus(trace, op, result, np.concatenate(shift, at).ravel())


def _met(trace: Trace, streams: Sequence[Stream], at: int) -> tuple[Dim, ...]:
    """The dimensions of streams side by side: the steps and batch of any that has them."""
    dims = list(streams[0].dims)
    for s in streams[1:]:
        for i, dim in enumerate(s.dims):
            if i != at and dim and not dims[i]:
                dims[i] = dim
            trace.meet(dims[i], dim)
    return tuple(dims)


def _joined(trace: Trace, op: Op, streams: Sequence[Stream]) -> Stream:
    """Their vectors one after the other, as one flat vector."""
    first, *others = streams
    if any(s.last != first.last for s in others):
        raise AxisError("the last step's vector meets those of every step")
    if not others:
        return first
    width = sum(trace.width(s) for s in streams)
    names = tuple(s.value for s in others)
    name = trace.emit(op, first.value, lambda name: Concat(name, first.value, names), width)
    dim = trace.axis(f"{name} features", width)
    return Stream(name, (dim,), dim, first.last)


@operator("Expand Tile", "of features")
def _expand(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    by = args[1].array if isinstance(args[1], Known) else None
    match args[0]:
        case Filled() | Lengths():
            return [args[0]]
        case Known(array=a) if a.dtype != object and a.size and np.all(a == a.flat[0]):
            return [_filled(op, a, by)]
        case Known(array=a) if a.dtype.kind == "f" and by is not None and len(by) == a.ndim:
            return [_batched(op, a, by)]
        case Stream() | State() if by is not None:
            return [_repeated(trace, op, as_stream(trace, op, args[0], "input"), list(by))]
        case Stream() | State():
            raise op.refuse("shape", "is computed in a way not followed", "export a fixed shape")
    return [Opaque(op.outputs[0])]


def _filled(op: Op, a: NDArray[Any], by: NDArray[Any] | None) -> Value:
    """A constant of one number, repeated: an array if it is a small one."""
    if by is None or by.dtype == object or a.dtype.kind == "f":
        return Filled(float(a.flat[0]))
    shape = np.multiply(a.shape, by) if op.kind == "Tile" else np.maximum(a.shape, by)
    small = bool(np.prod(shape.astype(np.float64)) <= _FOLDED)
    return Known(np.full(tuple(shape), a.flat[0])) if small else Opaque(op.outputs[0])


def _batched(op: Op, a: NDArray[Any], by: NDArray[Any]) -> Value:
    """A constant repeated for each of a batch, which is run one at a time; else it is unknown."""
    same = all(size == 1 if isinstance(n, Size) else int(n) in (1, size)
               for n, size in zip(by, a.shape, strict=True))  # fmt: skip
    return Known(a) if same and op.kind == "Expand" else Opaque(op.outputs[0])


def _repeated(trace: Trace, op: Op, s: Stream, by: list[Any]) -> Stream:
    """The stream with its features repeated; its steps and batch stay."""
    old = places(trace, s)
    rank = max(len(by), old.ndim)
    old = old.reshape((1,) * (rank - old.ndim) + old.shape)
    dims = ((),) * (rank - len(s.dims)) + s.dims
    times = [1] * (rank - len(by)) + by
    wide = [
        i for i, (d, n) in enumerate(zip(dims, times, strict=True))
        if not isinstance(n, Size) and int(n) > 1 and not (d and op.kind == "Expand")
    ]  # fmt: skip
    if any(dims[i] and not trace.axes.has(dims[i], Role.FEATURE) for i in wide):
        raise AxisError("it repeats the steps")
    if any(isinstance(n, Size) and not d for n, d in zip(times, dims, strict=True)):
        raise AxisError("it repeats the stream as often as there are steps")
    repeats = [int(times[i]) if i in wide else 1 for i in range(rank)]
    few_enough(math.prod(repeats) * old.size)
    wanted = np.tile(old, repeats)
    same = rank == len(s.dims) and not wide
    return s if same else gathered(trace, op, s, wanted, dims)
