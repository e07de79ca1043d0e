"""Loops over the steps that hold their body as a graph: one turn of it, executed, is the model.

What a turn hands to the next must be the states of cells, or rows of a list; all else that a body
does is then done at every step of the sequence, as by operators outside of a loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn_converters.tensors.cells import begin, numbers
from edge_rnn_converters.tensors.graph import Op, TensorGraph, carried
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream
from edge_rnn_converters.tensors.values import (
    AxisError,
    Counter,
    Dim,
    Known,
    Opaque,
    Role,
    Rows,
    Size,
    State,
    Stream,
    Value,
)

operator = Operators()

_WAY_OUT = "build the model with the framework's own recurrent layers"


@operator("Scan", "over the steps; what it hands on are states of cells, known or written out")
def _scan(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    body: TensorGraph = op.attributes["body"]
    count = op.integer("num_scan_inputs", 0)
    states = len(args) - count
    if len(body.inputs) != len(args) or not count:
        why = f"are {len(args)}, those of its body {len(body.inputs)}"
        raise op.refuse("inputs", why, "export with operator set 9 or later")
    for name in ("scan_input_directions", "scan_output_directions"):
        if any(op.attributes.get(name, ())):
            raise op.refuse(name, "goes backwards", "export with a recurrent layer of its own")
    axes = op.attributes.get("scan_input_axes", [0] * count)
    sequences = [as_stream(trace, op, a, "sequence") for a in args[states:]]
    taken = [trace.row(s, int(k)) for s, k in zip(sequences, axes, strict=True)]
    names = (i.name for i in body.inputs[states:])
    turn = _turned(trace, op, args[:states], dict(zip(names, taken, strict=True)))
    lists = body.outputs[states:]
    into = op.attributes.get("scan_output_axes", [0] * len(lists))
    return turn.states + [turn.listed(n, int(k)) for n, k in zip(lists, into, strict=True)]


@operator("Loop", "over the steps, each taken by its number; else as Scan")
def _loop(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    body: TensorGraph = op.attributes["body"]
    count, goes_on = (i.name for i in body.inputs[:2])
    if len(body.inputs) != len(args) or len(body.outputs) < len(args) - 1:
        raise op.refuse("inputs", "do not fit its body", "export the model again")
    given: dict[str, Value] = {count: Counter(), goes_on: Known(np.array(True))}
    turn = _turned(trace, op, args[2:], given)
    for value in (args[1], trace.values[body.outputs[0]]):
        if value is not None and not (isinstance(value, Known) and np.all(value.array)):
            raise op.refuse("cond", "may end it early", "loop over all of the steps")
    if not _are(trace, args[0], turn.time):
        why = f"are not known to be as many as the steps, {list(turn.time)}"
        raise op.refuse("turns", why, "loop over all of the steps")
    return turn.states + [turn.listed(n, 0) for n in body.outputs[len(args) - 1 :]]


def _are(trace: Trace, turns: Value | None, time: Dim) -> bool:
    """Does the loop make a turn for each step?"""
    if not isinstance(turns, Known) or turns.array.size != 1:
        return False
    n = turns.array.reshape(-1)[0]
    if isinstance(n, Size):
        return n.dim == time
    return all(atom.size is not None for atom in time) and int(n) == trace.axes.length(time)


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """One turn of a loop, executed: what its states are after the last, its steps' dimension."""

    trace: Trace
    op: Op
    states: list[Value]
    time: Dim

    def listed(self, name: str, axis: int) -> Value:
        """All steps' values side by side, the steps as dimension `axis`."""
        row = as_stream(self.trace, self.op, self.trace.value(self.op, name), "output")
        return stacked(self.trace, row, self.time, axis)


def stacked(trace: Trace, row: Stream, time: Dim, axis: int) -> Stream:
    """The values of all steps, from that of one. Raises AxisError where it has those already."""
    if row.last or trace.axes.find(row.dims, Role.TIME) is not None:
        raise AxisError(f"{row.value!r} is of the whole sequence, inside a loop over it")
    at = axis % (len(row.dims) + 1)
    return replace(row, dims=(*row.dims[:at], time, *row.dims[at:]))


def _turned(
    trace: Trace, op: Op, initial: Sequence[Value | None], given: Mapping[str, Value]
) -> _Turn:
    body: TensorGraph = op.attributes["body"]
    pairs = carried(op, body)
    before = [_before(trace, op, body, *pair, v) for pair, v in zip(pairs, initial, strict=True)]
    cells, framed = len(trace.cells), trace.framed
    trace.framed = True
    trace.values.update({name: Known(a) for name, a in body.constants.items()})
    trace.values.update(given)
    trace.values.update({i.name: v for (i, _), v in zip(pairs, before, strict=True)})
    trace.run(body.operators)
    trace.framed = framed
    if not trace.steps:
        raise op.refuse("body", "reads no sequence step by step", _WAY_OUT)
    time = trace.steps[-1]
    trace.steps.clear()
    following = _following(trace, cells)
    after = [
        _after(op, i.name, old, trace.value(op, name), following, time)
        for (i, name), old in zip(pairs, before, strict=True)
    ]
    _begin(trace, op, cells, zip(before, initial, strict=True))
    return _Turn(trace, op, after, time)


def _before(
    trace: Trace, op: Op, body: TensorGraph, i: Any, after: str, value: Value | None
) -> Value:
    """What the body is given: elements of a state, a list as yet empty, or what never changes."""
    if isinstance(value, Rows) or (value is not None and body.same(after, i.name)):
        return value
    if i.dtype.kind != "f" or value is None:
        return Opaque(i.name)
    shape = np.shape(value.ids) if isinstance(value, State) else body.shapes.get(i.name)
    if shape is None or sum(n is None for n in shape) > 1:
        why = "has a shape that is not known"
        raise op.refuse(f"state {i.name!r}", why, "export with fixed sizes")
    ids = trace.new_ids([n or 1 for n in shape])
    trace.entering.update(ids.ravel().tolist())
    return State(ids)


def _following(trace: Trace, cells: int) -> dict[int, int]:
    """The state element after a turn, of each before it, of the cells from that one on."""
    found: dict[int, int] = {}
    for cell in trace.cells[cells:]:
        if cell.initial is not None:
            found.update(zip(cell.initial.tolist(), cell.final.ravel().tolist(), strict=True))
    return found


def _after(
    op: Op, name: str, old: Value, new: Value, following: Mapping[int, int], time: Dim
) -> Value:
    """What a state is after the last turn."""
    match old, new:
        case State(), State() if new is not old:
            wanted = [following.get(e, -1) for e in old.ids.ravel().tolist()]
            if wanted == new.ids.ravel().tolist():
                stream = new.stream and replace(new.stream, last=bool(time))
                return State(new.ids, stream)
        case Rows(row=None), Rows():
            return replace(new, time=time)
        case Opaque(), _:
            return Opaque(name)
    if new is old:
        return old
    why = "is handed on to the next step, and is the state of no cell that is known"
    raise op.refuse(f"state {name!r}", why, _WAY_OUT)


def _begin(trace: Trace, op: Op, cells: int, states: Any) -> None:
    """The cells' states begin where the loop's do."""
    starts: dict[int, int | None] = {}
    first: dict[int, float] = {}
    for inside, outside in states:
        if not isinstance(inside, State) or inside is outside:
            continue
        elements = inside.ids.ravel().tolist()
        if isinstance(outside, State):
            starts.update(zip(elements, outside.ids.ravel().tolist(), strict=True))
        else:
            starts.update(dict.fromkeys(elements))
            given = numbers(op, "initial state", outside, len(elements))
            first.update(zip(elements, [] if given is None else given.tolist(), strict=False))
    for k, cell in enumerate(trace.cells[cells:], cells):
        if cell.initial is None:
            continue
        own = np.array([first.get(e, 0.0) for e in cell.initial.tolist()], np.float32)
        begin(trace, cell.node, cell.slot, own if own.any() else None)
        trace.cells[k] = replace(cell, initial=_outer(op, cell.initial, starts))


def _outer(
    op: Op, inside: NDArray[np.int64], starts: Mapping[int, int | None]
) -> NDArray[np.int64] | None:
    found = [starts.get(e, e) for e in inside.tolist()]
    if all(e is None for e in found):
        return None
    if any(e is None for e in found):
        raise op.refuse("initial state", "is in part zero, in part an input", "split the state")
    return np.array(found, np.int64)


@operator("SequenceEmpty SequenceInsert ConcatFromSequence", "a list of a loop's rows, one a step")
def _sequence(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if op.kind == "SequenceEmpty":
        return [Rows()]
    rows = args[0]
    if op.kind == "SequenceInsert" and rows == Rows() and len(args) == 2:
        return [Rows(as_stream(trace, op, args[1], "tensor"))]
    if op.kind != "ConcatFromSequence" or not isinstance(rows, Rows) or rows.row is None:
        raise op.refuse("sequence", "is no list with a row for each step of a loop", _WAY_OUT)
    axis, row = op.integer("axis", 0), rows.row
    if not op.integer("new_axis", 0):
        at = axis % len(row.dims)
        if row.dims[at]:
            raise AxisError(f"it joins the steps along {list(row.dims[at])}")
        row = replace(row, dims=(*row.dims[:at], *row.dims[at + 1 :]))
    return [stacked(trace, row, rows.time, axis)]
