"""Matrix-vector products, one row or three at a time, every sum in the order of k.

Weights are packed [N / BLOCK][K][BLOCK]: the outputs of a block lie side by side for each input, so
that each lane adds its own K products in order whatever the lanes, rows or machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.simd import LANES, fma, load, splat, store

BLOCK = 32
_STEP = 4 * LANES
_0 = np.float32(0)

I8 = NDArray[np.int8]
I64 = NDArray[np.int64]


def pack(w: NDArray[Any]) -> NDArray[Any]:
    """w (N, K) as [N / BLOCK][K][BLOCK], rows of zeros filling the last block."""
    n, k = w.shape
    full = np.zeros((-(-n // BLOCK) * BLOCK, k), w.dtype)
    full[:n] = w
    return np.ascontiguousarray(full.reshape(-1, BLOCK, k).transpose(0, 2, 1)).reshape(-1)


@njit(error_model="numpy", boundscheck=False)
def _tile1(w: Any, at: int, K: int, x: F32, r0: int) -> Any:
    """Sums of 4 LANES outputs for the one row at r0."""
    a0 = a1 = a2 = a3 = splat(_0)
    for k in range(K):
        v = splat(x[r0 + k])
        a0 = fma(load(w, at), v, a0)
        a1 = fma(load(w, at + LANES), v, a1)
        a2 = fma(load(w, at + 2 * LANES), v, a2)
        a3 = fma(load(w, at + 3 * LANES), v, a3)
        at += BLOCK
    return a0, a1, a2, a3


@njit(error_model="numpy", boundscheck=False)
def _tile3(w: Any, at: int, K: int, x: F32, r0: int, r1: int, r2: int) -> Any:
    """Sums of 4 LANES outputs for three rows; each weight is loaded once."""
    a0 = a1 = a2 = a3 = splat(_0)
    b0 = b1 = b2 = b3 = splat(_0)
    c0 = c1 = c2 = c3 = splat(_0)
    for k in range(K):
        v, u, t = splat(x[r0 + k]), splat(x[r1 + k]), splat(x[r2 + k])
        m = load(w, at)
        a0, b0, c0 = fma(m, v, a0), fma(m, u, b0), fma(m, t, c0)
        m = load(w, at + LANES)
        a1, b1, c1 = fma(m, v, a1), fma(m, u, b1), fma(m, t, c1)
        m = load(w, at + 2 * LANES)
        a2, b2, c2 = fma(m, v, a2), fma(m, u, b2), fma(m, t, c2)
        m = load(w, at + 3 * LANES)
        a3, b3, c3 = fma(m, v, a3), fma(m, u, b3), fma(m, t, c3)
        at += BLOCK
    return (a0, a1, a2, a3), (b0, b1, b2, b3), (c0, c1, c2, c3)


@njit(error_model="numpy", boundscheck=False)
def _finish(sums: Any, p: F32, scale: int, base: int, n: int, y: F32, to: int) -> None:
    """y[to:] = sums scale + bias for 4 vectors; see `matvec` for negative scale and base."""
    for v in range(4):
        j = v * LANES
        start = load(p, base + n + j) if base >= 0 else load(y, to + j)
        if scale >= 0:
            store(y, to + j, fma(sums[v], load(p, scale + j), start))
        else:
            store(y, to + j, sums[v] + start)


@njit(error_model="numpy", boundscheck=False)
def matvec(
    w: Any,
    at: int,
    N: int,
    K: int,
    x: F32,
    src: int,
    rows_x: I64,
    p: F32,
    scale: int,
    base: int,
    y: F32,
    dst: int,
    rows: I64,
) -> None:
    """y = W x + bias for every row i: x at rows_x[i] + src, y at rows[i] + dst.

    W stands at w[at:], N a multiple of BLOCK; scales at p[scale:] where scale >= 0; the bias at
    p[base:], or where base < 0 what stands in y already.
    """
    for n in range(0, N, _STEP):
        tile = at + (n // BLOCK) * BLOCK * K + n % BLOCK
        s = scale + n if scale >= 0 else -1
        i = 0
        while i + 3 <= rows.size:
            r0, r1, r2 = rows_x[i] + src, rows_x[i + 1] + src, rows_x[i + 2] + src
            a, b, c = _tile3(w, tile, K, x, r0, r1, r2)
            _finish(a, p, s, base, n, y, rows[i] + dst + n)
            _finish(b, p, s, base, n, y, rows[i + 1] + dst + n)
            _finish(c, p, s, base, n, y, rows[i + 2] + dst + n)
            i += 3
        while i < rows.size:
            a = _tile1(w, tile, K, x, rows_x[i] + src)
            _finish(a, p, s, base, n, y, rows[i] + dst + n)
            i += 1
