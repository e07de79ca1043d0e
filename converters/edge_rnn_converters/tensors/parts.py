"""Operators that take parts of an array, or a part that is larger: padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import Reverse
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import embedding
from edge_rnn_converters.tensors.moves import data, moved, parameter
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream
from edge_rnn_converters.tensors.values import (
    AxisError,
    Counter,
    Dim,
    Filled,
    Known,
    Lengths,
    Opaque,
    Role,
    State,
    Stream,
    Value,
    known_shape,
    with_dims,
)
from edge_rnn_converters.tensors.vectors import few_enough, gathered, places, plus

operator = Operators()

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
        added = np.pad(np.zeros(old.shape, np.float32), width, constant_values=value)
        return plus(trace, op, result, added.ravel())
    modes: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    return gathered(trace, op, s, np.pad(old, width, mode=modes[mode]))
