"""Does it compute what its source does? The inputs to compare on, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    output_digest,
    tensors,
)
from edge_rnn.reference import F64
from edge_rnn.session import Session
from edge_rnn_converters import streams

TOLERANCE = 1e-4
"""Absolute, and relative to the reference: float32 sums in another order stay far below it."""

ROUNDINGS = 8
LARGEST = 1e6
PROBE_STEPS = 64
STRESS_STEPS = 256
SPIKE = 4.0


def plausible(model: Model, steps: int, seed: int) -> F32:
    """Inputs (steps, I) as the model may expect: standard normal after its leading Scale, if it
    has one; random indices for embeddings."""
    rng = np.random.default_rng(seed)
    return _columns(model, lambda width: rng.normal(size=(steps, width)), rng)


def stress(model: Model, steps: int = STRESS_STEPS, seed: int = 1) -> F32:
    """Harder inputs (steps, I), see `streams.stretches`: up to four deviations from the mean."""
    rng = np.random.default_rng(seed)
    return _columns(model, lambda width: streams.stretches(steps, width, SPIKE, rng), rng)


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


def probed(model: Model) -> Model:
    """The model with a recorded run of 64 plausible steps on this machine's kernels."""
    x = plausible(model, PROBE_STEPS, seed=0)
    y = run(model, x)
    return replace(model, probe=Probe(x, y, output_digest(y)))


def run(model: Model, x: F32) -> F32:
    """The runtime's outputs (T, O) for one stream from the initial state."""
    return Session(model, capacity=1).run("check", x)


def truth(model: Model, x: F32) -> F64:
    """The reference's outputs (n, O) for x (T, I), n <= T: up to where float32 can no longer tell.

    That is where they pass 1e6 (a ReLU or linear cell may grow without end, and its sums then
    cancel what is left of them), or where 8 roundings of the weights move an output by more than
    the tolerance of a usual one (a cell that is not stable multiplies every rounding, its source
    framework's as well as ours).

    Raises ModelError if that is the first step.
    """
    with np.errstate(all="ignore"):
        y = reference.run(model, x)
        moved = np.abs(y - reference.run(_rounded(model), x)).max(axis=1)
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
    return y[:n]


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


def agree(what: str, y: F32, reference: F64, steps: NDArray[np.int64]) -> float:
    """The largest absolute difference of y's rows from the reference's rows at `steps`, of
    those that the reference has.

    Raises MismatchError, naming `what` made y, where they differ by more than 1e-4 + 1e-4
    |reference|, or where either is not finite.
    """
    there = steps < len(reference)
    steps, y, wanted = steps[there], y[there], reference[steps[there]]
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
