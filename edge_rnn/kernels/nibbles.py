"""Matrix-vector products of 4-bit weights in groups of 32 inputs, each with a scale of its own (see
`formats.pack_nibbles`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32, GROUP
from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.kernels.dots import (
    dot4_nibbles,
    high_nibbles,
    low_nibbles,
    no_pairs,
    pairs,
    pairs_joined,
    quad,
    quads,
    upper_nibbles,
)
from edge_rnn.kernels.formats import BLOCK, NIBBLES_BY_OUTPUT
from edge_rnn.kernels.integers import add, same, shift, subtract, to_float
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.products import block, finish
from edge_rnn.kernels.simd import fma, joined, load, splat

SHORT_SUMS = LEVEL.dot == "maddubs"
"""The sums of a group of 4-bit weights are made in 16 bits."""

_HALF, _PAIRS, _QUADS = BLOCK // 2, 2 * BLOCK, 4 * BLOCK
_0, _256 = np.float32(0), np.float32(256)

I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@kernel
def _two_outputs(w: I8, at: int, x: I8, r: int, sum_x: np.int32) -> I32:
    """`_group` where a byte holds the weights of two outputs."""
    both, upper = same(np.int32(-136) * sum_x, _HALF), same(np.int32(-128) * sum_x, _HALF)
    for k in range(r, r + GROUP, 4):
        m, v = quads(w, at, _HALF), quad(x, k, _HALF)
        both = dot4_nibbles(both, v, m)
        upper = dot4_nibbles(upper, v, upper_nibbles(m))
        at += _PAIRS
    return joined(subtract(both, upper), shift(upper, 4))


@kernel
def _group(w: I8, at: int, x: I8, r: int, sum_x: np.int32) -> I32:
    """Sums of a block over one group of 4-bit weights, stored with 8 added."""
    if NIBBLES_BY_OUTPUT:
        return _two_outputs(w, at, x, r, sum_x)
    a = same(np.int32(-8) * sum_x, BLOCK)
    if SHORT_SUMS:  # 8 times two products of at most 15 and 128
        b = no_pairs(BLOCK)
        for k in range(r, r + GROUP // 2, 4):
            m = quads(w, at, BLOCK)
            b = pairs(b, quad(x, k, BLOCK), low_nibbles(m))
            b = pairs(b, quad(x, k + GROUP // 2, BLOCK), high_nibbles(m))
            at += _QUADS
        return add(a, pairs_joined(b))
    for k in range(r, r + GROUP // 2, 4):
        m = quads(w, at, BLOCK)
        a = dot4_nibbles(a, quad(x, k, BLOCK), low_nibbles(m))
        a = dot4_nibbles(a, quad(x, k + GROUP // 2, BLOCK), high_nibbles(m))
        at += _QUADS
    return a


@kernel
def _nibbles1(w: I8, at: int, G: int, x: I8, r: int, sums: I32, t: int, p: F32, scale: int) -> F32:
    """Sums of a block over G groups, each with its own scale; sums of x stand at sums[t:]."""
    total = splat(_0, BLOCK)
    for g in range(G):
        part = to_float(_group(w, at, x, r + g * GROUP, sums[t + g]))
        total = fma(part, load(p, scale, BLOCK), total)
        at += _QUADS * GROUP // 8
        scale += BLOCK
    return total


@kernel
def _wide_nibbles1(
    w: I8, at: int, G: int, x: I8, r: int, sums: I32, t: int, p: F32, scale: int
) -> F32:
    """The same of int16 activations, whose upper bytes stand at x[r:] and lower ones after them."""
    total = splat(_0, BLOCK)
    for g in range(G):
        high = to_float(_group(w, at, x, r + g * GROUP, sums[t + g]))
        low = to_float(_group(w, at, x, r + (G + g) * GROUP, sums[t + G + g]))
        part = fma(high, splat(_256, BLOCK), low)
        total = fma(part, load(p, scale, BLOCK), total)
        at += _QUADS * GROUP // 8
        scale += BLOCK
    return total


@kernel
def nibble_dots(
    a: I64, w: I8, x: I8, p: F32, words: I32, y: F32, rows: I64, wide: bool, back: int
) -> None:
    """MATVEC of 4-bit weights in groups, whose scales stand at p[a[9]:]."""
    N, G = a[0], a[1]
    for done in range(0, N, BLOCK):
        n = block(done, BLOCK, N, back)
        at, scale = a[5] + n * G * GROUP // 2, a[9] + n * G
        for i in range(rows.size):
            r = rows[i] + a[2]
            sums = r + G * GROUP * (2 if wide else 1) // 4
            if wide:
                v = _wide_nibbles1(w, at, G, x, 4 * r, words, sums, p, scale)
            else:
                v = _nibbles1(w, at, G, x, 4 * r, words, sums, p, scale)
            finish(v, a, n, p, y[rows[i] + a[8]], y, rows[i])
