"""Activations and softmax on float32, with the same bits on every machine.

NaN passes through every function, so that a diverged stream shows. Vectors run over padded
lengths: what they leave behind the last element is never read as a value.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from edge_rnn.graph import ACTS, F32
from edge_rnn.kernels.simd import LANES, fma, less, load, select, splat, store

LINEAR, RELU, RELU6, TANH, SIGMOID, SOFTSIGN, SILU, HARD_KERAS2, HARD_RELU6 = range(len(ACTS))

_0, _HALF, _1, _3, _6 = (np.float32(v) for v in (0.0, 0.5, 1.0, 3.0, 6.0))
_FIFTH, _SIXTH = np.float32(0.2), np.float32(1 / 6)
_TANH_LIMIT = np.float32(7.90531110763549805)
_TINY = np.float32(0.0004)
_A13, _A11, _A9, _A7, _A5, _A3, _A1 = (
    np.float32(v)
    for v in (
        -2.76076847742355e-16,
        2.00018790482477e-13,
        -8.60467152213735e-11,
        5.12229709037114e-08,
        1.48572235717979e-05,
        6.37261928875436e-04,
        4.89352455891786e-03,
    )
)
_B6, _B4, _B2, _B0 = (
    np.float32(v)
    for v in (
        1.19825839466702e-06,
        1.18534705686654e-04,
        2.26843463243900e-03,
        4.89352518554385e-03,
    )
)
_EXP_LOW, _EXP_HIGH = np.float32(-87.33654), np.float32(88.37626)
_LOG2E, _LN2_HIGH, _LN2_LOW = (
    np.float32(v) for v in (1.44269504088896341, 0.693359375, -2.12194440e-4)
)
_E5, _E4, _E3, _E2, _E1, _E0 = (
    np.float32(v)
    for v in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)


@njit(error_model="numpy")
def clip(x: F32, low: np.float32, high: np.float32) -> F32:
    """A vector held inside [low, high]; NaN stays NaN."""
    bottom, top = splat(low), splat(high)
    x = select(less(x, bottom), bottom, x)
    return select(less(top, x), top, x)


@njit(error_model="numpy")
def tanh(x: F32) -> F32:
    """Rational minimax approximation of Eigen's `generic_fast_tanh_float`; within 4 ulp."""
    c = clip(x, -_TANH_LIMIT, _TANH_LIMIT)
    s = c * c
    p = fma(fma(fma(splat(_A13), s, splat(_A11)), s, splat(_A9)), s, splat(_A7))
    p = fma(fma(fma(p, s, splat(_A5)), s, splat(_A3)), s, splat(_A1)) * c
    q = fma(fma(fma(splat(_B6), s, splat(_B4)), s, splat(_B2)), s, splat(_B0))
    return select(less(s, splat(_TINY * _TINY)), x, p / q)


@njit(error_model="numpy")
def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x)) of a vector, as tanh(x / 2) / 2 + 1 / 2."""
    return fma(splat(_HALF), tanh(splat(_HALF) * x), splat(_HALF))


@njit(error_model="numpy")
def softsign(x: F32) -> F32:
    """x / (1 + |x|) of a vector."""
    size = select(less(x, splat(_0)), splat(_0) - x, x)
    return x / (splat(_1) + size)


@njit(error_model="numpy")
def exp(x: np.float32) -> np.float32:
    """Cephes `expf` of one number: x = n ln 2 + r, a polynomial in r, times 2^n; within 2 ulp."""
    c = _EXP_LOW if x < _EXP_LOW else (_EXP_HIGH if x > _EXP_HIGH else x)
    if c != c:
        return x
    n = np.float32(np.floor(c * _LOG2E + _HALF))
    r = (c - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_E5 * r + _E4) * r + _E3) * r + _E2) * r + _E1) * r + _E0
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(((p * r) * r + r + _1) * scale)


@njit(error_model="numpy", boundscheck=False)
def activate(act: int, a: F32, start: int, n: int) -> None:
    """Apply activation number `act` (its place in `graph.ACTS`) to a[start : start + n]."""
    end = start + n
    if act == RELU:
        for j in range(start, end, LANES):
            x = load(a, j)
            store(a, j, select(less(x, splat(_0)), splat(_0), x))
    elif act == RELU6:
        for j in range(start, end, LANES):
            store(a, j, clip(load(a, j), _0, _6))
    elif act == TANH:
        for j in range(start, end, LANES):
            store(a, j, tanh(load(a, j)))
    elif act == SIGMOID:
        for j in range(start, end, LANES):
            store(a, j, sigmoid(load(a, j)))
    elif act == SOFTSIGN:
        for j in range(start, end, LANES):
            store(a, j, softsign(load(a, j)))
    elif act == SILU:
        for j in range(start, end):
            a[j] = a[j] / (_1 + exp(-a[j]))
    elif act == HARD_KERAS2:
        for j in range(start, end, LANES):
            store(a, j, clip(fma(splat(_FIFTH), load(a, j), splat(_HALF)), _0, _1))
    elif act == HARD_RELU6:
        for j in range(start, end, LANES):
            store(a, j, clip(load(a, j) + splat(_3), _0, _6) * splat(_SIXTH))


@njit(error_model="numpy", boundscheck=False)
def softmax(a: F32, x: int, y: int, n: int) -> None:
    """y_i = exp(x_i - max x) / sum_j exp(x_j - max x) inside a, summed left to right."""
    top = a[x]
    for i in range(1, n):
        top = a[x + i] if a[x + i] > top else top
    total = _0
    for i in range(n):
        a[y + i] = exp(a[x + i] - top)
        total += a[y + i]
    for i in range(n):
        a[y + i] = a[y + i] / total
