"""Matrix-vector products of integer activations, over one packed layout for all processors (see
`formats`): sums are exact, so their order does not matter. And what all formats' products share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.kernels.dots import (
    dot2,
    dot4,
    dot8,
    pair_sums,
    quad,
    quads,
    shorts,
    two_quads,
)
from edge_rnn.kernels.formats import BLOCK, FLIP
from edge_rnn.kernels.integers import add, ints, low_byte, same, shift, to_float
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.simd import fma, joined, load, splat, store

SHORTS = LEVEL.dot in ("maddubs", "pmaddwd")
"""int16 activations are kept as int16, else as bytes: the upper ones, then the lower ones."""

SHARED = LEVEL.dot in ("vnni", "sdot")
"""Two rows share a load of weights: worth it where one instruction does the rest."""

FOUR_ROWS = LEVEL.dot == "vnni" and LEVEL.lanes == 16
"""There are registers for the sums of four rows, so that multiplying, not loading, is the limit."""

PAIRED = LEVEL.dot == "smull"
"""Two quads are multiplied at once, for one row and one block at a time."""

_HALF, _PAIRS, _QUADS = BLOCK // 2, 2 * BLOCK, 4 * BLOCK
_256, _NONE = np.float32(256), np.int32(0)

I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@kernel
def block(n: int, width: int, N: int, back: int) -> int:
    """Where the next `width` of N outputs stand after n: every other time from the end on, so
    that weights read last, which the caches still have, are read first."""
    return N - n - width if back else n


@kernel
def _start(words: I32, at: int) -> I32:
    """What a block's sums of flipped activations start from."""
    return ints(words, at, BLOCK) if FLIP else same(_NONE, BLOCK)


@kernel
def _paired(w: I8, at: int, K: int, x: I8, r: int) -> I32:
    """Sums of half a block, which leaves registers for products that wait to be added."""
    a = same(_NONE, BLOCK)
    for k in range(r, r + 4 * K, 8):
        v, u = two_quads(x, k, _HALF)
        a = dot8(a, v, quads(w, at, _HALF), u, quads(w, at + _QUADS, _HALF))
        at += 2 * _QUADS
    return pair_sums(a)


@kernel
def _dots1(w: I8, at: int, K: int, x: I8, r: int, a: I32) -> I32:
    """Sums of a block for the row at r, K quads wide, K even."""
    if PAIRED:
        return joined(_paired(w, at, K, x, r), _paired(w, at + _PAIRS, K, x, r))
    for k in range(r, r + 4 * K, 4):
        a = dot4(a, quad(x, k, BLOCK), quads(w, at, BLOCK))
        at += _QUADS
    return a


@kernel
def _dots2(w: I8, at: int, K: int, x: I8, r: int, a: I32, b: I32) -> tuple[I32, I32]:
    """Sums of two blocks for the row at r."""
    second = at + _QUADS * K
    for k in range(r, r + 4 * K, 8):
        v, u = two_quads(x, k, BLOCK)
        a = dot4(a, v, quads(w, at, BLOCK))
        a = dot4(a, u, quads(w, at + _QUADS, BLOCK))
        b = dot4(b, v, quads(w, second, BLOCK))
        b = dot4(b, u, quads(w, second + _QUADS, BLOCK))
        at += 2 * _QUADS
        second += 2 * _QUADS
    return a, b


@kernel
def _dots_rows(w: I8, at: int, K: int, x: I8, r0: int, r1: int, a: I32) -> tuple[I32, I32]:
    """Sums of a block for two rows; each weight is loaded once."""
    b = a
    for k in range(0, 4 * K, 4):
        m = quads(w, at, BLOCK)
        a = dot4(a, quad(x, r0 + k, BLOCK), m)
        b = dot4(b, quad(x, r1 + k, BLOCK), m)
        at += _QUADS
    return a, b


@kernel
def _dots_four(
    w: I8, at: int, K: int, x: I8, r0: int, r1: int, r2: int, r3: int, a: I32
) -> tuple[I32, I32, I32, I32]:
    """The same for four rows."""
    b = c = d = a
    for k in range(0, 4 * K, 4):
        m = quads(w, at, BLOCK)
        a = dot4(a, quad(x, r0 + k, BLOCK), m)
        b = dot4(b, quad(x, r1 + k, BLOCK), m)
        c = dot4(c, quad(x, r2 + k, BLOCK), m)
        d = dot4(d, quad(x, r3 + k, BLOCK), m)
        at += _QUADS
    return a, b, c, d


@kernel
def _from_parts(high: I32, low: I32) -> F32:
    """256 high + low, rounded as the exact sum's one pair with 0 <= low < 256 is."""
    high = add(high, shift(low, 8))
    return fma(to_float(high), splat(_256, BLOCK), to_float(low_byte(low)))


@kernel
def _shorts1(w: I8, at: int, K: int, x: I16, r: int) -> F32:
    """Sums of a block for the row of int16 activations at r, in parts that can't overflow."""
    high = low = same(_NONE, BLOCK)
    for first in range(0, K, 64):
        a = same(_NONE, _PAIRS)
        for k in range(first, min(first + 64, K)):
            a = dot2(a, shorts(x, r + 4 * k, BLOCK), quads(w, at, BLOCK))
            at += _QUADS
        part = pair_sums(a)
        high, low = add(high, shift(part, 8)), add(low, low_byte(part))
    return _from_parts(high, low)


@kernel
def _bytes1(w: I8, at: int, K: int, x: I8, r: int, a: I32) -> F32:
    """The same where the upper bytes stand at r and the lower ones after them."""
    if PAIRED:
        return _from_parts(_dots1(w, at, K, x, r, a), _dots1(w, at, K, x, r + 4 * K, a))
    high = low = a
    for k in range(r, r + 4 * K, 4):
        m = quads(w, at, BLOCK)
        high = dot4(high, quad(x, k, BLOCK), m)
        low = dot4(low, quad(x, k + 4 * K, BLOCK), m)
        at += _QUADS
    return _from_parts(high, low)


@kernel
def scaled(v: F32, a: I64, n: int, p: F32, unit: np.float32, start: F32) -> F32:
    """v times the weights' scales and the activations' unit, plus start."""
    factor = splat(unit, BLOCK)
    if a[6] >= 0:
        factor = factor * load(p, a[6] + n, BLOCK)
    return fma(v, factor, start)


@kernel
def finish(v: F32, a: I64, n: int, p: F32, unit: np.float32, y: F32, row: int) -> None:
    """y = v `scaled`, plus bias or what stands there."""
    to, base = row + a[3] + n, a[7]
    start = load(p, base + n, BLOCK) if base >= 0 else load(y, to, BLOCK)
    store(y, to, scaled(v, a, n, p, unit, start))


@kernel
def finish_four(
    sums: tuple[I32, I32, I32, I32], a: I64, n: int, p: F32, units: F32, y: F32, rows: I64
) -> None:
    """`finish` for four rows, whose units stand at a[8] of `units`."""
    u, v, w, x = sums
    finish(to_float(u), a, n, p, units[rows[0] + a[8]], y, rows[0])
    finish(to_float(v), a, n, p, units[rows[1] + a[8]], y, rows[1])
    finish(to_float(w), a, n, p, units[rows[2] + a[8]], y, rows[2])
    finish(to_float(x), a, n, p, units[rows[3] + a[8]], y, rows[3])


@kernel
def dots(a: I64, w: I8, x: I8, p: F32, words: I32, y: F32, rows: I64, back: int) -> None:
    """MATVEC of int8 activations: bytes in the row's scratch, their unit beside them."""
    done, N = 0, a[0]
    shared = SHARED and rows.size > 1
    while done < N:  # the weights of a tile stay in the nearest cache for all rows
        two = done + 2 * BLOCK <= N and not PAIRED and not shared
        width = 2 * BLOCK if two else BLOCK
        n = block(done, width, N, back)
        if shared:
            _dots_shared(a, w, x, p, words, y, rows, n)
        for i in range(0 if shared else rows.size):
            if two:
                _dots_two(a, w, x, p, words, y, rows[i], n)
            else:
                _dots_for(a, w, x, p, words, y, rows[i], n)
        done += width


@kernel
def dots_one(a: I64, w: I8, x: I8, words: I32, row: int, n: int) -> I32:
    """The block of sums at n for one row."""
    K, r, start = a[1], 4 * (row + a[2]), _start(words, a[9] + n)
    return _dots1(w, a[5] + n * 4 * K, K, x, r, start)


@kernel
def dots_two(a: I64, w: I8, x: I8, words: I32, row: int, n: int) -> tuple[I32, I32]:
    """The same, and the block after it."""
    K, r = a[1], 4 * (row + a[2])
    first, second = _start(words, a[9] + n), _start(words, a[9] + n + BLOCK)
    return _dots2(w, a[5] + n * 4 * K, K, x, r, first, second)


@kernel
def dots_four(a: I64, w: I8, x: I8, words: I32, rows: I64, n: int) -> tuple[I32, I32, I32, I32]:
    """The block at n for four rows."""
    K, at, start = a[1], a[5] + n * 4 * a[1], _start(words, a[9] + n)
    r0, r1, r2, r3 = rows[0] + a[2], rows[1] + a[2], rows[2] + a[2], rows[3] + a[2]
    return _dots_four(w, at, K, x, 4 * r0, 4 * r1, 4 * r2, 4 * r3, start)


@kernel
def _dots_for(a: I64, w: I8, x: I8, p: F32, words: I32, y: F32, row: int, n: int) -> None:
    """One block for one row."""
    v = to_float(dots_one(a, w, x, words, row, n))
    finish(v, a, n, p, y[row + a[8]], y, row)


@kernel
def _dots_two(a: I64, w: I8, x: I8, p: F32, words: I32, y: F32, row: int, n: int) -> None:
    """Two blocks for one row."""
    u, v = dots_two(a, w, x, words, row, n)
    unit = y[row + a[8]]
    finish(to_float(u), a, n, p, unit, y, row)
    finish(to_float(v), a, n + BLOCK, p, unit, y, row)


@kernel
def _dots_shared(a: I64, w: I8, x: I8, p: F32, words: I32, y: F32, rows: I64, n: int) -> None:
    """One block for all rows, several at a time."""
    K, src, unit, start, i = a[1], a[2], a[8], _start(words, a[9] + n), 0
    while FOUR_ROWS and i + 4 <= rows.size:
        four = rows[i : i + 4]
        finish_four(dots_four(a, w, x, words, four, n), a, n, p, y, y, four)
        i += 4
    while i + 2 <= rows.size:
        r0, r1 = 4 * (rows[i] + src), 4 * (rows[i + 1] + src)
        u, v = _dots_rows(w, a[5] + n * 4 * K, K, x, r0, r1, start)
        finish(to_float(u), a, n, p, y[rows[i] + unit], y, rows[i])
        finish(to_float(v), a, n, p, y[rows[i + 1] + unit], y, rows[i + 1])
        i += 2
    if i < rows.size:
        _dots_for(a, w, x, p, words, y, rows[i], n)


@kernel
def wide_dots(
    a: I64, w: I8, x: I8, x16: I16, p: F32, words: I32, y: F32, rows: I64, back: int
) -> None:
    """MATVEC of int16 activations."""
    N, K = a[0], a[1]
    for done in range(0, N, BLOCK):
        n = block(done, BLOCK, N, back)
        at = a[5] + n * 4 * K
        for i in range(rows.size):
            r = rows[i] + a[2]
            if SHORTS:
                v = _shorts1(w, at, K, x16, 2 * r)
            else:
                v = _bytes1(w, at, K, x, 4 * r, _start(words, a[9] + n))
            finish(v, a, n, p, y[rows[i] + a[8]], y, rows[i])
