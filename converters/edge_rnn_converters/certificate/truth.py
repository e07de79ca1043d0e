"""The float64 reference's answers to a stream, which everything else is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edge_rnn import reference
from edge_rnn.certificate import Errors, Gate
from edge_rnn.errors import MismatchError, ModelError
from edge_rnn.graph import F32, Model, Node, Window, answer_steps, masked, value_widths
from edge_rnn.reference import F64
from edge_rnn_converters.certificate import metrics, task
from edge_rnn_converters.certificate.metrics import I64
from edge_rnn_converters.compare import LARGEST
from edge_rnn_converters.source import Progress

SHUT, OPEN = 0.01, 0.99
"""A gate is shut below, and open above."""
ROOM = 1 << 27
"""The most numbers that are kept of a reference run: 1 GB."""


@dataclass(slots=True)
class Watched:
    """Counts of a cell's gates and the largest |c|, as the reference steps."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    largest_c: float | None = None

    def __call__(self, name: str, value: F64) -> None:
        """One step of one gate, or of `c`."""
        if name == "c":
            self.largest_c = max(self.largest_c or 0.0, float(np.abs(value).max()))
            return
        count = self.counts.setdefault(name, [0, 0, 0])
        count[0] += int(np.count_nonzero(value < SHUT))
        count[1] += int(np.count_nonzero(value > OPEN))
        count[2] += value.size

    def gates(self) -> tuple[Gate, ...]:
        """The shares of these counts."""
        return tuple(Gate(name, s / n, o / n) for name, (s, o, n) in self.counts.items())


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """A reference run: the answers, their steps, and which of the runtime's answers they are; of a
    model without windows every value, and what cells did inside."""

    values: Mapping[str, F64]
    answers: F64
    steps: I64
    rows: I64
    length: int
    watched: Mapping[str, Watched]
    decision: str | None
    notes: tuple[str, ...]

    def compared(self, y: F32) -> F32:
        """Those of the runtime's answers (n, O), its first n, that there are some of here."""
        return y[self.rows[self.rows < len(y)]]

    def errors(self, name: str, y: F32) -> Errors:
        """Of answers `compared`. Raises MismatchError if the first is not finite."""
        return self.errors_at(name, np.asarray(y, np.float64), slice(len(y)))

    def errors_at(self, name: str, y: F64, rows: slice | I64) -> Errors:
        """Of answers y to some of the rows."""
        try:
            return metrics.errors(
                name, y, self.answers[rows], self.steps[rows], self.length, self.decision
            )
        except ValueError as e:
            raise MismatchError(str(e)) from e


def compute(model: Model, x: F32, progress: Progress = lambda stage: None) -> Truth:
    """The float64 reference of x (T, I), up to where its answers pass 1e6 or are not finite.

    Raises ModelError if that is the first.
    """
    notes = []
    if len(x) > (most := ROOM // sum(value_widths(model).values())):
        notes.append(f"only {most} of {len(x)} steps: the model's values are wide")
        x = x[:most]
    watched: dict[str, Watched] = {}

    def watch(node: Node) -> Watched:
        progress(f"{len(x)} steps of {node.name} in float64")
        return watched.setdefault(node.name, Watched())

    values: dict[str, F64] = {}
    with np.errstate(all="ignore"):
        if model.window is None:
            values = reference.evaluate(model, x[~masked(model, x)], watch)
            answers = np.concatenate([values[name] for name in model.outputs], axis=1)
            steps = answer_steps(model, x)
        else:
            progress(f"{len(x)} steps in {model.window} in float64")
            steps, answers = reference.answers(_apart(model, model.window), x)
            notes.append(f"{model.window}: each from the initial state, layers not measured")
    rows = np.searchsorted(answer_steps(model, x), steps)
    small = (np.abs(answers) < LARGEST).all(axis=1)
    n = len(small) if small.all() else int(small.argmin())
    if not n:
        raise ModelError(f"the first answer exceeds {LARGEST:g}, or there is none: {len(x)} steps")
    steps, length = steps[:n], len(x)
    if n < len(small):
        length = int(steps[-1]) + 1
        notes.append(f"answers pass {LARGEST:g} at step {length}: compared up to there")
    decision = task.decision(model)
    return Truth(values, answers[:n], steps, rows[:n], length, watched, decision, tuple(notes))


def _apart(model: Model, window: Window) -> Model:
    """The model in those of its windows that overlap little: the others cost as much to compute."""
    hop = window.hop * (window.length // window.hop)
    return replace(model, window=replace(window, hop=hop))
