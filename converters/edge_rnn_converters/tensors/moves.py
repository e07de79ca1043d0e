"""Operators that move axes or bookkeep shapes; they make no node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn_converters.tensors import axes
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.trace import Operators, Trace, constant
from edge_rnn_converters.tensors.values import (
    AxisError,
    Filled,
    Known,
    Opaque,
    Size,
    State,
    Stream,
    Value,
    known_shape,
    sizes,
    with_dims,
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
        case Known(array=a) if a.dtype == object:
            return known_shape(array(a))
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


def parameter(op: Op, args: list[Value | None], index: int, name: str) -> list[Any] | None:
    """Integers that are an attribute in older operator sets and an input in newer ones."""
    if name in op.attributes:
        return list(np.atleast_1d(op.attributes[name]))
    value = args[index] if index < len(args) else None
    return None if value is None else list(np.atleast_1d(constant(op, value, name)))


@operator("Transpose", _DOC)
def _transpose(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    def dims(s: Stream) -> Stream:
        perm = op.attributes.get("perm", range(len(s.dims))[::-1])
        return with_dims(s, axes.transpose(s.dims, perm))

    return [moved(data(args), lambda a: np.transpose(a, op.attributes.get("perm")), dims)]


@operator("Squeeze", _DOC)
def _squeeze(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    which = parameter(op, args, 1, "axes")
    at = None if which is None else tuple(int(i) for i in which)
    return [
        moved(
            data(args),
            lambda a: np.squeeze(a, at),
            lambda s: with_dims(s, axes.squeeze(s.dims, at, trace.axes)),
        )
    ]


@operator("Unsqueeze", _DOC)
def _unsqueeze(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    at = tuple(int(i) for i in parameter(op, args, 1, "axes") or ())
    return [
        moved(
            data(args),
            lambda a: np.expand_dims(a, at),
            lambda s: with_dims(s, axes.unsqueeze(s.dims, at)),
        )
    ]


@operator("Reshape", _DOC)
def _reshape(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if not isinstance(args[1], Known):
        if isinstance(args[0], Stream):
            raise op.refuse("shape", "is computed in a way not followed", "export a fixed shape")
        return [Opaque(op.outputs[0])]
    shape = list(args[1].array)
    copies = not op.integer("allowzero", 0)
    return [
        moved(
            data(args),
            lambda a: _reshaped(a, shape),
            lambda s: axes.reshape(s, shape, copies),
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
        return with_dims(s, tuple(sum(half, ()) for half in halves))

    return [moved(data(args), lambda a: a.reshape(int(np.prod(a.shape[:at])), -1), dims)]


@operator("Identity Dropout", _DOC)
def _identity(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if len(args) > 2 and args[2] is not None and np.any(constant(op, args[2], "training_mode")):
        raise op.refuse("training_mode", "is on", "export the model for inference")
    return [data(args)]


@operator("Cast", "to float32; to integers before an embedding")
def _cast(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    dtype, value = np.dtype(op.attributes["to"]), data(args)
    if isinstance(value, Known):
        whole = value.array.dtype == object
        return [value if whole else Known(value.array.astype(dtype))]
    if isinstance(value, Stream) and value.value in trace.inputs and dtype.kind in "iu":
        trace.indices.add(value.value)
    elif isinstance(value, Stream | State) and dtype != np.float32:
        raise op.refuse(f"to {dtype}", "the stream is float32 here", "export in float32")
    return [value]


@operator("Shape Size", _DOC)
def _shape(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    cut = slice(op.integer("start", 0), op.attributes.get("end"))
    match args[0]:
        case Stream():
            shape = sizes(args[0]).array
        case Known(array=a) | State(ids=a):
            shape = np.array(a.shape, np.int64)
        case _:
            return [Opaque(op.outputs[0])]
    if op.kind == "Shape":
        return [known_shape(shape[cut])]
    return [Opaque(op.outputs[0]) if shape.dtype == object else Known(np.prod(shape))]


@operator("ConstantOfShape", _DOC)
def _constant_of_shape(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    value = np.asarray(op.attributes.get("value", np.zeros(1, np.float32)))
    shape = args[0].array if isinstance(args[0], Known) else np.array([None], object)
    if value.dtype.kind == "i" and shape.dtype != object and np.prod(shape) <= _FOLDED:
        return [Known(np.full(tuple(shape), value.flat[0]))]
    return [Filled(float(value.flat[0]))]


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


def data(args: list[Value | None]) -> Value:
    """The first of the values read."""
    return args[0] if args and args[0] is not None else Opaque("")
