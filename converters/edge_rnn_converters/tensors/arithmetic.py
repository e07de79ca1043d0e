"""Operators on numbers, one by one: sums and products of streams and constants, activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_rnn.activations import tuned
from edge_rnn.graph import F32, Act, Activation, Add, Multiply, PRelu, Scale
from edge_rnn_converters import gates
from edge_rnn_converters.tensors import norms
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import CHAIN, along, same
from edge_rnn_converters.tensors.moves import is_zero
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, constant, weights
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


@operator("Pow Sqrt Exp Log Abs Neg Reciprocal", "square, root, exponential, in a norm")
def _function(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    found = folded(op, args)
    if found is not None:
        return [found]
    x = as_stream(trace, op, args[0], "input")
    if op.kind == "Neg":
        return [scaled(trace, op, x, 0, -1, 0)]
    if op.kind == "Reciprocal":
        inverse = norms.reciprocal(trace, op, x)
        if inverse is None:
            raise op.refuse("input", "it divides by the stream, in no norm that is known", CHAIN)
        return [inverse]
    acts: dict[str, Act] = {"Sqrt": "sqrt", "Exp": "exponential", "Log": "log", "Abs": "abs"}
    return [activated(trace, op, x, acts.get(op.kind) or _power(op, args))]


def _power(op: Op, args: list[Value | None]) -> Act:
    exponent = constant(op, args[1], "exponent").astype(np.float64)
    powers: dict[float, Act] = {2.0: "square", 0.5: "sqrt", 1.0: "linear"}
    if exponent.size != 1 or float(exponent.flat[0]) not in powers:
        raise op.refuse(f"exponent {exponent.tolist()}", "only 1, 2 and 0.5 convert", CHAIN)
    return powers[float(exponent.flat[0])]


_SIMPLE: dict[str, Act] = {
    "Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Softsign": "softsign",
    "Softplus": "softplus", "Mish": "mish", "HardSwish": "hard_swish",
}  # fmt: skip


@operator(" ".join(_SIMPLE), "")
def _activation(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    return [activated(trace, op, args[0], _SIMPLE[op.kind])]


@operator("Swish", "alpha 1")
def _swish(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if op.number("alpha", 1) != 1:
        raise op.refuse(f"alpha={op.number('alpha', 1):g}", "only 1 converts", CHAIN)
    return [activated(trace, op, args[0], "silu")]


@operator("HardSigmoid Elu ThresholdedRelu", "any alpha and beta")
def _tuned(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    usual = gates.ONNX_PARAMETERS[op.kind.lower()]
    alpha, beta = (op.number(n, d or 0) for n, d in zip(("alpha", "beta"), usual, strict=True))
    act = gates.onnx_act(op.kind, alpha, beta)
    assert act is not None  # noqa: S101 - all three are known
    return [activated(trace, op, args[0], act)]


@operator("Selu Gelu", "Selu's usual alpha and gamma; both Gelus")
def _usual(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if op.kind == "Gelu":
        tanh = op.attributes.get("approximate", "none") == "tanh"
        return [activated(trace, op, args[0], "gelu_tanh" if tanh else "gelu")]
    alpha, gamma = op.number("alpha", 1.6732632423543772), op.number("gamma", 1.0507009873554805)
    if abs(alpha - 1.6732632423543772) > 1e-6 or abs(gamma - 1.0507009873554805) > 1e-6:
        raise op.refuse(f"alpha={alpha:g}, gamma={gamma:g}", "only the usual ones convert", CHAIN)
    return [activated(trace, op, args[0], "selu")]


def activated(trace: Trace, op: Op, value: Value | None, act: Act) -> Stream:
    """The stream after an activation."""
    x = as_stream(trace, op, value, "input")
    return same(trace, op, x, lambda name: Activation(name, x.value, act))


@operator("LeakyRelu PRelu", "one slope, or one a feature")
def _prelu(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    x = as_stream(trace, op, args[0], "X")
    slope: F32 = np.array([op.number("alpha", 0.01)], np.float32)
    if op.kind == "PRelu":
        slope = weights(op, args[1], "slope")
    return [_sloped(trace, op, x, slope)]


def _sloped(trace: Trace, op: Op, x: Stream, slope: F32) -> Stream:
    parts = along(trace, op, x, slope)
    return same(trace, op, x, lambda name: PRelu(name, x.value, parts))


@operator("Clip", "any bounds")
def _clip(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    low, high = (_bound(op, args, i, n) for i, n in ((1, "min"), (2, "max")))
    return [_between(trace, op, as_stream(trace, op, args[0], "input"), low, high)]


_MOST = float(np.finfo(np.float32).max)
_CLIPS: dict[tuple[float | None, float | None], Act] = {
    (0, 6): "relu6", (0, None): "relu", (-1, 1): "hard_tanh", (None, None): "linear",
}  # fmt: skip


def _between(trace: Trace, op: Op, x: Stream, low: float | None, high: float | None) -> Stream:
    """x, but not below `low` nor above `high`."""
    ends = (-_MOST if low is None else low, _MOST if high is None else high)
    if ends[0] > ends[1]:
        raise op.refuse(f"min={low}, max={high}", "leaves a single number", CHAIN)
    act = _CLIPS.get((low, high)) or tuned("clip", *ends)
    result = activated(trace, op, x, act)
    if low is not None and high is None:
        trace.floors[result.value] = (x.value, low)
    return result


@operator("Max Min", "of a stream and a number")
def _extremes(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    found = folded(op, args)
    if found is not None:
        return [found]
    streams = [a for a in args if isinstance(a, Stream | State)]
    if not streams:
        return [Opaque(op.outputs[0])]
    limits = [a for a in args if isinstance(a, Known) and a.array.size == 1]
    if len(streams) != 1 or len(limits) != 1:
        raise op.refuse("inputs", "only a stream and one number convert", CHAIN)
    end, x = float(limits[0].array.flat[0]), as_stream(trace, op, streams[0], "input")
    low, high = (end, None) if op.kind == "Max" else (None, end)
    return [_between(trace, op, x, low, high)]


def _bound(op: Op, args: list[Value | None], index: int, name: str) -> float | None:
    """An end of a Clip: attribute or input; float32's largest number is none."""
    value = op.attributes.get(name)
    if index < len(args) and args[index] is not None:
        value = float(constant(op, args[index], name).reshape(()))
    return None if value is None or abs(value) >= np.finfo(np.float32).max else float(value)
