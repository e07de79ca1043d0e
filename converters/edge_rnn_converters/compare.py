"""Does it compute what its source does? The inputs to compare on, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn import reference
from edge_rnn.errors import MismatchError, ModelError
from edge_rnn.graph import (
    F32,
    Embedding,
    Matrix,
    Model,
    Node,
    Probe,
    Scale,
    Window,
    output_digest,
    tensors,
)
from edge_rnn.reference import F64
from edge_rnn.session import Session
from edge_rnn_converters import streams
from edge_rnn_converters.source import CannotRunError, Runner, SourceRun

TOLERANCE = 1e-4
"""Absolute, and relative to the reference: float32 sums in another order stay far below it."""

ROUNDINGS = 8
LARGEST = 1e6
WINDOWS = 8
PROBE_STEPS = 64
STRESS_STEPS = 256
SPIKE = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The reference's answers y (n, O), each at its one of `steps`; `whole` of them were computed
    before they were cut."""

    steps: NDArray[np.int64]
    y: F64
    whole: int


def plausible(model: Model, steps: int, seed: int) -> F32:
    """Inputs (steps, I) as the model may expect: standard normal after its leading Scale, if it
    has one; random indices for embeddings."""
    rng = np.random.default_rng(seed)
    return _columns(model, lambda width: rng.normal(size=(steps, width)), rng)


def stress(model: Model, steps: int = STRESS_STEPS, seed: int = 1) -> F32:
    """Harder inputs (steps, I), see `streams.stretches`: up to four deviations from the mean.

    More where 8 windows, or 8 outputs of a stream, need more.
    """
    rng = np.random.default_rng(seed)
    n = _enough(model, steps, WINDOWS)
    return _columns(model, lambda width: streams.stretches(n, width, SPIKE, rng), rng)


def signals(model: Model, steps: int, seed: int = 2) -> F32:
    """Inputs (SIGNALS steps, I) of every kind that a message may be of, see `streams.signals`."""
    rng = np.random.default_rng(seed)
    return _columns(model, lambda width: streams.signals(steps, width, rng), rng)


def _columns(model: Model, normal: Callable[[int], F64], rng: np.random.Generator) -> F32:
    """Values of every input, from what `normal` gives for its width."""
    columns = [_column(model, i.name, normal(i.width), rng) for i in model.inputs]
    return np.concatenate(columns, axis=1)


def _column(model: Model, name: str, normal: F64, rng: np.random.Generator) -> F32:
    """Standard normal numbers as values of the input `name`."""
    reader = next((n for n in model.nodes if n.input == name), None)
    if isinstance(reader, Embedding):
        return rng.integers(0, len(reader.table.data), normal.shape).astype(np.float32)
    if isinstance(reader, Scale):
        divisor = np.where(reader.scale == 0, 1, reader.scale).astype(np.float64)
        normal = (normal - reader.shift) / divisor + reader.offset
    return normal.astype(np.float32)


def _enough(model: Model, steps: int, few: int) -> int:
    """So many steps, or as many as a few outputs, or windows, need."""
    first, period = model.schedule
    return max(steps, first + 1 + (few - 1) * (model.window.hop if model.window else period))


def probed(model: Model) -> Model:
    """The model with a recorded run on this machine's kernels: 64 plausible steps, or as many as
    two outputs need."""
    x = plausible(model, _enough(model, PROBE_STEPS, 2), seed=0)
    y = run(model, x)
    return replace(model, probe=Probe(x, y, output_digest(y)))


def run(model: Model, x: F32) -> F32:
    """The runtime's answers (n, O) to one stream's messages from the initial state."""
    return Session(model, capacity=1).run("check", x)


def truth(model: Model, x: F32) -> Truth:
    """The reference's answers to x (T, I), up to where float32 can no longer tell.

    That is where they pass 1e6 (a ReLU or linear cell may grow without end, and its sums then
    cancel what is left of them), or where 8 roundings of the weights move an output by more than
    the tolerance of a usual one (a cell that is not stable multiplies every rounding, its source
    framework's as well as ours).

    Raises ModelError if that is the first step.
    """
    with np.errstate(all="ignore"):
        steps, y = reference.answers(model, x)
        moved = np.abs(y - reference.answers(_rounded(model), x)[1]).max(axis=1)
    size = np.abs(y).max(axis=1)
    small = size < LARGEST
    usual = float(np.median(size[small])) if small.any() else 0.0
    told = small & (ROUNDINGS * moved <= TOLERANCE * (1 + usual))
    lost = np.flatnonzero(~told)
    n = int(lost[0]) if len(lost) else len(y)
    if not n:
        raise ModelError(
            f"the model's first output exceeds {LARGEST:g} or is rounding alone: is it trained?"
        )
    return Truth(steps[:n], y[:n], len(y))


def by_window(run: Runner, model: Model, window: Window, x: F32) -> SourceRun:
    """What the source says of some of the windows that the model answers for, each of which it
    alone sees. Raises CannotRunError."""
    n, last = window.length, model.schedule.first
    begin = np.arange(0, len(x) - n + 1, window.hop)
    begin = begin[np.unique(np.linspace(0, len(begin) - 1, WINDOWS).astype(np.int64))]
    runs = [run(x[start : start + n]) for start in begin]
    wanted = [r.steps < n if window.every else r.steps == last for r in runs]
    if not all(rows.any() for rows in wanted):
        raise CannotRunError(f"it has no output for row {last} of a window of {n}")
    found = [(s + r.steps[w], r.y[w]) for s, r, w in zip(begin, runs, wanted, strict=True)]
    steps, y = (np.concatenate(part) for part in zip(*found, strict=True))
    return SourceRun(runs[0].framework, steps, y, runs[0].notes)


def _rounded(model: Model) -> Model:
    """The model with every weight of its products moved by half a float32's last place."""
    rng = np.random.default_rng(0)

    def moved(w: Matrix) -> Matrix:
        return Matrix(w.float64() * (1 + rng.choice([-1, 1], w.data.shape) * 2.0**-24))

    def rounded(node: Node) -> Node:
        weights: dict[str, Any] = {
            name: moved(t) for name, _, t in tensors(node) if isinstance(t, Matrix)
        }
        return replace(node, **weights)

    return replace(model, nodes=tuple(rounded(n) for n in model.nodes))


def agree(what: str, y: F32, truth: Truth, steps: NDArray[np.int64]) -> float:
    """The largest absolute difference of y's rows, each what was said at its one of `steps`, from
    the truth's, of those that it has.

    Raises MismatchError, naming `what` made y, where they differ by more than 1e-4 + 1e-4
    |reference|, or where either is not finite.
    """
    there = np.isin(steps, truth.steps)
    steps, y = steps[there], y[there]
    wanted = truth.y[np.searchsorted(truth.steps, steps)]
    if y.shape != wanted.shape or not len(y):
        raise MismatchError(f"{what} gives outputs of shape {y.shape}, expected {wanted.shape}")
    error = np.abs(y - wanted)
    bad = np.argwhere(~(error <= TOLERANCE * (1 + np.abs(wanted))))
    if len(bad):
        row, column = bad[0]
        raise MismatchError(
            f"step {steps[row]}, column {column}: {what} gives {y[row, column]:.9g}, the converted "
            f"model {wanted[row, column]:.9g}; they may differ by {TOLERANCE} + {TOLERANCE} of it"
        )
    return float(error.max())
