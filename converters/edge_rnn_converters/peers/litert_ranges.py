"""Calibration: how large a model's values get, for an export that keeps them in int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn import reference
from edge_rnn.cli.measure import inputs
from edge_rnn.graph import Dense, Gru, Lstm, Model, Rnn

F64: TypeAlias = NDArray[np.float64]
_STREAMS = 8
_FLAT = 8.0  # beyond it a sigmoid and a tanh are flat to int8's precision


@dataclass(frozen=True, slots=True)
class Ranges:
    """Scales of a node's int8 values; all None in a graph of float32 values.

    input: of x, and of h beside it; gates: of W x + U h + b; candidate and recurrent: of the two
    terms of a GRU's candidate; cell: of c; unit: of values in [-1, 1]; twice: in [-2, 2].
    """

    input: float | None = None
    gates: float | None = None
    candidate: float | None = None
    recurrent: float | None = None
    cell: float | None = None
    unit: float | None = None
    twice: float | None = None

    def state(self, name: str) -> float | None:
        """The scale of a state vector."""
        return self.cell if name == "c" else self.input


def measure(model: Model) -> dict[str, Ranges]:
    """Scales by node, from the float64 reference over random inputs."""
    x = inputs(model, _STREAMS, seed=1).astype(np.float64)
    found: dict[str, list[dict[str, float]]] = {}
    for stream in range(_STREAMS):
        values = {model.inputs[0].name: x[:, stream]}
        for node in model.nodes:
            read = values[node.input]
            made = values[node.name] = reference.forward(node, read)
            if isinstance(node, Rnn | Lstm | Gru | Dense):
                found.setdefault(node.name, []).append(_peaks(node, read, made))
    return {name: _ranges(peaks) for name, peaks in found.items()}


def _ranges(streams: list[dict[str, float]]) -> Ranges:
    scales = {k: max(p[k] for p in streams) / 127 for k in streams[0]}
    return Ranges(**scales, unit=1 / 128, twice=2 / 127)


def _peaks(node: Rnn | Lstm | Gru | Dense, x: F64, y: F64) -> dict[str, float]:
    """Largest values of one stream, x (T, I) and y (T, H)."""
    wx = x @ node.w.float64().T + node.b
    if isinstance(node, Dense):
        return {"input": _peak(x), "gates": _peak(wx)}
    h = np.concatenate([np.zeros((1, y.shape[1])), y[:-1]])
    uh = h @ node.u.float64().T
    bounded = not isinstance(node, Rnn)
    gates = min(_peak(wx + uh), _FLAT) if bounded else _peak(wx + uh)
    peaks = {"input": max(_peak(x), _peak(y)), "gates": gates}
    if isinstance(node, Lstm):
        peaks["cell"] = _peak(_cells(wx + uh))
    if isinstance(node, Gru):
        H = y.shape[1]
        recurrent = uh[:, 2 * H :] + node.rb
        peaks["recurrent"] = _peak(recurrent)
        peaks["candidate"] = min(_peak(wx[:, 2 * H :]) + _peak(recurrent), _FLAT / 2)
    return peaks


def _cells(gates: F64) -> F64:
    """c of every step, from W x + U h + b (T, 4H)."""
    i, f, g, _ = np.split(gates, 4, axis=1)
    i, f = (reference.activate("sigmoid", v) for v in (i, f))
    c, steps = np.zeros(i.shape[1]), []
    for keep, new in zip(f, i * np.tanh(g), strict=True):
        c = keep * c + new
        steps.append(c)
    return np.array(steps)


def _peak(values: F64) -> float:
    return max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
