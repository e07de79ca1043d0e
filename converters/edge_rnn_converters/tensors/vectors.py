"""Where the elements of a step's array are in its value's vector, and how they get elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32, Scale, Slice, Take
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.trace import Trace
from edge_rnn_converters.tensors.values import AxisError, Dim, Role, Stream

Places: TypeAlias = NDArray[np.int64]
"""For each element of a step's array, its place in the vector; -1 for a zero. Dimensions that are
no features are one long."""

MAX_PLACES = 1 << 24


def few_enough(n: float) -> None:
    """Raises AxisError where an array of a step would have so many elements, before it is made."""
    if n > MAX_PLACES:
        raise AxisError(f"{n:.3g} numbers are more than are tried")


def places(trace: Trace, stream: Stream) -> Places:
    """Where the stream's elements are."""
    order = trace.order(stream)
    mixed = [d for d in stream.dims if 0 < len(trace.axes.features(d)) < len(d)]
    if mixed:
        raise AxisError(f"features merged from the axes {list(mixed[0])}")
    atoms = [atom for dim in stream.dims for atom in trace.axes.features(dim)]
    if set(atoms) != set(order):
        raise AxisError(f"it holds only a part of {stream.value!r}")
    sizes = [trace.axes.size(atom) for atom in order]
    few_enough(math.prod(sizes))
    vector = np.arange(int(np.prod(sizes))).reshape(sizes)
    turned = vector.transpose([order.index(atom) for atom in atoms])
    return turned.reshape([trace.axes.length(trace.axes.features(d)) for d in stream.dims])


def gathered(
    trace: Trace, op: Op, stream: Stream, wanted: Places, dims: Sequence[Dim] | None = None
) -> Stream:
    """The stream's elements at these places.

    `dims`: what the dimensions are that are no features; by default those of the stream.
    """
    old = places(trace, stream)
    if dims is None and wanted.shape == old.shape and np.array_equal(old, wanted):
        return replace(stream, order=trace.order(stream))
    return _row_major(trace, op, stream, wanted, stream.dims if dims is None else dims)


def arranged(trace: Trace, op: Op, stream: Stream) -> Stream:
    """The stream with its vector in the row-major order of its dimensions."""
    old = places(trace, stream)
    if np.array_equal(old.ravel(), np.arange(old.size)):
        return replace(stream, order=trace.order(stream))
    return _row_major(trace, op, stream, old, stream.dims)


def _row_major(trace: Trace, op: Op, stream: Stream, wanted: Places, dims: Sequence[Dim]) -> Stream:
    few_enough(wanted.size)
    name = taken(trace, op, stream, wanted.ravel())
    made = []
    for i, (dim, n) in enumerate(zip(dims, wanted.shape, strict=True)):
        feature = not dim or trace.axes.has(dim, Role.FEATURE)
        made.append(trace.axis(f"{name} axis {i}", n) if feature else dim)
    order = sum((d for d in made if trace.axes.has(d, Role.FEATURE)), ())
    return replace(stream, value=name, dims=tuple(made), order=order)


def plus(trace: Trace, op: Op, stream: Stream, constants: F32) -> Stream:
    """The stream with constants, one a number of its vector, added."""
    if not np.any(constants):
        return stream
    zeros, ones, read = np.zeros_like(constants), np.ones_like(constants), stream.value
    name = trace.emit(op, read, lambda name: Scale(name, read, zeros, ones, constants),
                      len(constants))  # fmt: skip
    return replace(stream, value=name)


def taken(trace: Trace, op: Op, stream: Stream, wanted: Places) -> str:
    """The value that has these places of the stream's vector."""
    n, width = len(wanted), trace.width(stream)
    first = int(wanted[0])
    if first >= 0 and np.array_equal(wanted, np.arange(first, first + n)):
        if n == width:
            return stream.value
        return trace.emit(
            op, stream.value, lambda name: Slice(name, stream.value, first, first + n), n
        )
    source, chosen = stream.value, wanted
    before = trace.nodes.get(stream.value)
    if isinstance(before, Take):
        old = before.places.astype(np.int64)
        source, chosen = before.input, np.where(wanted < 0, -1, old[wanted])
    return trace.emit(op, source, lambda name: Take(name, source, chosen.astype(np.float32)), n)
