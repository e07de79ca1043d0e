"""Functions of numbers, one by one: activations, powers, bounds."""

from __future__ import annotations

import numpy as np

from edge_rnn.activations import tuned
from edge_rnn.graph import F32, Act, Activation, PRelu
from edge_rnn_converters import gates
from edge_rnn_converters.tensors import norms
from edge_rnn_converters.tensors.arithmetic import folded, scaled
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import CHAIN, along, same
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, constant, weights
from edge_rnn_converters.tensors.values import Known, Opaque, State, Stream, Value

operator = Operators()


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
