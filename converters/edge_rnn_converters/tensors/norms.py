"""Operators that normalise: whole ones, and those that a graph spells out in smaller operators.

x / sqrt(mean(x^2) + epsilon) is told by the nodes that were made of it, however they were written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edge_rnn.graph import (
    Activation,
    Add,
    FramePool,
    L2Norm,
    LayerNorm,
    Multiply,
    Node,
    RmsNorm,
    Scale,
    Take,
)
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import CHAIN, along, same
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, weights
from edge_rnn_converters.tensors.values import Stream, Value

operator = Operators()


@dataclass(frozen=True, slots=True)
class _Root:
    """max(sqrt(factor mean(of^2) + epsilon), floor)."""

    of: str
    factor: float
    epsilon: float
    floor: float = 0.0


def reciprocal(trace: Trace, op: Op, x: Stream) -> Stream | None:
    """1 / x where x is a root as norms have it, to be multiplied later."""
    if _root(trace, x.value) is None:
        return None
    name = trace.names.unique(f"one over {x.value}")
    trace.inverses[name] = x
    return replace(x, value=name)


def product(trace: Trace, op: Op, x: Stream, other: Stream) -> Stream | None:
    """x times the other where that stands for one over a root."""
    below = trace.inverses.get(other.value)
    return None if below is None else quotient(trace, op, x, below)


def quotient(trace: Trace, op: Op, x: Stream, below: Stream) -> Stream | None:
    """x / below where that is a norm of all of x; else None."""
    root = _root(trace, below.value)
    if root is None or root.of != x.value:
        return None
    width = trace.width(x)
    gain = np.full(width, 1 / np.sqrt(root.factor), np.float32)
    epsilon = root.epsilon / root.factor
    make: Callable[[str], Node]
    centred = _centred(trace, x.value)
    if root.floor and (root.epsilon or abs(root.factor - width) > 1e-6 * width):
        return None
    if root.floor:
        make = lambda name: L2Norm(name, x.value, root.floor)  # noqa: E731
    elif centred is not None:
        make = lambda name: LayerNorm(name, centred, gain, np.zeros_like(gain), epsilon)  # noqa: E731
    else:
        make = lambda name: RmsNorm(name, x.value, gain, epsilon)  # noqa: E731
    return same(trace, op, x, make)


def _root(trace: Trace, name: str) -> _Root | None:
    """The value as a root of a mean of squares."""
    name, floor = trace.floors.get(_unrepeated(trace, name), (name, 0.0))
    match trace.nodes.get(_unrepeated(trace, name)):
        case Activation(act="sqrt", input=inside):
            pass
        case _:
            return None
    affine = _scaled_mean(trace, inside)
    if affine is None:
        return None
    squares, factor, epsilon = affine
    of = _squared(trace, squares)
    if of is None or factor <= 0 or epsilon < 0:
        return None
    return _Root(of, factor, epsilon, floor)


def _scaled_mean(trace: Trace, name: str) -> tuple[str, float, float] | None:
    """The value as factor mean(of all of v) + epsilon: (v, factor, epsilon)."""
    factor, epsilon = 1.0, 0.0
    node = trace.nodes.get(name)
    while isinstance(node, Scale) and len(node.scale) == 1:
        scale = float(node.scale[0])
        epsilon += factor * (float(node.shift[0]) - scale * float(node.offset[0]))
        factor *= scale
        node = trace.nodes.get(node.input)
    of = _mean(node)
    return None if of is None or trace.widths[of[0]] != of[1] else (of[0], factor, epsilon)


def _mean(node: Node | None) -> tuple[str, int] | None:
    """(v, its width) if the node is the mean of a whole v."""
    match node:
        case FramePool(kind="average", channels=1, kernel=n, stride=m, input=of) if n == m:
            return of, n
    return None


def _squared(trace: Trace, name: str) -> str | None:
    match trace.nodes.get(name):
        case Activation(act="square", input=of):
            return of
        case Multiply(input=of, others=(other,)) if of == other:
            return of
    return None


def _centred(trace: Trace, name: str) -> str | None:
    """v if the value is v - mean v."""
    match trace.nodes.get(name):
        case Add(input=of, others=(minus,)):
            match trace.nodes.get(_unrepeated(trace, minus)):
                case Scale(input=mean, offset=offset, scale=scale, shift=shift):
                    plain = not np.any(offset) and not np.any(shift) and np.all(scale == -1)
                    found = _mean(trace.nodes.get(mean))
                    return of if plain and found == (of, trace.widths[of]) else None
    return None


def _unrepeated(trace: Trace, name: str) -> str:
    """The value of width one that this one repeats, or itself."""
    node = trace.nodes.get(name)
    if isinstance(node, Take) and not np.any(node.places) and trace.widths[node.input] == 1:
        return node.input
    return name


@operator("LayerNormalization RMSNormalization", "over all features")
def _layer_norm(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    x = as_stream(trace, op, args[0], "X")
    at = op.integer("axis", -1) % len(x.dims)
    _all_of(trace, op, x, range(at, len(x.dims)))
    gain = along(trace, op, x, weights(op, args[1], "scale"))
    there = len(args) > 2 and args[2] is not None
    bias = along(trace, op, x, weights(op, args[2], "B") if there else np.zeros(1, np.float32))
    epsilon = op.number("epsilon", 1e-5)
    if op.kind == "RMSNormalization":
        return [same(trace, op, x, lambda name: RmsNorm(name, x.value, gain, epsilon))]
    return [same(trace, op, x, lambda name: LayerNorm(name, x.value, gain, bias, epsilon))]


@operator("LpNormalization", "p=2, over all features")
def _lp_norm(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    x = as_stream(trace, op, args[0], "input")
    if op.integer("p", 2) != 2:
        raise op.refuse("p=1", "only p=2 converts", CHAIN)
    _all_of(trace, op, x, [op.integer("axis", -1) % len(x.dims)])
    return [same(trace, op, x, lambda name: L2Norm(name, x.value, 0.0))]


def _all_of(trace: Trace, op: Op, x: Stream, dims: range | list[int]) -> None:
    """Read these dimensions as the features, all that a step has."""
    if trace.features(x, *dims) != trace.width(x):
        raise op.refuse("axis", "a step has several vectors there", CHAIN)
