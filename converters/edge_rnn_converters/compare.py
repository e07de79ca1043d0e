"""Does it compute what its source does? The inputs to compare on, and the comparison."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import MismatchError
from edge_rnn.graph import F32, Embedding, Model, Probe, Scale, output_digest
from edge_rnn.reference import F64
from edge_rnn.session import Session

TOLERANCE = 1e-4
"""Absolute, and relative to the reference: float32 sums in another order stay far below it."""

LARGEST = 1e6
PROBE_STEPS = 64
STRESS_STEPS = 256


def plausible(model: Model, steps: int, seed: int) -> F32:
    """Inputs (steps, I) as the model may expect: standard normal after its leading Scale, if it
    has one; random indices for embeddings."""
    rng = np.random.default_rng(seed)
    return np.concatenate([_column(model, i.name, rng.normal(size=(steps, i.width)), rng)
                           for i in model.inputs], axis=1)  # fmt: skip


def stress(model: Model, seed: int = 1) -> F32:
    """Harder inputs (256, I): plausible ones, three times as large, held still, then none."""
    rng = np.random.default_rng(seed)
    parts = []
    for i in model.inputs:
        normal = rng.normal(size=(STRESS_STEPS, i.width))
        normal[96:160] *= 3
        normal[160:208] = normal[160]
        normal[208:240] = 0
        parts.append(_column(model, i.name, normal, rng))
    return np.concatenate(parts, axis=1)


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


def bounded_steps(reference: F64) -> int:
    """How many steps stay where float32 can tell: a ReLU or linear cell may grow without end,
    and its sums then cancel what is left of them."""
    wild = np.flatnonzero(~(np.abs(reference) < LARGEST).all(axis=1))
    return int(wild[0]) if len(wild) else len(reference)


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
