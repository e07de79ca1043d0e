"""Matrix-vector products of float32 activations. Sums are in the order of k, each _TERMS by
themselves and then their sums, whatever the lanes, rows or machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.formats import BLOCK
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.products import block, finish
from edge_rnn.kernels.simd import fma, load, splat

_TERMS = 64
"""An error grows with the terms that a sum has: sums of sums have less of both."""

_0, _1 = np.float32(0), np.float32(1)

I64 = NDArray[np.int64]


@kernel
def floats(a: I64, w: Any, x: F32, rows_x: I64, p: F32, y: F32, rows: I64, back: int) -> None:
    """MATVEC of float32 activations for every row i: x at rows_x[i], y at rows[i]."""
    if rows.size == 1:
        _floats_row(a, w, x, rows_x[0] + a[2], p, y, rows[0], back)
        return
    N, K, src = a[0], a[1], a[2]
    for done in range(0, N, BLOCK):  # a block's weights stay in the nearest cache for all rows
        n = block(done, BLOCK, N, back)
        at, i = a[5] + n * K, 0
        while i + 2 <= rows.size:
            u, v = _floats_rows(w, at, K, x, rows_x[i] + src, rows_x[i + 1] + src)
            finish(u, a, n, p, _1, y, rows[i])
            finish(v, a, n, p, _1, y, rows[i + 1])
            i += 2
        while i < rows.size:
            finish(_floats1(w, at, K, x, rows_x[i] + src), a, n, p, _1, y, rows[i])
            i += 1


@kernel
def _floats_row(a: I64, w: Any, x: F32, r: int, p: F32, y: F32, row: int, back: int) -> None:
    N, K = a[0], a[1]
    for done in range(0, N - BLOCK, 2 * BLOCK):
        n = block(done, 2 * BLOCK, N, back)
        u, v = _floats2(w, a[5] + n * K, K, x, r)
        finish(u, a, n, p, _1, y, row)
        finish(v, a, n + BLOCK, p, _1, y, row)
    if N % (2 * BLOCK):
        n = block(N - BLOCK, BLOCK, N, back)
        finish(_floats1(w, a[5] + n * K, K, x, r), a, n, p, _1, y, row)


@kernel
def _floats1(w: Any, at: int, K: int, x: F32, r: int) -> F32:
    """Sums of a block for the row at r."""
    total = splat(_0, BLOCK)
    for first in range(0, K, _TERMS):
        a = splat(_0, BLOCK)
        for k in range(first, min(first + _TERMS, K)):
            a = fma(load(w, at, BLOCK), splat(x[r + k], BLOCK), a)
            at += BLOCK
        total = total + a
    return total


@kernel
def _floats2(w: Any, at: int, K: int, x: F32, r: int) -> tuple[F32, F32]:
    """Sums of two blocks for the row at r."""
    total = rest = splat(_0, BLOCK)
    second = at + BLOCK * K
    for first in range(0, K, _TERMS):
        a = b = splat(_0, BLOCK)
        for k in range(first, min(first + _TERMS, K)):
            v = splat(x[r + k], BLOCK)
            a = fma(load(w, at, BLOCK), v, a)
            b = fma(load(w, second, BLOCK), v, b)
            at += BLOCK
            second += BLOCK
        total, rest = total + a, rest + b
    return total, rest


@kernel
def _floats_rows(w: Any, at: int, K: int, x: F32, r0: int, r1: int) -> tuple[F32, F32]:
    """Sums of a block for two rows; each weight is loaded once. A third row would spill."""
    total = other = splat(_0, BLOCK)
    for first in range(0, K, _TERMS):
        a = b = splat(_0, BLOCK)
        for k in range(first, min(first + _TERMS, K)):
            m = load(w, at, BLOCK)
            a = fma(m, splat(x[r0 + k], BLOCK), a)
            b = fma(m, splat(x[r1 + k], BLOCK), b)
            at += BLOCK
        total, other = total + a, other + b
    return total, other
