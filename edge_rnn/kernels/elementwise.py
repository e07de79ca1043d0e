"""Activations by their numbers: the place in ACTS, or len(ACTS) and that in TUNED."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_rnn.activations import ACTS, TUNED
from edge_rnn.graph import F32
from edge_rnn.kernels.functions import (
    clip,
    elu,
    exp,
    gelu,
    gelu_tanh,
    hard_swish,
    log,
    log1p_exp,
    mish,
    relu,
    root,
    sigmoid,
    silu,
    size,
    softsign,
    tanh,
)
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.simd import LANES, fma, less, load, select, splat, store

LINEAR, RELU, RELU6, TANH, SIGMOID, SOFTSIGN, SILU, HARD_KERAS2, HARD_RELU6 = range(9)
ELU, SELU, GELU, GELU_TANH, SOFTPLUS, MISH, HARD_SWISH, HARD_TANH = range(9, 17)
EXPONENTIAL, LOG_SIGMOID, MIN_GRU, SQRT, SQUARE, ABS, LOG = range(17, len(ACTS))
AFFINE, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, HARD_SIGMOID, ELU_ALPHA, CLIP = range(
    len(ACTS), len(ACTS) + len(TUNED)
)

_0, _HALF, _1, _3, _6, _TINY = (np.float32(v) for v in (0.0, 0.5, 1.0, 3.0, 6.0, 1e-30))
_FIFTH, _SIXTH, _INFINITY = (np.float32(v) for v in (0.2, 1 / 6, np.inf))
_SELU, _SELU_ALPHA = np.float32(1.0507009873554805), np.float32(1.6732632423543772)


@kernel
def _other(act: int, x: F32) -> Any:
    """Activation number `act` of a vector: every one but tanh, sigmoid and linear."""
    if act == RELU:
        return relu(x)
    if act == RELU6:
        return clip(x, _0, _6)
    if act == SOFTSIGN:
        return softsign(x)
    if act == SILU:
        return silu(x)
    if act == HARD_KERAS2:
        return clip(fma(splat(_FIFTH), x, splat(_HALF)), _0, _1)
    if act == HARD_RELU6:
        return clip(x + splat(_3), _0, _6) * splat(_SIXTH)
    if act == ELU:
        return elu(x, _1)
    if act == SELU:
        return splat(_SELU) * elu(x, _SELU_ALPHA)
    if act == GELU:
        return gelu(x)
    if act == GELU_TANH:
        return gelu_tanh(x)
    if act == SOFTPLUS:
        return relu(x) + log1p_exp(size(x))
    if act == LOG_SIGMOID:
        return splat(_0) - (relu(splat(_0) - x) + log1p_exp(size(x)))
    if act == MISH:
        return mish(x)
    if act == HARD_SWISH:
        return hard_swish(x)
    if act == HARD_TANH:
        return clip(x, -_1, _1)
    if act == EXPONENTIAL:
        return exp(x)
    if act == SQRT:
        return root(x)
    if act == SQUARE:
        return x * x
    if act == ABS:
        return size(x)
    if act == LOG:
        return log(x)
    return select(less(x, splat(_0)), sigmoid(x), x + splat(_HALF))


@kernel
def activate(act: int, a: F32, start: int, n: int) -> None:
    """Apply activation number `act` (its place in `graph.ACTS`) to a[start : start + n]."""
    end = start + n
    if act == TANH:
        for j in range(start, end, LANES):
            store(a, j, tanh(load(a, j)))
    elif act == SIGMOID:
        for j in range(start, end, LANES):
            store(a, j, sigmoid(load(a, j)))
    elif act != LINEAR:
        for j in range(start, end, LANES):
            store(a, j, _other(act, load(a, j)))


@kernel
def _tuned(act: int, x: F32, alpha: np.float32, beta: np.float32) -> Any:
    """Activation number `act` of a vector, one that takes numbers."""
    if act == AFFINE:
        return fma(splat(alpha), x, splat(beta))
    if act == LEAKY_RELU:
        return select(less(x, splat(_0)), splat(alpha) * x, x)
    if act == THRESHOLDED_RELU:
        y = select(less(splat(alpha), x), x, splat(_0))
        return select(less(x, splat(_INFINITY)), y, x)
    if act == SCALED_TANH:
        u = splat(beta) * x  # where tanh is the identity, its last bit would count alpha times
        return splat(alpha) * select(less(size(u), splat(_TINY)), u, tanh(u))
    if act == HARD_SIGMOID:
        return clip(fma(splat(alpha), x, splat(beta)), _0, _1)
    if act == ELU_ALPHA:
        return elu(x, alpha)
    return clip(x, alpha, beta)


@kernel
def activate_tuned(
    act: int, alpha: np.float32, beta: np.float32, a: F32, start: int, n: int
) -> None:
    """Apply activation number `act`, len(ACTS) and its place in TUNED, to a[start : start + n]."""
    for j in range(start, start + n, LANES):
        store(a, j, _tuned(act, load(a, j), alpha, beta))
