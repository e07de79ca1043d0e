"""Softmax and the layers that normalise, for one row in scratch.

Sums over features have one order on every machine: element j is added to partial sum j % 16, the
partial sums to each other as a tree. A run is n numbers from a place on, and the room of 16 words
for the partial sums is at a[t].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.formats import PARTIALS
from edge_rnn.kernels.functions import exp, log1p
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.opcodes import Op
from edge_rnn.kernels.simd import LANES, fma, less, load, select, splat, sqrt, store

_0, _HALF, _1, _2, _LN2 = (np.float32(v) for v in (0.0, 0.5, 1.0, 2.0, 0.69314718056))
_LOG_SOFTMAX, _STANDARDISE, _RMS, _L2, _AFFINE, _PRELU = (
    int(o) for o in (Op.LOG_SOFTMAX, Op.STANDARDISE, Op.RMS, Op.L2, Op.AFFINE, Op.PRELU)
)

I64 = NDArray[np.int64]


@kernel
def _clear(a: F32, t: int) -> None:
    for j in range(PARTIALS):
        a[t + j] = _0


@kernel
def _add(a: F32, i: int, n: int, t: int) -> None:
    """Add a run at a[i] to the partial sums."""
    whole = n - n % PARTIALS
    for j in range(0, whole, PARTIALS):
        for k in range(0, PARTIALS, LANES):
            store(a, t + k, load(a, t + k) + load(a, i + j + k))
    for j in range(whole, n):
        a[t + j - whole] += a[i + j]


@kernel
def _add_squares(a: F32, i: int, n: int, t: int) -> None:
    """Add the squares of a run at a[i] to the partial sums."""
    whole = n - n % PARTIALS
    for j in range(0, whole, PARTIALS):
        for k in range(0, PARTIALS, LANES):
            x = load(a, i + j + k)
            store(a, t + k, load(a, t + k) + x * x)
    for j in range(whole, n):
        a[t + j - whole] += a[i + j] * a[i + j]


@kernel
def _total(a: F32, t: int) -> Any:
    """The sum of the partial sums, which it overwrites."""
    half = PARTIALS // 2
    while half > 0:
        for j in range(half):
            a[t + j] += a[t + j + half]
        half //= 2
    return a[t]


@kernel
def _exponentials(a: F32, x: int, y: int, n: int, t: int) -> tuple[np.float32, np.float32]:
    """y_i = exp(x_i - max x) inside a -> (max x, sum of y)."""
    top = a[x]
    for i in range(1, n):
        top = a[x + i] if a[x + i] > top else top
    for j in range(0, n, LANES):
        store(a, y + j, exp(load(a, x + j) - splat(top)))
    _clear(a, t)
    _add(a, y, n, t)
    return top, _total(a, t)


@kernel
def softmax(a: F32, x: int, y: int, n: int, t: int) -> None:
    """y_i = exp(x_i - max x) / sum_j exp(x_j - max x) inside a."""
    _, total = _exponentials(a, x, y, n, t)
    for j in range(0, n, LANES):
        store(a, y + j, load(a, y + j) / splat(total))


@kernel
def log_softmax(a: F32, x: int, y: int, n: int, t: int) -> None:
    """y_i = x_i - max x - log sum_j exp(x_j - max x) inside a."""
    top, total = _exponentials(a, x, y, n, t)
    twos = _0
    while total >= _2:  # log(total) = twos ln 2 + log(what is left, from 1 to 2)
        total *= _HALF
        twos += _1
    log = fma(splat(twos), splat(_LN2), log1p(splat(total - _1)))
    for j in range(0, n, LANES):
        store(a, y + j, load(a, x + j) - splat(top) - log)


@kernel
def standardise(a: F32, x: int, y: int, n: int, P: int, runs: int, t: int, eps: np.float32) -> None:
    """y = (x - mean) / sqrt(var + eps) inside a, over `runs` runs P apart taken as one vector."""
    count = np.float32(runs * n)
    _clear(a, t)
    for k in range(runs):
        _add(a, x + k * P, n, t)
    mean = _total(a, t) / count
    for j in range(0, runs * P, LANES):
        store(a, y + j, load(a, x + j) - splat(mean))
    _clear(a, t)
    for k in range(runs):
        _add_squares(a, y + k * P, n, t)
    _divide(a, y, y, runs * P, sqrt(splat(_total(a, t) / count + eps)))


@kernel
def rms(a: F32, x: int, y: int, n: int, t: int, eps: np.float32) -> None:
    """y = x / sqrt(mean x^2 + eps) inside a."""
    _clear(a, t)
    _add_squares(a, x, n, t)
    _divide(a, x, y, n, sqrt(splat(_total(a, t) / np.float32(n) + eps)))


@kernel
def l2(a: F32, x: int, y: int, n: int, t: int, eps: np.float32) -> None:
    """y = x / max(sqrt(sum x^2), eps) inside a."""
    _clear(a, t)
    _add_squares(a, x, n, t)
    size = sqrt(splat(_total(a, t)))
    _divide(a, x, y, n, select(less(size, splat(eps)), splat(eps), size))


@kernel
def _divide(a: F32, x: int, y: int, n: int, by: F32) -> None:
    """y = x / by inside a, by a vector of the same number in every lane."""
    for j in range(0, n, LANES):
        store(a, y + j, load(a, x + j) / by)


@kernel
def affine(a: F32, x: int, y: int, n: int, p: F32, gain: int, bias: int) -> None:
    """y = gain x + bias inside a, gain and bias in p; bias < 0: y += gain x."""
    for j in range(0, n, LANES):
        start = load(p, bias + j) if bias >= 0 else load(a, y + j)
        store(a, y + j, fma(load(p, gain + j), load(a, x + j), start))


@kernel
def prelu(a: F32, x: int, y: int, n: int, p: F32, slope: int) -> None:
    """y = x where x > 0, else slope x, inside a, the slopes in p."""
    for j in range(0, n, LANES):
        v = load(a, x + j)
        store(a, y + j, select(less(splat(_0), v), v, load(p, slope + j) * v))


@kernel
def norm(op: int, a: I64, p: F32, s: F32, r: int) -> None:
    """One instruction for one row, whose scratch begins at s[r]."""
    n, x, y = a[0], r + a[1], r + a[2]
    if op == _LOG_SOFTMAX:
        log_softmax(s, x, y, n, r + a[3])
    elif op == _STANDARDISE:
        standardise(s, x, y, n, a[5], a[6], r + a[3], p[a[4]])
    elif op == _RMS:
        rms(s, x, y, n, r + a[3], p[a[4]])
    elif op == _L2:
        l2(s, x, y, n, r + a[3], p[a[4]])
    elif op == _AFFINE:
        affine(s, x, y, n, p, a[3], a[4])
    elif op == _PRELU:
        prelu(s, x, y, n, p, a[3])
