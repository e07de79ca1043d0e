"""The figures of a certificate, each from plain arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_rnn.certificate import ClassScore, Errors, Growth, Score
from edge_rnn.reference import F64

I64 = NDArray[np.int64]

PARTS, FEWEST_PARTS = 100, 8
PART_ROWS = 20
"""A stream is judged in at most 100 parts, of at least 20 answers each."""
LEARNING = 0.1
"""The share of a stream in which errors first build up; the growth is fitted to the rest."""
CERTAIN, FIFTH = 3.0, 1.2
PER = 10_000


def sqnr_db(power: float, noise: float) -> float | None:
    """10 log10(power / noise): of sums of squares; None without noise."""
    if noise == 0:
        return None
    return 10 * math.log10(max(power, np.finfo(np.float64).tiny) / noise)


def curve(error: F64) -> F64:
    """The root mean square of each of up to 100 equal parts of error (n, O)."""
    parts = max(1, min(PARTS, len(error) // PART_ROWS))
    return np.array([np.sqrt(np.mean(e**2)) for e in np.array_split(error, parts)])


def growth(rms: F64, steps: int) -> Growth | None:
    """A least-squares line through log rms of equal parts of a stream of `steps`, without the
    first tenth; None where fewer than 8 parts are left, or one has no error at all.

    The standard error is that of a straight line's slope with n - 2 degrees of freedom.
    """
    start = math.ceil(LEARNING * len(rms))
    y = rms[start:]
    if len(y) < FEWEST_PARTS or not (y > 0).all():
        return None
    t = (np.arange(start, len(rms)) + 0.5) * steps / len(rms)
    off, log = t - t.mean(), np.log(y)
    slope = float(off @ log / (off @ off))
    left = log - log.mean() - slope * off
    doubt = CERTAIN * math.sqrt(float(left @ left) / (len(y) - 2) / float(off @ off))
    factor, low, high = (math.exp(min(PER * s, 700)) for s in (slope, slope - doubt, slope + doubt))
    over_the_stream = math.exp(min(slope * steps, 700))
    return Growth(factor, low, high, low > 1 and over_the_stream > FIFTH)


def decisions(y: F64, kind: str) -> I64:
    """(n,) the class of the largest of y's columns, or whether its only one exceeds a half."""
    return np.asarray(y.argmax(axis=1) if kind == "largest" else y[:, 0] > 0.5, np.int64)


def margins(y: F64, kind: str) -> F64:
    """(n,) how much the decision was preferred to the next one."""
    if kind == "half":
        return np.asarray(np.abs(y[:, 0] - 0.5))
    top = np.sort(y, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])


def errors(name: str, y: F64, truth: F64, steps: I64, length: int, decision: str | None) -> Errors:
    """y's rows, answers to the steps `steps` of a stream of `length`, against the truth's.

    Raises ValueError where the first row is not finite.
    """
    lost = np.flatnonzero(~np.isfinite(y).all(axis=1))
    n = int(lost[0]) if len(lost) else len(y)
    if not n:
        raise ValueError(f"{name}: the first answer is not finite")
    y, truth = y[:n], truth[:n]
    off = y - truth
    size = np.abs(off).max(axis=1)
    flips = margin = None
    if decision is not None:
        changed = decisions(y, decision) != decisions(truth, decision)
        flips = int(changed.sum())
        margin = float(margins(truth, decision)[changed].max(initial=0))
    rms = curve(off)
    return Errors(
        name=name,
        answers=n,
        largest=float(size.max()),
        at=int(steps[size.argmax()]),
        rms=float(np.sqrt(np.mean(off**2))),
        sqnr_db=sqnr_db(float((truth**2).sum()), float((off**2).sum())),
        flips=flips,
        margin=margin,
        broken=int(steps[n]) if len(lost) else None,
        curve=tuple(float(f"{v:.4g}") for v in rms),
        growth=growth(rms, length) if n == len(steps) else None,
    )


def classification(name: str, called: I64, labels: I64, classes: Sequence[str]) -> Score:
    """Accuracy, the confusion matrix, and precision, recall and F1 of each class.

    A ratio of nothing is 0; the macro F1 is the mean over the classes that are labelled.
    """
    n = len(classes)
    table = np.bincount(labels * n + called, minlength=n * n).reshape(n, n)
    hits, rows, calls = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    precision, recall = (np.where(d > 0, hits / np.maximum(d, 1), 0.0) for d in (calls, rows))
    f1 = 2 * hits / np.maximum(rows + calls, 1)
    return Score(
        name=name,
        accuracy=float(hits.sum() / len(labels)),
        macro_f1=float(f1[rows > 0].mean()),
        classes=tuple(
            ClassScore(c, float(p), float(r), float(f), int(k))
            for c, p, r, f, k in zip(classes, precision, recall, f1, rows, strict=True)
        ),
        confusion=tuple(tuple(map(int, row)) for row in table),
    )


def regression(name: str, y: F64, labels: F64) -> Score:
    """Mean absolute and root mean square error over all rows and columns."""
    off = y - labels
    return Score(name, mae=float(np.abs(off).mean()), rmse=float(np.sqrt((off**2).mean())))
