"""What every node computes: whole sequences in float64 NumPy, written to be read.

Nothing here is fast. The kernels and the converters are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_rnn.graph import Model, Node, bounds, masked, output_schedule, reads
from edge_rnn.reference import cells, frames, layers  # noqa: F401 - what `forward` knows
from edge_rnn.reference.base import F64, activate, forward
from edge_rnn.reference.cells import GATED, Watch

__all__ = ["F64", "Watch", "activate", "answers", "evaluate", "forward", "run"]


def run(model: Model, x: ArrayLike) -> F64:
    """The network's outputs (n, O) for one sequence x (T, I), from the initial state.

    A value has a row for each step at which it is there: n is T where that is every step. How the
    model is used, its window and its mask, is `answers`.
    """
    values = evaluate(model, x)
    return np.concatenate([values[name] for name in model.outputs], axis=1)


def evaluate(
    model: Model, x: ArrayLike, watch: Callable[[Node], Watch | None] = lambda node: None
) -> dict[str, F64]:
    """Every value of `run` by name, inputs and nodes; `watch` says who watches inside a node that
    has gates (an LSTM, a GRU and those like them), None for nobody."""
    columns = np.asarray(x, np.float64)
    values: dict[str, F64] = {}
    start = 0
    for i in model.inputs:
        values[i.name] = columns[:, start : start + i.width]
        start += i.width
    ranges = bounds(model)
    for node in model.nodes:
        read = [values[name] for name in reads(node)]
        inside = watch(node) if isinstance(node, GATED) else None
        watched: dict[str, Any] = {} if inside is None else {"watch": inside}
        values[node.name] = forward(node, *read, limit=ranges[node.input], **watched)
    return values


def answers(model: Model, x: ArrayLike) -> tuple[NDArray[np.int64], F64]:
    """(steps, y): what a stream answers to its messages x (T, I), y[i] at message steps[i]."""
    rows = np.asarray(x, np.float64)
    if model.window is None:
        seen = np.flatnonzero(~masked(model, rows))
        first, period = output_schedule(model)
        return seen[first::period], run(model, rows[seen])
    length, hop = model.window.length, model.window.hop
    windows = [(start, rows[start : start + length]) for start in range(0, len(rows), hop)]
    answer = _each if model.window.every else _last
    found = [a for start, window in windows for a in answer(model, start, window)]
    y = np.array([a for _, a in found]).reshape(-1, model.output_width)
    return np.array([step for step, _ in found], np.int64), y


def _last(model: Model, start: int, window: F64) -> list[tuple[int, F64]]:
    """A window's last output, at the message with which it is sure, if that has come."""
    last = model.schedule.first
    seen = window[: last + 1][~masked(model, window[: last + 1])]
    return [(start + last, run(model, seen)[-1])] if last < len(window) and len(seen) else []


def _each(model: Model, start: int, window: F64) -> list[tuple[int, F64]]:
    """Each of a window's outputs."""
    steps, y = answers(replace(model, window=None), window)
    return list(zip(start + steps, y, strict=True))
