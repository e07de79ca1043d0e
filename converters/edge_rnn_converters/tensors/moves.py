"""Operators that move axes or bookkeep shapes; they make no node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn_converters.tensors import values as axes
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.trace import Operators, Trace, constant
from edge_rnn_converters.tensors.values import (
    AxisError,
    Filled,
    Known,
    Opaque,
    Role,
    Size,
    State,
    Stream,
    Value,
)

operator = Operators()

_FOLDED = 4096
_DOC = "moves axes, or computes shapes"


def moved(
    value: Value,
    array: Callable[[NDArray[Any]], NDArray[Any]],
    stream: Callable[[Stream], Stream],
) -> Value:
    """The value after a move, given as what it does to an array and what to a stream's axes."""
    match value:
        case Known():
            return Known(array(value.array))
        case Stream():
            return stream(value)
        case State():
            return State(array(value.ids), _or_none(stream, value.stream))
    return value


def _or_none(move: Callable[[Stream], Stream], stream: Stream | None) -> Stream | None:
    try:
        return None if stream is None else move(stream)
    except AxisError:
        return None  # part of a state: still a state, no longer a step's value


def _parameter(op: Op, args: list[Value | None], index: int, name: str) -> list[Any] | None:
    """Integers that are an attribute in older operator sets and an input in newer ones."""
    if name in op.attributes:
        return list(np.atleast_1d(op.attributes[name]))
    value = args[index] if index < len(args) else None
    return None if value is None else list(np.atleast_1d(constant(op, value, name)))


@operator("Transpose", _DOC)
def _transpose(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    def dims(s: Stream) -> Stream:
        perm = op.attributes.get("perm", range(len(s.dims))[::-1])
        return axes.with_dims(s, axes.transpose(s.dims, perm))

    return [moved(_data(args), lambda a: np.transpose(a, op.attributes.get("perm")), dims)]


@operator("Squeeze", _DOC)
def _squeeze(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    which = _parameter(op, args, 1, "axes")
    at = None if which is None else tuple(int(i) for i in which)
    return [
        moved(
            _data(args),
            lambda a: np.squeeze(a, at),
            lambda s: axes.with_dims(s, axes.squeeze(s.dims, at, trace.roles)),
        )
    ]


@operator("Unsqueeze", _DOC)
def _unsqueeze(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    at = tuple(int(i) for i in _parameter(op, args, 1, "axes") or ())
    return [
        moved(
            _data(args),
            lambda a: np.expand_dims(a, at),
            lambda s: axes.with_dims(s, axes.unsqueeze(s.dims, at)),
        )
    ]


@operator("Reshape", _DOC)
def _reshape(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if not isinstance(args[1], Known):
        if isinstance(args[0], Stream):
            raise op.refuse("shape", "is computed in a way not followed", "export a fixed shape")
        return [Opaque(op.outputs[0])]
    shape = args[1].array
    copies = not op.integer("allowzero", 0)
    return [
        moved(
            _data(args),
            lambda a: _reshaped(a, list(shape)),
            lambda s: axes.with_dims(s, axes.reshape(s.dims, list(shape), copies)),
        )
    ]


def _reshaped(a: NDArray[Any], shape: list[Any]) -> NDArray[Any]:
    """A state has a batch of one, so a size that depends on the run is one."""
    sizes = [1 if isinstance(n, Size) else int(n) for n in shape]
    return a.reshape([a.shape[i] if n == 0 else n for i, n in enumerate(sizes)])


@operator("Flatten", _DOC)
def _flatten(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    at = op.integer("axis", 1)

    def dims(s: Stream) -> Stream:
        cut = at % len(s.dims) if at < 0 else at
        halves = (s.dims[:cut], s.dims[cut:])
        return axes.with_dims(s, tuple(sum(half, ()) for half in halves))

    return [moved(_data(args), lambda a: a.reshape(int(np.prod(a.shape[:at])), -1), dims)]


@operator("Identity Dropout", _DOC)
def _identity(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if len(args) > 2 and args[2] is not None and np.any(constant(op, args[2], "training_mode")):
        raise op.refuse("training_mode", "is on", "export the model for inference")
    return [_data(args)]


@operator("Cast", "to float32; to integers before an embedding")
def _cast(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    dtype = np.dtype(op.attributes["to"])
    value = _data(args)
    if isinstance(value, Known) and value.array.dtype != object:
        return [Known(value.array.astype(dtype))]
    if isinstance(value, Stream) and value.value in trace.inputs and dtype.kind in "iu":
        trace.indices.add(value.value)
    elif isinstance(value, Stream | State) and dtype != np.float32:
        raise op.refuse(f"to {dtype}", "the stream is float32 here", "export in float32")
    return [value]


@operator("Slice", "of states; of the stream, its last step")
def _slice(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    starts, ends = (_parameter(op, args, i, n) or [] for i, n in ((1, "starts"), (2, "ends")))
    at, steps = (_parameter(op, args, i, n) for i, n in ((3, "axes"), (4, "steps")))
    cuts = [
        (int(i), slice(int(a), int(b), int(c)))
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
        for i, cut in cuts:
            s = _cut(trace, s, i % len(s.dims), cut)
        return s

    return [moved(_data(args), array, stream)]


def _cut(trace: Trace, s: Stream, i: int, cut: slice) -> Stream:
    """Slice one dimension of the stream: all of it, or the last step."""
    dim, many = s.dims[i], 1 << 30
    size = dim[0].size if len(dim) == 1 else 1 if not dim else None
    if cut.step == 1 and (cut.start == 0 or not dim) and cut.stop >= (size or many):
        return s
    if cut.step == 1 and cut.start == -1 and cut.stop >= (size or many):
        return _last(trace, s, i, keep=True)
    raise AxisError(f"{cut.start}:{cut.stop} of {list(dim)} is neither all of it nor the last step")


def _last(trace: Trace, s: Stream, i: int, keep: bool) -> Stream:
    """Only the last step of the stream, whose time is at dimension i."""
    if len(s.dims[i]) != 1 or trace.roles.of.get(s.dims[i][0]) is not Role.TIME:
        raise AxisError(f"the last of {list(s.dims[i])} is not the last step")
    kept: tuple[axes.Dim, ...] = ((),) if keep else ()
    return replace(s, dims=(*s.dims[:i], *kept, *s.dims[i + 1 :]), last=True)


def pick(trace: Trace, op: Op, data: Value, index: NDArray[Any], at: int) -> Value:
    """Gather along a dimension at constant indices."""

    def stream(s: Stream) -> Stream:
        i, keep = at % len(s.dims), index.ndim > 0
        if index.size != 1:
            raise AxisError("it takes several indices of the stream")
        if not s.dims[i] or (s.dims[i][0].size is None and int(index.flat[0]) == 0):
            trace.roles.drop(s.dims[i])
            kept: tuple[axes.Dim, ...] = ((),) if keep else ()
            return axes.with_dims(s, (*s.dims[:i], *kept, *s.dims[i + 1 :]))
        if int(index.flat[0]) != -1 and int(index.flat[0]) + 1 != s.dims[i][0].size:
            raise AxisError(f"index {index.flat[0]} of {list(s.dims[i])} is not the last step")
        return _last(trace, s, i, keep)

    return moved(data, lambda a: np.take(a, index.astype(np.int64), axis=at), stream)


@operator("Split", "of states")
def _split(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    value = _data(args)
    if isinstance(value, Stream):
        raise op.refuse("input", "parts of the stream have no node here", "export it whole")
    if not isinstance(value, Known | State):
        return [value for _ in op.outputs]
    a = value.array if isinstance(value, Known) else value.ids
    sizes = _parameter(op, args, 1, "split")
    cuts = len(op.outputs) if sizes is None else np.cumsum(sizes)[:-1].astype(int)
    parts = np.array_split(a, cuts, axis=op.integer("axis", 0))
    return [Known(p) if isinstance(value, Known) else State(p) for p in parts]


@operator("Concat", "of states")
def _concat(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    at = op.integer("axis", 0)
    if all(isinstance(a, Known) for a in args):
        return [Known(np.concatenate([a.array for a in args if isinstance(a, Known)], at))]
    if all(isinstance(a, State) for a in args):
        return [State(np.concatenate([a.ids for a in args if isinstance(a, State)], at))]
    if any(isinstance(a, Stream | State) for a in args):
        raise op.refuse("inputs", "the stream is joined with another value", "export a plain chain")
    return [Filled(0.0) if all(map(is_zero, args)) else Opaque(op.outputs[0])]


@operator("Shape", _DOC)
def _shape(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    cut = slice(op.integer("start", 0), op.attributes.get("end"))
    match args[0]:
        case Stream():
            return [Known(axes.sizes(args[0]).array[cut])]
        case Known():
            return [Known(np.array(args[0].array.shape, np.int64)[cut])]
    return [Opaque(op.outputs[0])]


@operator("ConstantOfShape", _DOC)
def _constant_of_shape(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    value = np.asarray(op.attributes.get("value", np.zeros(1, np.float32)))
    shape = args[0].array if isinstance(args[0], Known) else np.array([None], object)
    if value.dtype.kind == "i" and shape.dtype != object and np.prod(shape) <= _FOLDED:
        return [Known(np.full(tuple(shape), value.flat[0]))]
    return [Filled(float(value.flat[0]))]


@operator("Expand Tile", _DOC)
def _expand(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    match args[0]:
        case Filled():
            return [args[0]]
        case Known(array=a) if a.dtype != object and a.size and np.all(a == a.flat[0]):
            return [Filled(float(a.flat[0]))]
        case Stream() | State():
            raise op.refuse("input", "the stream is repeated", "export a plain chain")
    return [Opaque(op.outputs[0])]


@operator("Constant", _DOC)
def _constant(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    ((name, value),) = op.attributes.items()
    known = name in ("value", "value_float", "value_floats", "value_int", "value_ints")
    if not known:
        return [Opaque(op.outputs[0])]
    dtype = np.float32 if name.startswith("value_float") else None
    return [Known(np.asarray(value, dtype))]


def is_zero(value: Value | None) -> bool:
    """Is every element of the value provably zero?"""
    match value:
        case Known(array=a):
            return a.dtype != object and not np.any(a)
        case Filled(number=n):
            return n == 0
    return False


def _data(args: list[Value | None]) -> Value:
    return args[0] if args and args[0] is not None else Opaque("")
