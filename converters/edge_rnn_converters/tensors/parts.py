"""Operators that take parts of an array, repeat them, or put arrays side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import Concat, Reverse, Scale
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import embedding
from edge_rnn_converters.tensors.moves import data, is_zero, moved, parameter
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, constant
from edge_rnn_converters.tensors.values import (
    AxisError,
    Counter,
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
    with_dims,
)
from edge_rnn_converters.tensors.vectors import Places, few_enough, gathered, places

operator = Operators()

_FOLDED = 1 << 24
_MANY = 1 << 30


@operator("Slice", "of features, of states; of the steps, the last one")
def _slice(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    starts, ends = (parameter(op, args, i, n) or [] for i, n in ((1, "starts"), (2, "ends")))
    at, steps = (parameter(op, args, i, n) for i, n in ((3, "axes"), (4, "steps")))
    cuts = [
        (int(i), slice(int(a), _end(int(b), int(c)), int(c)))
        for i, a, b, c in zip(
            at or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True
        )
    ]

    def array(a: NDArray[Any]) -> NDArray[Any]:
        index = [slice(None)] * a.ndim
        for i, cut in cuts:
            index[i] = cut
        return a[tuple(index)]

    def stream(s: Stream) -> Stream:
        s = as_stream(trace, op, s, "data")
        for i, cut in cuts:
            s = _cut(trace, op, s, i % len(s.dims), cut)
        return s

    return [moved(data(args), array, stream)]


def _end(stop: int, step: int) -> int | None:
    """ONNX writes "beyond the first element" as a very low number."""
    return None if step < 0 and stop < -_MANY else stop


def _cut(trace: Trace, op: Op, s: Stream, i: int, cut: slice) -> Stream:
    """Slice one dimension of the stream: features; of the steps, all or the last."""
    dim = s.dims[i]
    if not dim or is_feature(trace, s, i):
        index = (slice(None),) * i
        return gathered(trace, op, s, places(trace, s)[(*index, cut)])
    size = dim[0].size if len(dim) == 1 else None
    if cut.step == 1 and cut.start == 0 and cut.stop >= (size or _MANY):
        return s
    if cut.step == 1 and cut.start in (-1, (size or 0) - 1) and cut.stop >= (size or _MANY):
        return last(trace, s, i, keep=True)
    if cut.step == -1 and cut.start in (-1, (size or 0) - 1) and cut.stop is None:
        return _turned(trace, op, s, i)
    if cut.step == 1 and cut.start == 0 and s.value in trace.cropped:
        return trace.cropped[s.value](-cut.stop if cut.stop < 0 else (size or 0) - cut.stop)
    raise AxisError(f"{cut.start}:{cut.stop} of {list(dim)} is neither all of it nor the last step")


def _turned(trace: Trace, op: Op, s: Stream, i: int) -> Stream:
    """The steps in the other order."""
    if not trace.axes.has(s.dims[i], Role.TIME):
        raise AxisError(f"{list(s.dims[i])} is turned round, and is not the steps")
    name = trace.emit(op, s.value, lambda name: Reverse(name, s.value), trace.width(s))
    return replace(s, value=name, order=trace.order(s))


def is_feature(trace: Trace, s: Stream, i: int) -> bool:
    """Is the dimension one of features? One of an input that nothing has read yet is, if another
    one may be the steps and it is inside one message or the last."""
    dim = s.dims[i]
    if trace.axes.has(dim, Role.FEATURE):
        return True
    unread = all(trace.axes.role(a) is None and a.size is not None for a in dim)
    if unread and i == len(s.dims) - 1 and sum(map(bool, s.dims)) > 1:
        trace.features(s, i)
        return True
    return False


def last(trace: Trace, s: Stream, i: int, keep: bool) -> Stream:
    """Only the last step of the stream, whose time is at dimension i."""
    if len(s.dims[i]) != 1 or trace.axes.role(s.dims[i][0]) is not Role.TIME:
        raise AxisError(f"the last of {list(s.dims[i])} is not the last step")
    kept: tuple[Dim, ...] = ((),) if keep else ()
    return replace(s, dims=(*s.dims[:i], *kept, *s.dims[i + 1 :]), last=True)


@operator("Gather", "a table by the input (an embedding); of features, of states; the last step")
def _gather(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    index, at = args[1], op.integer("axis", 0)
    if isinstance(index, Stream):
        return [embedding(trace, op, args[0], index, at)]
    if isinstance(index, Counter) and isinstance(args[0], Stream):
        return [trace.row(args[0], at)]
    if isinstance(index, Known) and index.array.dtype.kind == "i" and args[0] is not None:
        return [_pick(trace, op, args[0], index.array, at)]
    if isinstance(args[0], Stream | State):
        raise op.refuse("indices", "are not constants", "export a fixed index")
    return [args[0] if isinstance(args[0], Filled | Lengths) else Opaque(op.outputs[0])]


def _pick(trace: Trace, op: Op, value: Value, index: NDArray[Any], at: int) -> Value:
    """Gather along a dimension at constant indices."""
    picked = index.astype(np.int64)

    def stream(s: Stream) -> Stream:
        i, keep = at % len(s.dims), index.ndim > 0
        dim = s.dims[i]
        if trace.axes.has(dim, Role.FEATURE):
            old = places(trace, s)
            few_enough(old.size / old.shape[i] * picked.size)
            chosen = np.take(old, picked, axis=i)
            dims = (*s.dims[:i], *[dim] * picked.ndim, *s.dims[i + 1 :])
            return gathered(trace, op, s, chosen, dims)
        if index.size != 1:
            raise AxisError("it takes several indices of the stream")
        kept: tuple[Dim, ...] = ((),) if keep else ()
        if not dim or (dim[0].size is None and int(index.flat[0]) == 0):
            trace.axes.drop(dim)
            return with_dims(s, (*s.dims[:i], *kept, *s.dims[i + 1 :]))
        if int(index.flat[0]) != -1 and int(index.flat[0]) + 1 != dim[0].size:
            raise AxisError(f"index {index.flat[0]} of {list(dim)} is not the last step")
        return last(trace, s, i, keep)

    def array(a: NDArray[Any]) -> NDArray[Any]:
        few_enough(a.size / max(a.shape[at], 1) * picked.size)
        found = np.take(a, picked, axis=at)
        return known_shape(np.asarray(found)).array if a.dtype == object else found

    return moved(value, array, stream)


@operator("Split", "of features, of states")
def _split(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    value, at = data(args), op.integer("axis", 0)
    if not isinstance(value, Known | State | Stream):
        return [value for _ in op.outputs]
    sizes = parameter(op, args, 1, "split")

    def part(k: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
        def cut(a: NDArray[Any]) -> NDArray[Any]:
            if sizes is None:
                piece = -(-a.shape[at] // len(op.outputs))
                ends = [piece * n for n in range(1, len(op.outputs))]
            else:
                ends = list(np.cumsum(sizes)[:-1].astype(int))
            return np.split(a, ends, axis=at)[k]

        return cut

    def of_stream(k: int) -> Callable[[Stream], Stream]:
        def cut(s: Stream) -> Stream:
            trace.features(s, at % len(s.dims))
            return gathered(trace, op, s, part(k)(places(trace, s)))

        return cut

    return [moved(value, part(k), of_stream(k)) for k in range(len(op.outputs))]


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
    added = np.concatenate(shift, at).ravel()
    if not np.any(added):
        return result
    zeros, ones = np.zeros_like(added), np.ones_like(added)
    name = trace.emit(
        op, result.value, lambda name: Scale(name, result.value, zeros, ones, added), len(added)
    )
    return replace(result, value=name)


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


@operator("Pad", "of features; of steps, before a convolution or pooling")
def _pad(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    mode = op.attributes.get("mode", "constant")
    pads = [int(n) for n in parameter(op, args, 1, "pads") or []]
    value = parameter(op, args, 2, "value") or [0.0]
    if isinstance(args[0], Known):
        raise op.refuse("data", "is a constant", "fold constants in the export")
    s = as_stream(trace, op, args[0], "data")
    at = parameter(op, args, 3, "axes") or list(range(len(s.dims)))
    for k, i in enumerate(int(i) % len(s.dims) for i in at):
        before, after = pads[k], pads[k + len(at)]
        if before or after:
            s = _padded(trace, op, s, i, (before, after), mode, float(value[0]))
    return [s]


def _padded(
    trace: Trace, op: Op, s: Stream, i: int, around: tuple[int, int], mode: str, value: float
) -> Stream:
    """One dimension with so much more before and after it."""
    dim, (before, after) = s.dims[i], around
    flat = len(s.dims) < 3 and is_feature(trace, s, i)
    feature = not dim or flat or trace.axes.has(dim, Role.FEATURE)
    if min(before, after) < 0:
        if not feature:
            raise op.refuse(f"pads {around}", "it cuts steps off", "use valid convolutions")
        stop = trace.axes.length(dim) + min(after, 0)
        cut = _cut(trace, op, s, i, slice(max(-before, 0), stop, 1))
        return _padded(trace, op, cut, i, (max(before, 0), max(after, 0)), mode, value)
    if feature:
        return _more_features(trace, op, s, i, around, mode, value)
    if mode != "constant" and trace.axes.role(dim[0]) is None:
        trace.axes.size(dim[0])
    if mode != "constant":
        raise op.refuse(f"mode {mode}", "it repeats steps", "pad with a constant")
    trace.axes.bind(dim, Role.TIME)
    size = None if dim[0].size is None else dim[0].size + before + after
    longer = trace.axis(f"padded {dim[0]}", size, Role.TIME)
    dims = (*s.dims[:i], longer, *s.dims[i + 1 :])
    return replace(s, dims=dims, padded=(before, after, value))


def _more_features(
    trace: Trace, op: Op, s: Stream, i: int, around: tuple[int, int], mode: str, value: float
) -> Stream:
    old = places(trace, s)
    few_enough(old.size / old.shape[i] * (old.shape[i] + sum(around)))
    width = [around if k == i else (0, 0) for k in range(old.ndim)]
    if mode == "constant":
        result = gathered(trace, op, s, np.pad(old, width, constant_values=-1))
        added = np.pad(np.zeros(old.shape, np.float32), width, constant_values=value).ravel()
        if not np.any(added):
            return result
        zeros, ones = np.zeros_like(added), np.ones_like(added)
        name = trace.emit(
            op, result.value, lambda name: Scale(name, result.value, zeros, ones, added), len(added)
        )
        return replace(result, value=name)
    modes: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    return gathered(trace, op, s, np.pad(old, width, mode=modes[mode]))
