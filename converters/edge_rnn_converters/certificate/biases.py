"""Biases that make up for what quantized weights do to the mean of a layer's sums.

Measurements: docs/decisions/0010-calibration.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edge_rnn.graph import F32, Dense, Gru, Lstm, Matrix, MinGru, Model, Node, NormLstm, Rnn
from edge_rnn.reference import F64
from edge_rnn.session import Session
from edge_rnn_converters.certificate.data import Data
from edge_rnn_converters.certificate.measure import Bounds
from edge_rnn_converters.certificate.metrics import sqnr_db
from edge_rnn_converters.certificate.truth import Truth

GAIN_DB = 0.5
"""Less is not worth a change."""


def corrected(
    exact: Model, model: Model, data: Data, truth: Truth, bounds: Bounds
) -> tuple[Model, tuple[str, ...]]:
    """`model`, its biases shifted by E[(W - W') v] for what its layers read, v, in the first half
    of the stream, and a sentence; or as it was, and none.

    The shift is kept if the SQNR of the second half, which it has not seen (of data that repeats
    itself, the second half of the data), gains half a decibel, and no further bound fails.
    """
    if not truth.values:
        return model, ()
    x, once = data.x[: truth.length], min(data.once or truth.length, truth.length)
    means = {name: _mean(v, once / 2 / truth.length) for name, v in truth.values.items()}
    shifted = _shifted(exact, model, means)
    unseen = (truth.steps >= once // 2) & (truth.steps < once)
    runs = (Session(m, capacity=1).run("biases", x) for m in (model, shifted))
    before, after = (truth.compared(y) for y in runs)
    old, new = (_sqnr(y[unseen], truth.answers[unseen]) for y in (before, after))
    if old is None or (new is not None and not new >= old + GAIN_DB):
        return model, ()
    failed = [len(bounds.failures(truth.errors("biases", y))) for y in (before, after)]
    if failed[1] > failed[0]:
        return model, ()
    now = "without error" if new is None else f"{new:.1f} dB"
    return shifted, (f"biases shifted by the mean of what quantization changes in the first half: "
                     f"SQNR of the second {old:.1f} dB before, {now} after",)  # fmt: skip


def _mean(values: F64, share: float) -> F64:
    """Of the first rows, this share of all."""
    return np.asarray(values[: max(1, round(share * len(values)))].mean(axis=0))


def _sqnr(y: F32, exact: F64) -> float | None:
    return sqnr_db(float((exact**2).sum()), float(((y - exact) ** 2).sum()))


def _shifted(exact: Model, model: Model, means: Mapping[str, F64]) -> Model:
    pairs = zip(exact.nodes, model.nodes, strict=True)
    nodes = tuple(_node(e, n, means[n.input], means[n.name]) for e, n in pairs)
    return replace(model, nodes=nodes, probe=None, certificate=None)


def _node(exact: Any, small: Node, read: F64, made: F64) -> Node:
    """The node with the biases that its means ask for, as it is where these are not in its sums:
    after a norm, of a window, or behind a reset."""
    if isinstance(small, NormLstm) or not isinstance(small, Dense | Rnn | Lstm | Gru | MinGru):
        return small
    shift = _lost(exact.w, small.w) @ read
    if isinstance(small, Dense | MinGru):
        return replace(small, b=_float32(small.b + shift))
    recurrent = _lost(exact.u, small.u) @ made
    if isinstance(small, Gru):
        candidate = slice(2 * len(small.rb), None)
        if small.reset == "after":
            small = replace(small, rb=_float32(small.rb + recurrent[candidate]))
        recurrent[candidate] = 0
    return replace(small, b=_float32(small.b + shift + recurrent))


def _lost(exact: Matrix, small: Matrix) -> F64:
    return exact.float64() - small.float64()


def _float32(v: F64) -> F32:
    return np.asarray(v, np.float32)
