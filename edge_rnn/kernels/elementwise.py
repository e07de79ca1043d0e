"""Activations and softmax on float32, with the same bits on every machine.

NaN passes through every function, so that a diverged stream shows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from edge_rnn.graph import ACTS, F32

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


@njit(error_model="numpy", inline="always")
def tanh(x: np.float32) -> np.float32:
    """Rational minimax approximation of Eigen's `generic_fast_tanh_float`; within 4 ulp."""
    c = -_TANH_LIMIT if x < -_TANH_LIMIT else (_TANH_LIMIT if x > _TANH_LIMIT else x)
    s = c * c
    p = ((((((_A13 * s + _A11) * s + _A9) * s + _A7) * s + _A5) * s + _A3) * s + _A1) * c
    q = ((_B6 * s + _B4) * s + _B2) * s + _B0
    return x if -_TINY < x < _TINY else p / q


@njit(error_model="numpy", inline="always")
def sigmoid(x: np.float32) -> np.float32:
    """1 / (1 + exp(-x)) as tanh(x / 2) / 2 + 1 / 2."""
    return _HALF * tanh(_HALF * x) + _HALF


@njit(error_model="numpy")
def exp(x: np.float32) -> np.float32:
    """Cephes `expf`: x = n ln 2 + r, a polynomial in r, times 2^n; within 2 ulp."""
    c = _EXP_LOW if x < _EXP_LOW else (_EXP_HIGH if x > _EXP_HIGH else x)
    if c != c:
        return x
    n = np.float32(np.floor(c * _LOG2E + _HALF))
    r = (c - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_E5 * r + _E4) * r + _E3) * r + _E2) * r + _E1) * r + _E0
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return ((p * r) * r + r + _1) * scale


@njit(error_model="numpy")
def clip(x: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """x held inside [low, high]."""
    return low if x < low else (high if x > high else x)


@njit(error_model="numpy")
def activate(act: int, v: F32) -> None:
    """Apply activation number `act` (its place in `graph.ACTS`) to v (n,) in place."""
    if act == RELU:
        for i in range(v.size):
            v[i] = _0 if v[i] < _0 else v[i]
    elif act == RELU6:
        for i in range(v.size):
            v[i] = clip(v[i], _0, _6)
    elif act == TANH:
        for i in range(v.size):
            v[i] = tanh(v[i])
    elif act == SIGMOID:
        for i in range(v.size):
            v[i] = sigmoid(v[i])
    elif act == SOFTSIGN:
        for i in range(v.size):
            v[i] = v[i] / (_1 + abs(v[i]))
    elif act == SILU:
        for i in range(v.size):
            v[i] = v[i] / (_1 + exp(-v[i]))
    elif act == HARD_KERAS2:
        for i in range(v.size):
            v[i] = clip(_FIFTH * v[i] + _HALF, _0, _1)
    elif act == HARD_RELU6:
        for i in range(v.size):
            v[i] = clip(v[i] + _3, _0, _6) * _SIXTH


@njit(error_model="numpy")
def softmax(x: F32, y: F32) -> None:
    """y_i = exp(x_i - max x) / sum_j exp(x_j - max x); x and y (n,), summed left to right."""
    top = x[0]
    for i in range(1, x.size):
        top = x[i] if x[i] > top else top
    total = _0
    for i in range(x.size):
        y[i] = exp(x[i] - top)
        total += y[i]
    for i in range(x.size):
        y[i] = y[i] / total
