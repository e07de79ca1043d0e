"""A WHILE loop over time: which of its values are counters, states, the sequence and the results.

Nothing is guessed from names. The body is run once on the numbers of its elements, so that where
each element of a result comes from is known, whatever operators moved it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.recurrence.forms import sources
from edge_rnn_converters.recurrence.recognise import Step, StepState, recognise
from edge_rnn_converters.recurrence.step import Space, Steps, Symbols, Value
from edge_rnn_converters.tensors.graph import Op, needed
from edge_rnn_converters.tflite.file import Operator, SubGraph
from edge_rnn_converters.tflite.translate import Translation, operator, translate

_WAY_OUT = "convert the Keras model itself, or build it with LSTM, GRU or SimpleRNN layers"


@operator("WHILE", "loops over time whose step is a known cell")
def _while(t: Translation, o: Operator) -> None:
    loop = _Loop(t, o)
    step = loop.step()
    found = recognise(step)
    initial = {s.before: t.name(o.inputs[loop.inputs.index(s.before)]) for s in step.states}
    sequence = loop.steps_first()
    sequences: dict[str, str] = {}
    finals: dict[str, str] = {}
    for cell in found.cells:
        first, *_ = cell.states
        x = sequences.get(cell.node.input, sequence)
        names = [t.names.unique(f"{t.label(o)} {part}") for part in ("Y", *cell.node.STATE)]
        starts = [initial[name] for name in cell.states]
        t.op(o, "edge_rnn.Cell", x, "", "", "", "", *starts, to=names, node=cell.node)
        sequences[first] = names[0]
        finals.update(zip(cell.states, names[1:], strict=True))
    rows = dict(zip(step.outputs, found.outputs, strict=True))
    for k, output in enumerate(o.outputs):
        loop.bind(k, t.name(output), rows, sequences, finals)


@dataclass(frozen=True, slots=True)
class _Part:
    """What an argument of the loop turned out to be: counter, constant, sequence, rows or state;
    of rows the value that a step puts out."""

    role: str
    value: str = ""


class _Loop:
    """The loop's body and condition, translated, and the part that each argument plays."""

    def __init__(self, t: Translation, o: Operator) -> None:
        self._t, self._o = t, o
        self._body = self._translated(int(o.options["bodySubgraphIndex"]))
        self._cond = self._translated(int(o.options["condSubgraphIndex"]))
        self.inputs = [self._body.name(i) for i in self._body.graph.inputs]
        self._after = [self._body.name(i) for i in self._body.graph.outputs]
        if not len(self.inputs) == len(self._after) == len(o.inputs) == len(o.outputs):
            raise self._refuse("arguments", "do not fit its body")
        self.sequence = self._sequence()
        self.axis, self._steps = self._length()
        self._parts, self._row = self._roles()

    def _translated(self, index: int) -> Translation:
        graphs = self._t.file.graphs
        if not 0 < index < len(graphs):
            raise self._refuse("body", "is no graph of the file")
        graph: SubGraph = graphs[index]
        if any(op.kind == "WHILE" for op in graph.operators):
            raise self._refuse("body", "holds a loop inside the loop")
        return translate(Translation(self._t.file, graph))

    def step(self) -> Step:
        """One turn of the loop over the row that it reads."""
        b = self._body
        states = [
            StepState(name, self._shape(k), self._after[k])
            for k, (name, part) in enumerate(zip(self.inputs, self._parts, strict=True))
            if part.role == "state"
        ]
        outputs = dict.fromkeys(p.value for p in self._parts if p.role == "rows")
        rows, shape = self._row
        as_row = {"shape": shape, "allowzero": 1}
        aliases = [Op("Reshape", "", (rows[0],), (other,), as_row) for other in rows[1:]]
        operators = [op for op in b.operators if op.outputs[0] not in rows]
        wanted = (*(s.after for s in states), *outputs)
        return Step(
            f"WHILE {self._t.label(self._o)!r}",
            needed((*aliases, *operators), wanted),
            {**b.constants, **self._constants()},
            (rows[0], shape),
            tuple(states),
            tuple(outputs),
        )

    def bind(
        self,
        k: int,
        output: str,
        rows: Mapping[str, str],
        sequences: Mapping[str, str],
        finals: Mapping[str, str],
    ) -> None:
        """Make the loop's output k out of what the cells make."""
        t, o, part = self._t, self._o, self._parts[k]
        if part.role in ("constant", "sequence"):
            t.op(o, "Identity", t.name(o.inputs[k]), to=[output])
        elif part.role == "counter":
            t.constants[output] = np.asarray(self._start(k) + self._steps)
        else:
            shape = t.constant(self._shape(k))
            state = rows[part.value] if part.role == "rows" else self.inputs[k]
            whole = part.role == "rows" and self._listed(k)
            values = sequences if whole else finals
            if state in values:
                t.op(o, "Reshape", values[state], shape, to=[output])
            else:  # no node gives it; where nothing reads it, nobody is the wiser
                t.op(o, "WHILE's list of a cell's inner state", to=[output])

    def steps_first(self) -> str:
        """The sequence, its steps as the first axis."""
        t, o, axis = self._t, self._o, self.axis
        value = t.name(o.inputs[self.sequence])
        rank = len(self._shape(self.sequence))
        order = [axis, *(i for i in range(rank) if i != axis)]
        return t.op(o, "Transpose", value, perm=order) if axis else value

    def _shape(self, k: int) -> tuple[int, ...]:
        """An argument's shape, where it is open that of what is given first."""
        inner = self._body.tensor(self._body.graph.inputs[k]).shape
        outer = self._t.tensor(self._o.inputs[k]).shape
        sizes = zip(inner, outer if len(outer) == len(inner) else inner, strict=True)
        return tuple(next((n for n in both if n is not None), 1) for both in sizes)

    def _listed(self, k: int) -> bool:
        """Is this a list of all steps' rows, not the last one's alone?"""
        return self._shape(k)[:1] == (self._steps,)

    def _sequence(self) -> int:
        """The argument that stays as it is and is not a constant."""
        pairs = enumerate(zip(self.inputs, self._after, strict=True))
        found = [
            k
            for k, (before, after) in pairs
            if self._origin(after) == before and self._value(k) is None and self._is_float(k)
        ]
        if len(found) != 1:
            raise self._refuse(
                "arguments", f"expected one sequence that it reads, found {len(found)}"
            )
        return found[0]

    def _origin(self, name: str) -> str:
        maker = {out: op for op in self._body.operators for out in op.outputs}
        while name in maker and maker[name].kind == "Identity":
            name = maker[name].inputs[0]
        return name

    def _value(self, k: int) -> NDArray[Any] | None:
        """What the argument is before the loop, where it is a constant."""
        return self._t.constants.get(self._t.name(self._o.inputs[k]))

    def _is_float(self, k: int) -> bool:
        dtype = self._body.tensor(self._body.graph.inputs[k]).dtype
        return dtype is not None and dtype.kind == "f"

    def _start(self, k: int) -> int:
        value = self._value(k)
        if value is None or value.size != 1:
            raise self._refuse("counter", "does not start from a constant")
        return int(value.reshape(()))

    def _counters(self) -> list[int]:
        return [
            k
            for k, name in enumerate(self.inputs)
            if not self._is_float(k) and self._origin(self._after[k]) != name
        ]

    def _constants(self) -> dict[str, NDArray[Any]]:
        """The arguments that stay as they are and are known."""
        return {
            name: value
            for k, name in enumerate(self.inputs)
            if self._origin(self._after[k]) == name and (value := self._value(k)) is not None
        }

    def _length(self) -> tuple[int, int]:
        """(the axis of the sequence's steps, how many turns the loop makes), one for each of these,
        or it is refused."""
        shape, counters = self._shape(self.sequence), self._counters()
        starts = {k: self._start(k) for k in counters}
        axes = [a for a, n in enumerate(shape) if self._ends_after(n, starts)]
        if not axes:
            raise self._refuse("condition", f"does not end after the sequence's {shape[0]} rows")
        n = shape[axes[0]]
        names = tuple(self._after[k] for k in counters)
        for turn in {0, 1, n - 1}:
            given = {self.inputs[k]: np.array(starts[k] + turn, np.int32) for k in counters}
            body = self._run(self._body, names, given)
            if any(body[self._after[k]] != starts[k] + turn + 1 for k in counters):
                raise self._refuse("counter", "does not go up by one")
        return axes[0], n

    def _ends_after(self, n: int, starts: Mapping[int, int]) -> bool:
        tests = [
            self._goes_on({k: at + turn for k, at in starts.items()}) for turn in (0, n - 1, n)
        ]
        return tests == [True, True, False]

    def _goes_on(self, counters: Mapping[int, int]) -> bool:
        (result,) = (self._cond.name(i) for i in self._cond.graph.outputs)
        names = [self._cond.name(i) for i in self._cond.graph.inputs]
        given = {names[k]: np.asarray(value) for k, value in counters.items()}
        given.update(
            {names[k]: v for k in range(len(names)) if (v := self._invariant(k)) is not None}
        )
        return bool(self._run(self._cond, (result,), given)[result])

    def _invariant(self, k: int) -> NDArray[Any] | None:
        return self._value(k) if self._origin(self._after[k]) == self.inputs[k] else None

    def _run(
        self, graph: Translation, wanted: tuple[str, ...], given: Mapping[str, Value]
    ) -> dict[str, Any]:
        """Values of the body or the condition; what they depend on must be given."""
        steps = Steps(needed(tuple(graph.operators), wanted), graph.constants)
        missing = {n for op in steps.operators for n in op.inputs if n} - set(graph.constants)
        missing -= {out for op in steps.operators for out in op.outputs}
        if missing - set(given):
            shown = ", ".join(sorted(missing - set(given)))
            raise self._refuse("counter or condition", f"depends on {shown}")
        return steps.run(Space(), given)

    def _roles(self) -> tuple[list[_Part], tuple[list[str], tuple[int, ...]]]:
        """Every argument's part, and the values that are the sequence's row, with their shape.

        The body must do the same at the first, the second and the last turn.
        """
        turns = [self._turn(k) for k in sorted({0, min(1, self._steps - 1), self._steps - 1})]
        if any(turn != turns[0] for turn in turns[1:]):
            raise self._refuse("body", "does another thing at another turn")
        parts, rows, shape = turns[0]
        return list(parts), (list(rows), shape)

    def _turn(self, turn: int) -> tuple[tuple[_Part, ...], tuple[str, ...], tuple[int, ...]]:
        """What the body does at this turn, told from where its elements come from."""
        space = Space()
        given: dict[str, Value] = dict(self._constants())
        for k in self._counters():
            given[self.inputs[k]] = np.array(self._start(k) + turn, np.int32)
        for k, name in enumerate(self.inputs):
            if name not in given:
                given[name] = space.lane(name, self._shape(k))
        arguments = len(space.forms)
        body = Steps(tuple(self._body.operators), self._body.constants)
        known = body.run(space, given)
        computed = set().union(*(sources(form) for form in space.forms[arguments:]))
        rows, shape = self._read(known, turn)
        parts = (self._part(k, known, turn, computed) for k in range(len(self.inputs)))
        return tuple(parts), rows, shape

    def _read(
        self, known: Mapping[str, Value], turn: int
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The values that are the sequence's row of this turn, taken out of it."""
        wanted = _ids(known[self.inputs[self.sequence]]).take(turn, self.axis).ravel()
        same = [name for name in self._made() if _is(known[name], wanted)]
        maker = {op.outputs[0]: op for op in self._body.operators}
        rows = [name for name in same if maker[name].inputs[0] not in same]
        if not rows:
            raise self._refuse("body", "does not read the sequence row by row")
        return tuple(rows), _ids(known[rows[0]]).shape

    def _made(self) -> list[str]:
        return [name for op in self._body.operators for name in op.outputs]

    def _part(self, k: int, known: Mapping[str, Value], turn: int, computed: set[str]) -> _Part:
        before, after = self.inputs[k], self._after[k]
        if k == self.sequence:
            return _Part("sequence")
        if k in self._counters():
            return _Part("counter")
        if self._origin(after) == before:
            return _Part("constant")
        if before in computed:
            return _Part("state")
        return _Part("rows", self._row_of(k, known, turn))

    def _row_of(self, k: int, known: Mapping[str, Value], turn: int) -> str:
        """The value that this turn puts into a list, or in place of the last turn's."""
        row = _ids(known[self._after[k]])
        if self._listed(k):
            old, kept = _ids(known[self.inputs[k]]), np.arange(self._steps) != turn
            if row.shape != old.shape or not np.array_equal(row[kept], old[kept]):
                why = "is changed elsewhere than at its turn"
                raise self._refuse(f"list {self.inputs[k]!r}", why)
            row = row[turn]
        found = next((name for name in self._made() if _is(known[name], row.ravel())), None)
        if found is None:
            raise self._refuse(f"list {self.inputs[k]!r}", "gets no value of the step")
        return found

    def _refuse(self, attribute: str, why: str) -> UnsupportedError:
        return self._t.refuse(self._o, attribute, why, _WAY_OUT)


def _ids(value: Value) -> NDArray[np.int64]:
    return value.ids if isinstance(value, Symbols) else np.empty(0, np.int64)


def _is(value: Value | None, ids: NDArray[np.int64]) -> bool:
    return isinstance(value, Symbols) and np.array_equal(value.ids.ravel(), ids)
