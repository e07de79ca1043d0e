"""What the opcodes do, for one row: matrix-vector products and the cells' point-wise parts.

Weights are packed by columns (K, N): the inner loop runs over outputs, so it vectorises while
every output still adds its K products in order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.elementwise import activate

_1 = np.float32(1.0)


@njit(error_model="numpy")
def copy(a: F32, v: F32) -> None:
    """v (N,) = a, without the overlap check that makes slice assignment slow to compile."""
    for i in range(v.size):
        v[i] = a[i]


@njit(error_model="numpy")
def accumulate(w: NDArray[Any], x: F32, total: F32) -> None:
    """total (N,) = sum over k of x[k] times column k of w, packed (K, N) as a vector."""
    n = total.size
    for i in range(n):
        total[i] = np.float32(0.0)
    for k in range(x.size):
        column = w[k * n : (k + 1) * n]
        xk = x[k]
        for i in range(n):
            total[i] += np.float32(column[i]) * xk


@njit(error_model="numpy")
def rescale(scale: F32, v: F32) -> None:
    """v (N,) times the weights' scale of each row."""
    for i in range(v.size):
        v[i] *= scale[i]


@njit(error_model="numpy")
def add(a: F32, v: F32) -> None:
    """v (N,) += a."""
    for i in range(v.size):
        v[i] += a[i]


@njit(error_model="numpy")
def lstm_update(g: F32, h: F32, c: F32, gate: int, cell: int, hidden: int) -> None:
    """New h and c (H,) in place from pre-activations g (4H,) in order i, f, g, o."""
    H = h.size
    activate(gate, g[: 2 * H])
    activate(cell, g[2 * H : 3 * H])
    activate(gate, g[3 * H :])
    for j in range(H):
        c[j] = g[H + j] * c[j] + g[j] * g[2 * H + j]
        h[j] = c[j]
    activate(hidden, h)
    for j in range(H):
        h[j] *= g[3 * H + j]


@njit(error_model="numpy")
def gru_reset_after(g: F32, u: F32, h: F32, gate: int, candidate: int) -> None:
    """New h (H,) in place; g (3H,) = W x + b and u (3H,) = U h + [0, 0, rb], order z, r, n."""
    H = h.size
    for j in range(2 * H):
        g[j] += u[j]
    activate(gate, g[: 2 * H])
    for j in range(H):
        g[2 * H + j] += g[H + j] * u[2 * H + j]
    gru_blend(g, h, candidate)


@njit(error_model="numpy")
def gru_reset_before(g: F32, h: F32, rh: F32, gate: int) -> None:
    """Activate z and r in g (3H,) and leave r h in rh (H,), for the candidate's product."""
    H = h.size
    activate(gate, g[: 2 * H])
    for j in range(H):
        rh[j] = g[H + j] * h[j]


@njit(error_model="numpy")
def gru_blend(g: F32, h: F32, candidate: int) -> None:
    """h = (1 - z) n + z h with z = g[:H] and n = candidate(g[2H:])."""
    H = h.size
    activate(candidate, g[2 * H :])
    for j in range(H):
        h[j] = (_1 - g[j]) * g[2 * H + j] + g[j] * h[j]
