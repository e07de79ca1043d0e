"""How a graph's inputs are entered into a trace: streams, states, lengths, numbers that choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn_converters.source import Options, refuse
from edge_rnn_converters.tensors.graph import LENGTHS, STATES, TensorGraph, TensorInput, reaching
from edge_rnn_converters.tensors.trace import Trace
from edge_rnn_converters.tensors.values import Dim, Known, Lengths, Role, State, Stream, axis

Reading: TypeAlias = Literal["sequence", "message"] | int
"""What the inputs' axes may be before anything reads them: "sequence": who knows; "message": those
of fixed sizes lie inside one message; a number: that one is the steps, others of fixed sizes lie
inside one message."""

_RATES = ("sr", "rate", "sample_rate", "sampling_rate")
DEFAULT_RATE = 16000


@dataclass(slots=True)
class Entered:
    """The graph's inputs by what they are; `fixed` are fed as they are, `lengths` with the number
    of steps."""

    inputs: tuple[TensorInput, ...]
    streams: dict[str, Stream] = field(default_factory=dict)
    states: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    fixed: dict[str, NDArray[Any]] = field(default_factory=dict)
    lengths: tuple[TensorInput, ...] = ()
    notes: list[str] = field(default_factory=list)

    def used(self, trace: Trace) -> list[TensorInput]:
        """The inputs that are the model's."""
        return [i for i in self.inputs if i.name in self.streams
                and self.streams[i.name].value in trace.widths]  # fmt: skip


def readings(graph: TensorGraph) -> Iterator[Reading]:
    """What to try, the likeliest first."""
    yield "sequence"
    yield "message"
    yield from range(max((len(i.shape) for i in graph.inputs), default=0))


def enter(trace: Trace, graph: TensorGraph, reading: Reading, options: Options) -> Entered:
    """Give constants and inputs their values.

    Raises UnsupportedError for inputs of other types than float32 and integers, and for a number
    that is not known.
    """
    trace.values.update({name: Known(a) for name, a in graph.constants.items()})
    trace.framed = reading == "message"
    trace.axes.window = options.window
    entered = Entered(tuple(_told(i, options) for i in graph.inputs))
    states, lengths = reaching(graph, STATES), reaching(graph, LENGTHS)
    for i in entered.inputs:
        if i.name in states and i.dtype == np.float32:
            entered.states[i.name] = trace.new_ids([n or 1 for n in i.shape])
            trace.values[i.name] = State(entered.states[i.name])
        elif i.name in lengths:
            entered.lengths += (i,)
            trace.values[i.name] = Lengths()
        elif not i.shape or not isinstance(options.inputs.get(i.name, ()), tuple):
            entered.fixed[i.name] = _number(entered, i, options)
            trace.values[i.name] = Known(entered.fixed[i.name])
        else:
            entered.streams[i.name] = _stream(trace, i, reading)
            trace.values[i.name] = entered.streams[i.name]
    trace.entered = trace.ids
    if not entered.streams:
        raise refuse("model", "inputs", "none is a stream", "export a model with an input")
    return entered


def _told(i: TensorInput, options: Options) -> TensorInput:
    """The input with the shape that the user gave it."""
    shape = options.inputs.get(i.name)
    if not isinstance(shape, tuple):
        return i
    fits = len(shape) == len(i.shape) and all(
        b in (None, a) for a, b in zip(shape, i.shape, strict=True)
    )
    if not fits:
        raise refuse(
            f"input {i.name!r}", f"shape {shape}", f"the source has {i.shape}", "give that"
        )
    return replace(i, shape=shape)


def _number(entered: Entered, i: TensorInput, options: Options) -> NDArray[Any]:
    """The number of an input that only chooses: the user's, or the usual sampling rate."""
    value = options.inputs.get(i.name)
    if value is None and i.name in _RATES and i.dtype.kind in "iu":
        value = DEFAULT_RATE
        entered.notes.append(
            f"input {i.name!r} is taken to be {value}, and what it chooses is converted; "
            f"give another with --input {i.name}=NUMBER"
        )
    if value is None or isinstance(value, tuple):
        why = "is a single number, no stream"
        raise refuse(f"input {i.name!r}", "value", why, f"give it with --input {i.name}=NUMBER")
    return np.full([n or 1 for n in i.shape], value, i.dtype)


def _stream(trace: Trace, i: TensorInput, reading: Reading) -> Stream:
    dims = tuple(axis(f"axis {k} of {i.name!r}", n) for k, n in enumerate(i.shape))
    value = trace.names.unique(i.name)
    trace.inputs.add(value)
    if i.dtype.kind in "iu":
        trace.indices.add(value)
    elif i.dtype != np.float32:
        raise refuse(f"input {i.name!r}", f"{i.dtype}", "expected float32", "export in float32")
    _prebind(trace, dims, reading)
    return Stream(value, dims, sum(dims, ()))


def _prebind(trace: Trace, dims: tuple[Dim, ...], reading: Reading) -> None:
    if reading == "sequence":
        return
    for k, dim in enumerate(dims):
        if k == reading:
            trace.axes.bind(dim, Role.TIME)
        elif all(atom.size is not None for atom in dim):
            trace.axes.bind(dim, Role.FEATURE)
