"""A loop over time that was written out, step after step, put together again.

The steps are told apart by the row of the sequence that they need; what one step hands to the next
are its states. One step is recognised; that all others are the same one is proven by running them
all, in float64, on random inputs. The first may lack what zero states make of its operators.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.recurrence.constants import folded
from edge_rnn_converters.recurrence.recognise import PROOF, Recognised, Step, StepState, recognise
from edge_rnn_converters.recurrence.rows import Sequence, Shapes, sequences
from edge_rnn_converters.recurrence.step import WAY_OUT, Space, Steps, moved_inputs
from edge_rnn_converters.source import refuse
from edge_rnn_converters.tensors.graph import Op, TensorGraph, needed

_ATTEMPTS = 256
_BEGINS = (
    "its first step is not the second one from zeros, nor from constants in the file (an exporter "
    "may have multiplied a constant state out; PyTorch's older one, dynamo=False, does not)"
)
_ROUNDED = 1e-6
"""A proof's bound where constants are products of the state before the first step, in float32."""


def rolled(graph: TensorGraph) -> TensorGraph:
    """The graph with its written-out loops as `Cell` operators.

    Raises UnsupportedError where there is a loop of no known cell.
    """
    shapes = {name: tuple(n or 1 for n in sizes) for name, sizes in graph.shapes.items()}
    for sequence in sequences(graph, shapes):
        loop = _Loop(folded(graph), shapes, sequence)
        if loop.states[0]:
            return rolled(loop.rolled())
    return graph


_CARRIED = ("MatMul", "Gemm", "Add", "Sub", "Mul", "Identity", "Reshape", "Squeeze", "Unsqueeze",
            "Slice", "Split", "Transpose", "Shape", "Gather", "Div")  # fmt: skip


class _Loop:
    """The steps over one sequence: `states` are what each step hands to the next, in one order."""

    def __init__(self, graph: TensorGraph, shapes: Shapes, sequence: Sequence) -> None:
        self._graph, self._shapes, self._sequence = graph, shapes, sequence
        self._step = {name: t for t, name in enumerate(sequence.rows)}
        self._behind: set[str] = set()
        self._gathered: list[Op] = []
        self._readers: dict[str, list[tuple[Op, int]]] = defaultdict(list)
        for op in graph.operators:
            self._place(op)
            for position, name in enumerate(op.inputs):
                self._readers[name].append((op, position))
        for op in reversed(graph.operators):
            self._delay(op)
        self.states = [self._handed(t) for t in range(len(sequence.rows) - 1)]

    def _place(self, op: Op) -> None:
        """Find the operator's step: the last row that it needs. One that joins steps is behind."""
        if op.outputs[0] in self._step:
            return
        needs = {self._step[name] for name in op.inputs if name in self._step}
        if self._behind.intersection(op.inputs):
            self._behind.update(op.outputs)
        elif len(needs) > 2:
            self._gathered.append(op)
            self._behind.update(op.outputs)
        elif needs:
            self._step.update(dict.fromkeys(op.outputs, max(needs)))

    def _delay(self, op: Op) -> None:
        """A product or a move of a state that only the next step reads is of that step."""
        t = self._step.get(op.outputs[0])
        given = moved_inputs(op)
        computed = [name for name in given if name and name not in self._graph.constants]
        if t is None or op.outputs[0] in self._sequence.rows or len(computed) != 1:
            return
        readers = (read for name in op.outputs for read, _ in self._readers[name])
        steps = {self._step.get(read.outputs[0]) for read in readers}
        if op.kind in _CARRIED and steps == {t + 1}:
            self._step.update(dict.fromkeys(op.outputs, t + 1))

    def _handed(self, t: int) -> list[str]:
        """What step t hands to the next one, in the order of what reads it."""
        names = [name for name, step in self._step.items() if step == t]
        found = {name: sign for name in names if (sign := self._sign(name, t + 1))}
        return sorted(found, key=lambda name: found[name])

    def _sign(self, name: str, t: int) -> tuple[Any, ...]:
        """How the operators of step t read a value: the same at every step."""
        reads = (read for read in self._readers[name] if self._step.get(read[0].outputs[0]) == t)
        return tuple(sorted((op.kind, at, self._weights(op)) for op, at in reads))

    def _weights(self, op: Op) -> tuple[bytes, ...]:
        """The constants that the operator reads."""
        found = (self._graph.constants.get(name) for name in op.inputs)
        return tuple(a.tobytes() for a in found if a is not None)

    def rolled(self) -> TensorGraph:
        """The graph with this loop as cells."""
        if len({len(names) for names in self.states}) > 1:
            raise self._refusal("its steps hand different things to each other")
        step = self._one(1)
        found = recognise(step)
        starts, last = self._proven(step)
        cells = _Cells(self._graph, self._sequence, step, found, starts)
        ends = [cells.end(s.before, name) for s, name in zip(step.states, last, strict=True)]
        ends += [self._joined(cells, op, k) for k, op in enumerate(self._gathered)]
        made = {op.outputs[0] for op in ends}
        rest = [op for op in self._graph.operators if op.outputs[0] not in made]
        before = [op for op in rest if not self._behind.union(self._step).intersection(op.outputs)]
        after = [op for op in rest if op not in before]
        operators = needed((*before, *cells.operators, *ends, *after), self._graph.outputs)
        constants = {**self._graph.constants, **cells.constants}
        return replace(self._graph, operators=operators, constants=constants)

    def _one(self, t: int) -> Step:
        """Step t as a step by itself."""
        known = self._values(np.zeros(self._shapes[self._sequence.name]), self.states[0])
        before, after = self.states[t - 1], self.states[t]
        states = tuple(
            StepState(name, np.shape(known[first]), following)
            for name, first, following in zip(before, self.states[0], after, strict=True)
        )
        inside = tuple(
            op
            for op in self._graph.operators
            if self._step.get(op.outputs[0]) in (None, t)
            and op.outputs[0] not in (*self._sequence.rows, *self._behind)
        )
        row, outputs = self._sequence.rows[t], tuple(op.inputs[t] for op in self._gathered)
        return Step(
            f"the steps of {self._sequence.name!r}", needed(inside, (*after, *outputs)),
            self._graph.constants, (row, np.shape(known[self._sequence.rows[0]])), states, outputs,
        )  # fmt: skip

    def _starts(self) -> list[str]:
        """What each state is before the first step; "" where that is zero, and left out."""
        signs = {self._sign(name, 1): k for k, name in enumerate(self.states[0])}
        starts = [""] * len(signs)
        for op in self._graph.operators:
            if self._step.get(op.outputs[0]) == 0 and op.outputs[0] not in self._sequence.rows:
                for name in op.inputs:
                    if name and name not in self._step and name not in self._graph.constants:
                        k = signs.get(self._sign(name, 0))
                        if k is None:
                            raise self._refusal(f"its first step reads {name!r}")
                        starts[k] = name
        return starts

    def _proven(self, step: Step) -> tuple[list[str], list[str]]:
        """Run all steps beside the one; returns the states' names before the first, "" for zeros,
        and after the last."""
        rng, named = np.random.default_rng(0), self._starts()
        x = rng.normal(size=self._shapes[self._sequence.name])
        given = {name: rng.normal(size=s.shape)
                 for s, name in zip(step.states, named, strict=True) if name}  # fmt: skip
        known = self._values(x, tuple(self._step), given)
        for starts in islice(self._beginnings(step, named), _ATTEMPTS):
            held = {**self._graph.constants, **given}
            before = [held.get(name, np.zeros(s.shape))
                      for s, name in zip(step.states, starts, strict=True)]  # fmt: skip
            rounded = any(name in self._graph.constants for name in starts)
            there = self._after(step, 0, before, known, _ROUNDED if rounded else PROOF)
            if there:
                break
        else:
            raise self._refusal(_BEGINS)
        for t in range(1, len(self._sequence.rows)):
            there = self._after(step, t, [known[name] for name in there], known)
            if not there:
                raise self._refusal(f"step {t} computes another thing than the second one")
        return starts, there

    def _beginnings(self, step: Step, named: list[str]) -> Iterator[list[str]]:
        """What the states may be before the first step: what is known, zeros, or a constant."""
        sizes = [np.prod(s.shape) for s in step.states]
        floats = {name: a for name, a in self._graph.constants.items() if a.dtype.kind == "f"}
        found = [[name] if name else ["", *(n for n, a in floats.items() if a.size == size)]
                 for name, size in zip(named, sizes, strict=True)]  # fmt: skip
        return map(list, product(*found))

    def _after(
        self, step: Step, t: int, before: list[Any], known: Mapping[str, Any], bound: float = PROOF
    ) -> list[str]:
        """The names of the states after step t, where the one step makes them, and what is put out,
        of those before it; else none."""
        given = {s.before: np.reshape(a, s.shape).astype(np.float64)
                 for s, a in zip(step.states, before, strict=True)}  # fmt: skip
        one, row = Steps(step.operators, step.constants), self._sequence.rows[t]
        values: dict[str, Any] = one.run(Space(), {step.x[0]: known[row], **given})
        after = {s.before: values[s.after] for s in step.states}
        there = self.states[t] if t < len(self.states) else self._last(known, after)
        pairs = [*zip(there, after.values(), strict=True)]
        pairs += [
            (op.inputs[t], values[n]) for op, n in zip(self._gathered, step.outputs, strict=True)
        ]
        return there if all(_near(known[name], a, bound) for name, a in pairs) else []

    def _last(self, known: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
        """The values after the last step that are what its states became."""
        steps = len(self._sequence.rows)
        names = [name for name, t in self._step.items() if t == steps - 1]
        found = [next((n for n in names if _near(known[n], a)), None) for a in state.values()]
        missing = [name for name, there in zip(self.states[0], found, strict=True) if there is None]
        if missing:
            raise self._refusal(f"its last step makes nothing like {missing[0]!r} of the others")
        return [name for name in found if name is not None]

    def _values(
        self, x: NDArray[Any], wanted: Any, given: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The values of the steps for the sequence x."""
        names = tuple(wanted)
        inside = tuple(op for op in self._graph.operators if op.outputs[0] not in self._behind)
        operators = needed(inside, names)
        fixed = set(self._graph.constants)  # what an exporter computes of a zero first state too
        for op in operators:
            if fixed.issuperset(name for name in op.inputs if name):
                fixed.update(op.outputs)
        cut = [op for op in operators if op.outputs[0] in fixed.union(self._step)]
        return Steps(tuple(cut), self._graph.constants).run(
            Space(), {self._sequence.name: x, **(given or {})}
        )

    def _joined(self, cells: _Cells, op: Op, k: int) -> Op:
        """All steps' results joined, from the cell's."""
        shape, axis = self._shapes.get(op.outputs[0], ()), op.integer("axis", 0)
        in_order = op.kind == "Concat" and shape and int(np.prod(shape[: axis % len(shape)])) == 1
        if not in_order or not all(self._step.get(n) == t for t, n in enumerate(op.inputs)):
            raise self._refusal(f"{op} joins them in a way that is not followed")
        return cells.joined(k, op.outputs[0], shape)

    def _refusal(self, why: str) -> UnsupportedError:
        return refuse(f"the steps of {self._sequence.name!r}", "loop", why, WAY_OUT)


def _near(a: NDArray[Any], b: NDArray[Any], bound: float = PROOF) -> bool:
    return np.size(a) == np.size(b) and bool(
        np.all(np.abs(np.ravel(a) - np.ravel(b)) <= bound * (1 + np.abs(np.ravel(b))))
    )


class _Cells:
    """The cells in place of the loop: their operators, and the shapes that they need."""

    def __init__(
        self,
        graph: TensorGraph,
        sequence: Sequence,
        step: Step,
        found: Recognised,
        starts: list[str],
    ) -> None:
        self.operators: list[Op] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._found, self._prefix = found, f"{sequence.name} rolled"
        self._sizes = graph.shapes
        self._names: dict[str, str] = {}
        self._shapes = {s.before: s.shape for s in step.states}
        first = dict(zip((s.before for s in step.states), starts, strict=True))
        for cell in found.cells:
            head = cell.states[0]
            x = self._names.get(f"Y {cell.node.input}", sequence.name)
            for part in (f"Y {head}", *cell.states):
                self._names[part] = f"{self._prefix} {part}"
            outputs = tuple(self._names[part] for part in (f"Y {head}", *cell.states))
            inputs = (x, "", "", "", "", *(first[name] for name in cell.states))
            attributes = {"node": cell.node, "layout": sequence.axis}
            self.operators.append(Op("edge_rnn.Cell", head, inputs, outputs, attributes))

    def end(self, state: str, name: str) -> Op:
        """The state after the last step, as `name`."""
        return self._shaped(
            self._names[state], name or f"{self._prefix} end {state}", self._shapes[state]
        )

    def joined(self, k: int, name: str, shape: tuple[int, ...]) -> Op:
        """All steps of the k-th result, as `name`."""
        return self._shaped(self._names[f"Y {self._found.outputs[k]}"], name, shape)

    def _shaped(self, value: str, name: str, shape: tuple[int, ...]) -> Op:
        constant, sizes = f"shape of {name}", self._sizes.get(name, shape)
        self.constants[constant] = np.array([-1 if n is None else n for n in sizes], np.int64)
        return Op("Reshape", name, (value, constant), (name,), {"allowzero": 1})
