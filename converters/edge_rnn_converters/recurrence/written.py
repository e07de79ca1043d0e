"""Cells that a graph of one step has written out in equations, its states inputs and outputs.

A state may be packed with others in one tensor, and is known by its elements. Each cell is found by
itself: what it reads is the narrowest value before its equations that all of them start from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.recurrence.forms import Lane, Product
from edge_rnn_converters.recurrence.moves import MOVES
from edge_rnn_converters.recurrence.recognise import Found, Step, StepState, groups, recognise
from edge_rnn_converters.recurrence.step import (
    WAY_OUT,
    Space,
    Steps,
    Symbols,
    moved_inputs,
)
from edge_rnn_converters.source import refuse
from edge_rnn_converters.tensors.graph import Op, Sizes, TensorGraph, needed


@dataclass(frozen=True, slots=True)
class Pair:
    """A state: the value before the step and the one after it."""

    before: str
    after: str


def with_cells(graph: TensorGraph, pairs: Sequence[Pair]) -> TensorGraph:
    """The graph with the equations of the states' next values as `edge_rnn.Cell` operators.

    Where an `If` makes them, both of its branches are tried, and one must be so.
    Raises UnsupportedError naming the operator, or the state, that is in the way.
    """
    maker = {name: op for op in graph.operators for name in op.outputs}
    found = {maker[p.after].outputs: maker[p.after] for p in pairs
             if p.after in maker and maker[p.after].kind == "If"}  # fmt: skip
    for op in found.values():
        return _replaced(graph, op, _branches(graph, op, pairs))
    return _Written(graph, pairs).rewritten()


def inside(graph: TensorGraph, around: TensorGraph) -> TensorGraph:
    """A graph of an operator, with what it sees of the graph around."""
    constants, shapes = around.constants | graph.constants, around.shapes | graph.shapes
    return replace(graph, constants=constants, shapes=shapes)


def _branches(graph: TensorGraph, op: Op, pairs: Sequence[Pair]) -> Op:
    places = {name: k for k, name in enumerate(op.outputs)}
    found, failures = {}, []
    for name in ("then_branch", "else_branch"):
        branch: TensorGraph = op.attributes[name]
        own = [Pair(p.before, branch.outputs[places[p.after]]) for p in pairs if p.after in places]
        try:
            found[name] = with_cells(inside(branch, graph), own)
        except UnsupportedError as e:
            failures.append(e)
    if not found:
        raise failures[0]
    return replace(op, attributes=op.attributes | found)


def _replaced(graph: TensorGraph, old: Op, new: Op) -> TensorGraph:
    return replace(graph, operators=tuple(new if op is old else op for op in graph.operators))


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Some elements of a state, that are read together: `name` is our own, `values`, with their
    shapes, the graph's, `after` is what they are after the step."""

    name: str
    size: int
    values: dict[str, tuple[int, ...]]
    after: str


class _Written:
    """A graph's operators by what they make, its states in the pieces in which it reads them."""

    def __init__(self, graph: TensorGraph, pairs: Sequence[Pair]) -> None:
        self._graph = graph
        self._maker = {name: op for op in graph.operators for name in op.outputs}
        self._constants = dict(graph.constants)
        self._cells: list[Op] = []
        self._pieces = [piece for pair in pairs for piece in self._cut(pair)]
        known = {name for piece in self._pieces for name in piece.values}
        rest = [op for op in graph.operators if known.isdisjoint(op.outputs)]
        aliases = [
            self._op("Reshape", piece.name, self._sizes(*shape), to=name)
            for piece in self._pieces
            for name, shape in piece.values.items()
        ]
        self._operators = (*aliases, *rest)

    def rewritten(self) -> TensorGraph:
        """The graph with cells."""
        states = tuple(StepState(p.name, (p.size,), p.after) for p in self._pieces)
        whole = Step("the step", self._operators, self._constants, ("", ()), states)
        made = set[str]().union(*(self._celled(group) for group in groups(whole)))
        kept = [op for op in self._graph.operators if made.isdisjoint(op.outputs)]
        operators = needed(tuple(_in_order(kept, self._cells)), self._graph.outputs)
        return replace(self._graph, operators=operators, constants=self._constants)

    def _op(self, kind: str, *inputs: str, to: str, **attributes: Any) -> Op:
        return Op(kind, to, inputs, (to,), attributes)

    def _sizes(self, *numbers: int) -> str:
        """A constant of int64, one axis."""
        return self._constant("sizes", np.array(numbers, np.int64))

    def _constant(self, label: str, array: NDArray[np.int64]) -> str:
        name = f"{label} {len(self._constants)}"
        while name in self._constants or name in self._maker:
            name += "'"
        self._constants[name] = array
        return name

    def _shape(self, name: str) -> tuple[int, ...]:
        """A value's shape, of a batch of one."""
        shape = self._sizes_of(name)
        if shape is None:
            raise self._refusal(name, "has a shape that is not known")
        return tuple(n or 1 for n in shape)

    def _sizes_of(self, name: str) -> Sizes | None:
        """A value's dimensions, of which the batch alone may be open."""
        shape = self._graph.shapes.get(name)
        if shape is None or sum(n is None for n in shape) > 1:
            return self._measured(name)
        return shape

    def _measured(self, name: str) -> Sizes | None:
        """The dimensions of a value that simple operators make of values whose own are known."""
        operators = needed(self._graph.operators, (name,))
        made = {output for op in operators for output in op.outputs}
        read = {n for op in operators for n in op.inputs if n} - made - set(self._constants)
        shapes = self._graph.shapes
        if name not in made or not read <= set(shapes):
            return None
        plain = tuple(_keeping_shape(op) for op in operators)
        given = {n: np.zeros([size or 1 for size in shapes[n]], np.int64) for n in read}
        try:
            known: dict[str, Any] = Steps(plain, self._constants).run(Space(), given)
        except UnsupportedError:
            return None
        return tuple(np.shape(known[name]))

    def _refusal(self, name: str, why: str) -> UnsupportedError:
        return refuse(f"value {name!r}", "equations of a cell", why, WAY_OUT)

    def _cut(self, pair: Pair) -> Iterator[_Piece]:
        """The parts of the state that operators read, of which none reads a part of another."""
        space, shape = Space(), self._shape(pair.before)
        seen = {pair.before}
        moves = [op for op in self._graph.operators if self._moves(op, seen)]
        given = {pair.before: space.lane(pair.before, shape)}
        known = Steps(tuple(moves), self._constants).run(space, given)
        read = {name for op in self._graph.operators if op not in moves for name in op.inputs}
        parts: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = {}
        for name, value in known.items():
            if isinstance(value, Symbols) and name in read:
                parts.setdefault(tuple(value.ids.ravel()), {})[name] = value.ids.shape
        places = [i for part in parts for i in part]
        if len(set(places)) < len(places) or not places:
            why = "is read in parts that overlap" if places else "is read by nothing"
            raise self._refusal(pair.before, why)
        whence = self._after(pair)
        for k, (part, values) in enumerate(parts.items()):
            after = self._following(pair, np.array(part), *whence)
            yield _Piece(f"{pair.before} part {k}", len(part), values, after)

    def _moves(self, op: Op, seen: set[str]) -> bool:
        """Does the operator only move elements of what was seen? What it makes is then seen too."""
        others = [name for name in op.inputs[1:] if name and name not in self._constants]
        if others or op.kind not in MOVES or op.kind == "Shape" or op.inputs[0] not in seen:
            return False
        seen.update(op.outputs)
        return True

    def _after(self, pair: Pair) -> tuple[Space, NDArray[np.int64]]:
        """Which element of which value, computed by an operator, each element after the step is."""
        space, roots, moves, todo = Space(), dict[str, Any](), set[str](), [pair.after]
        while todo:
            name = todo.pop()
            op = self._maker.get(name)
            if op is None or op.kind not in MOVES or op.kind == "Shape":
                roots.setdefault(name, space.lane(name, self._shape(name)))
            else:
                moves.update(op.outputs)
                todo += op.inputs if op.kind == "Concat" else op.inputs[:1]
        chosen = tuple(op for op in self._graph.operators if moves.intersection(op.outputs))
        value = Steps(chosen, self._constants).run(space, roots)[pair.after]
        return space, space.symbols(value).ids.ravel()

    def _following(
        self, pair: Pair, index: NDArray[np.int64], space: Space, after: NDArray[np.int64]
    ) -> str:
        """The value that these elements of the state are after the step."""
        if index.max() < len(after) and len(space.runs(after[index])) == 1:
            match list(space.form(after[index]).products()):
                case [Product(atoms=(Lane() as lane,))] if lane.size == len(index):
                    if np.array_equal(lane.index, np.arange(lane.size)):
                        return lane.source
        raise self._refusal(pair.after, "is put together of other parts than it was read in")

    def _celled(self, group: list[StepState]) -> set[str]:
        """Add the cell of these states; returns the graph's values that it makes."""
        after = tuple(s.after for s in group)
        operators = needed(self._operators, after)
        own = _reached(operators, {s.before for s in group})
        equations = [op for op in operators if not own.isdisjoint(op.outputs)]
        x = self._source({name for op in equations for name in op.inputs} - own)
        before = tuple(op for op in operators if x not in op.outputs)
        step = Step(
            f"the step of {self._shown(group)}", needed(before, after), self._constants,
            (x, self._shape(x)), tuple(group),
        )  # fmt: skip
        found = recognise(step)
        if len(found.cells) != 1:
            raise self._refusal(self._shown(group), "are of several cells")
        return self._emit(step, found.cells[0])

    def _shown(self, group: list[StepState]) -> str:
        names = {s.before for s in group}
        return ", ".join(next(iter(p.values)) for p in self._pieces if p.name in names)

    def _source(self, read: set[str]) -> str:
        """What the cell reads: the narrowest of the values that all the others are made of."""
        given = sorted(name for name in read if name and name not in self._constants)
        chains = [list(self._chain(name)) for name in given]
        common = [name for name in (chains[0] if chains else []) if all(name in c for c in chains)]
        sized = [name for name in common if self._sizes_of(name) is not None]
        if not sized:
            shown = ", ".join(map(repr, given)) or "nothing"
            raise self._refusal(shown, "is what a state follows from, and no one value of a step")
        return min(sized, key=lambda name: math.prod(self._shape(name)))

    def _chain(self, name: str) -> Iterator[str]:
        """The value, what it is a linear function of, and so on."""
        while True:
            yield name
            op = self._maker.get(name)
            if op is None or op.kind not in _LINEAR:
                return
            inputs = {n for n in moved_inputs(op) if n and n not in self._constants}
            if len(inputs) != 1:
                return
            (name,) = inputs

    def _emit(self, step: Step, cell: Found) -> set[str]:
        """Add the cell's operators; each state after the step gets the name that it has."""
        pieces = {p.name: next(iter(p.values)) for p in self._pieces}
        after = {s.before: s.after for s in step.states}
        made = [after[name] for name in cell.states]
        x, shape = step.x
        inputs = (f"{made[0]} x", "", "", "", "", *(pieces[name] for name in cell.states))
        outputs = (f"{made[0]} Y", *(f"{name} of the cell" for name in made))
        self._cells += [
            self._op("Reshape", x, self._sizes(1, -1, math.prod(shape)), to=inputs[0]),
            Op("edge_rnn.Cell", made[0], inputs, outputs, {"node": cell.node}),
        ]
        for name, value in zip(made, outputs[1:], strict=True):
            sizes = (-1 if n is None else n for n in self._sizes_of(name) or ())
            self._cells.append(self._op("Reshape", value, self._sizes(*sizes), to=name))
        return set(made)


_LINEAR = (*MOVES, "MatMul", "Gemm", "Add", "Sub")


_KEEPING = ("LayerNormalization", "RMSNormalization", "BatchNormalization", "Softmax", "PRelu",
            "Dropout")  # fmt: skip


def _keeping_shape(op: Op) -> Op:
    """The operator, or, where it only keeps the shape of its input, one that does nothing else."""
    if op.kind not in _KEEPING:
        return op
    return replace(op, kind="Identity", inputs=op.inputs[:1], outputs=op.outputs[:1])


def _reached(operators: Sequence[Op], names: set[str]) -> set[str]:
    """These values and all that depend on them."""
    found = set(names)
    for op in operators:
        if not found.isdisjoint(op.inputs):
            found.update(op.outputs)
    return found


def _in_order(operators: list[Op], more: list[Op]) -> Iterator[Op]:
    """The operators, with `more` put in where all that each reads is there."""
    missing = {name for op in (*operators, *more) for name in op.outputs}
    waiting = list(more)

    def ready() -> Iterator[Op]:
        while waiting and missing.isdisjoint(waiting[0].inputs):
            missing.difference_update(waiting[0].outputs)
            yield waiting.pop(0)

    for op in operators:
        yield from ready()
        missing.difference_update(op.outputs)
        yield op
    yield from ready()
