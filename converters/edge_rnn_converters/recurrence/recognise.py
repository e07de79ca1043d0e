"""From the operators of one step to the recurrent cells that they compute.

A step's states fall into cells: those that need each other. The cells come one after the other,
each reading the step's input or the cell before it. Each is matched exactly and then proven: it is
run beside the operators, in float64, on random inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn import reference
from edge_rnn.graph import Input, Model, Node
from edge_rnn_converters.recurrence.cells import match, rounded
from edge_rnn_converters.recurrence.equations import Cell
from edge_rnn_converters.recurrence.forms import F64, Form, FormError, Lane, sources
from edge_rnn_converters.recurrence.step import WAY_OUT, Space, Steps, Symbols
from edge_rnn_converters.source import refuse
from edge_rnn_converters.tensors.graph import Op, needed

PROOF_STEPS = 12
PROOF = 1e-9


@dataclass(frozen=True, slots=True)
class StepState:
    """A state of the step: the value before it, its shape, the value after it."""

    before: str
    shape: tuple[int, ...]
    after: str


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What happens in one step, as operators over named values with a batch of one.

    `name` is the loop's; `x` the input's name and shape; `outputs` the values that a step puts
    out, besides its states.
    """

    name: str
    operators: tuple[Op, ...]
    constants: Mapping[str, NDArray[Any]]
    x: tuple[str, tuple[int, ...]]
    states: tuple[StepState, ...]
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A cell: its node, without a name, reads the step's x, or the state `node.input` as it is
    after the step; `states` are the `before` names of its states, in the node's order."""

    node: Node
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recognised:
    """The cells in order, and of each output the state that it is the next value of."""

    cells: tuple[Found, ...]
    outputs: tuple[str, ...]


def recognise(step: Step) -> Recognised:
    """The cells that the step computes.

    Raises UnsupportedError naming the operator, or the state, that is in the way.
    """
    cells: list[Found] = []
    done: dict[str, StepState] = {}
    for group in groups(step):
        cells.append(_cell(step, group, done))
        done.update({s.before: s for s in group})
    outputs = tuple(_output(step, name) for name in step.outputs)
    found = [Found(_proven(step, cell), cell.states) for cell in cells]
    return Recognised(tuple(found), outputs)


def groups(step: Step) -> list[list[StepState]]:
    """The states of each cell, cells in the order in which they need each other."""
    needs = _needs(step)
    groups: list[list[StepState]] = []
    for state in sorted(step.states, key=lambda s: len(needs[s.before])):
        for group in groups:
            first = group[0].before
            if first in needs[state.before] and state.before in needs[first]:
                group.append(state)
                break
        else:
            groups.append([state])
    return groups


def _needs(step: Step) -> dict[str, set[str]]:
    """The states before the step that each state after it depends on."""
    reads: dict[str, set[str]] = {s.before: {s.before} for s in step.states}
    for op in step.operators:
        read = set().union(*(reads.get(name, set()) for name in op.inputs))
        reads.update(dict.fromkeys(op.outputs, read))
    return {s.before: reads.get(s.after, set()) for s in step.states}


def _cell(step: Step, group: list[StepState], done: Mapping[str, StepState]) -> Found:
    """The cell that has the states of this group; those of the cells before it are its inputs."""
    space = Space()
    shapes = {step.x[0]: step.x[1], **{s.before: s.shape for s in group}}
    values = {name: space.lane(name, shape) for name, shape in shapes.items()}
    cuts = {_origin(step, s.after): s for s in done.values()}
    for name, state in cuts.items():
        ids = space.lane(state.before, state.shape).ids
        values[name] = Symbols(ids.reshape(_shape_of(step, name)))
    rest = tuple(op for op in step.operators if op.outputs[0] not in cuts)
    operators = needed(rest, tuple(s.after for s in group))
    known = Steps(operators, step.constants).run(space, values)
    states = {s.before: (_lane(s), _whole(step, space, known[s.after])) for s in group}
    inputs = set().union(*(sources(form) for _, form in states.values())) - set(states)
    if len(inputs) != 1:
        shown = ", ".join(sorted(repr(i) for i in inputs)) or "nothing"
        raise _refusal(step, f"states {', '.join(states)}", f"are computed from {shown}")
    (source,) = inputs
    width = int(np.prod(step.x[1] if source == step.x[0] else done[source].shape))
    try:
        node, names = match(Cell(source, width, states))
    except FormError as e:
        shown = ", ".join(repr(name) for name in states)
        raise _refusal(step, f"states {shown}", str(e)) from e
    return Found(node, names)


def _lane(state: StepState) -> Lane:
    n = int(np.prod(state.shape))
    return Lane(state.before, n, np.arange(n))


_MOVES = ("Identity", "Reshape", "Squeeze", "Unsqueeze")


def _origin(step: Step, name: str) -> str:
    """The value that this one is, before operators that only shape it."""
    maker = {out: op for op in step.operators for out in op.outputs}
    while name in maker and maker[name].kind in _MOVES:
        name = maker[name].inputs[0]
    return name


def _shape_of(step: Step, name: str) -> tuple[int, ...]:
    """The shape of the value that the next state is made of by shaping."""
    values = _zeros(step)
    known = Steps(needed(step.operators, (name,)), step.constants).run(Space(), values)
    return tuple(np.asarray(known[name]).shape)


def _zeros(step: Step) -> dict[str, Any]:
    shapes = {step.x[0]: step.x[1], **{s.before: s.shape for s in step.states}}
    return {name: np.zeros(shape) for name, shape in shapes.items()}


def _whole(step: Step, space: Space, value: Any) -> Form:
    """The value as one form."""
    if not isinstance(value, Symbols):
        raise _refusal(step, "states", "are constants after the step")
    ids = value.ids.ravel()
    if len(space.runs(ids)) != 1:
        raise _refusal(step, "states", "hold the results of several operators side by side")
    return space.form(ids)


def _output(step: Step, name: str) -> str:
    """The state whose next value this is."""
    origin = _origin(step, name)
    for state in step.states:
        if _origin(step, state.after) == origin:
            return state.before
    maker = {out: op for op in step.operators for out in op.outputs}
    where = str(maker[origin]) if origin in maker else f"value {origin!r}"
    raise refuse(where, "output", "is inside the loop, after its cells", "put it behind the loop")


def _proven(step: Step, found: Found) -> Node:
    """The node with its weights rounded to float32, once it is proven in float64."""
    x, wanted = _run(step, found)
    node = replace(found.node, name="cell", input="x")
    with np.errstate(all="ignore"):
        given = reference.run(Model((Input("x", x.shape[1]),), (node,), ("cell",)), x)
        error = np.abs(given - wanted).max()
    if not error <= PROOF * (1 + np.abs(wanted).max()):
        why = f"computes {error:.2g} beside the {node.OP} cell that its operators look like"
        raise _refusal(step, f"state {found.states[0]!r}", why)
    return rounded(found.node)


def _run(step: Step, found: Found) -> tuple[F64, F64]:
    """(what the cell reads, what its state h becomes) in some steps of the operators."""
    rng, steps = np.random.default_rng(0), Steps(step.operators, step.constants)
    values, rows = _zeros(step), []
    after = {s.before: s.after for s in step.states}
    read = after.get(found.node.input, found.node.input)
    for _ in range(PROOF_STEPS):
        values[step.x[0]] = rng.normal(size=step.x[1])
        known: dict[str, Any] = steps.run(Space(), values)
        rows.append([np.ravel(known[name]) for name in (read, after[found.states[0]])])
        values = {s.before: np.reshape(known[s.after], s.shape) for s in step.states}
    x, h = zip(*rows, strict=True)
    return np.array(x), np.array(h)


def _refusal(step: Step, attribute: str, why: str) -> Exception:
    return refuse(step.name, attribute, why, WAY_OUT)
