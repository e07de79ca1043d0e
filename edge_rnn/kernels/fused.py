"""An LSTM's products and its gates in one: sums go from the registers that they are made in to the
gates, whose arithmetic fills the time that the next weights take to come.

The rows of both matrices stand by unit: a block is a register of each gate i, f, g, o. The range
of h is known, so what one of its integers is worth is part of its weights' scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.cells import keep_lstm, lstm_unit
from edge_rnn.kernels.formats import BLOCK
from edge_rnn.kernels.integers import to_float
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.opcodes import PRODUCT_OPERANDS, SCRATCH, STATE
from edge_rnn.kernels.products import (
    FOUR_ROWS,
    block,
    dots_four,
    dots_one,
    dots_two,
    scaled,
)
from edge_rnn.kernels.simd import LANES, fma, joined, load, part, store

_0 = np.float32(0)

I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@kernel
def lstm_dots(
    a: I64, w: I8, x: I8, p: F32, words: I32, state: F32, s: F32, rows: I64, back: int
) -> None:
    """LSTM_DOTS: a step of every row, whose x and h are integers in its scratch."""
    ofx, ofh = a[:PRODUCT_OPERANDS], a[PRODUCT_OPERANDS : 2 * PRODUCT_OPERANDS]
    places, done, N = a[2 * PRODUCT_OPERANDS :], 0, ofx[0]
    for i in range(rows.shape[1]):  # in the place of h's unit: x's, or NaN where h is not finite
        r = rows[SCRATCH, i]
        s[r + ofh[8]] = s[r + ofx[8]] + _0 * s[r + ofh[8]]
    while done < N:  # a block's weights stay in the nearest cache for all rows
        two = rows.shape[1] == 1 and done + 2 * BLOCK <= N
        width = 2 * BLOCK if two else BLOCK
        n = block(done, width, N, back)
        if two:
            _two_blocks(ofx, ofh, places, w, x, p, words, state, s, rows[:, 0], n)
        else:
            _block(ofx, ofh, places, w, x, p, words, state, s, rows, n)
        done += width


@kernel
def _block(
    ofx: I64, ofh: I64, places: I64, w: I8, x: I8, p: F32, words: I32, state: F32, s: F32,
    rows: I64, n: int,
) -> None:  # fmt: skip
    """A block for all rows."""
    i, parked = 0, rows[SCRATCH, :4]
    while FOUR_ROWS and i + 4 <= rows.shape[1]:
        _four_rows(ofx, ofh, places, w, x, p, words, state, s, rows[:, i : i + 4], parked, n)
        i += 4
    while i < rows.shape[1]:
        r = rows[SCRATCH, i]
        v = to_float(dots_one(ofx, w, x, words, r, n))
        v = scaled(v, ofx, n, p, s[r + ofh[8]], load(p, ofx[7] + n, BLOCK))
        v = _with_h(dots_one(ofh, w, x, words, r, n), ofh, n, p, v)
        h, c, y = _places(places, rows[STATE, i], r, n)
        f, g, o = part(v, 1, LANES), part(v, 2, LANES), part(v, 3, LANES)
        new, out = lstm_unit(part(v, 0, LANES), f, g, o, load(state, c))
        keep_lstm(new, out, state, h, c, s, y)
        i += 1


@kernel
def _two_blocks(
    ofx: I64, ofh: I64, places: I64, w: I8, x: I8, p: F32, words: I32, state: F32, s: F32,
    row: I64, n: int,
) -> None:  # fmt: skip
    """Two blocks for one row."""
    r, unit = row[SCRATCH], s[row[SCRATCH] + ofh[8]]
    u, v = dots_two(ofx, w, x, words, r, n)
    b = scaled(to_float(u), ofx, n, p, unit, load(p, ofx[7] + n, BLOCK))
    d = scaled(to_float(v), ofx, n + BLOCK, p, unit, load(p, ofx[7] + n + BLOCK, BLOCK))
    u, v = dots_two(ofh, w, x, words, r, n)
    b, d = _with_h(u, ofh, n, p, b), _with_h(v, ofh, n + BLOCK, p, d)
    places1 = _places(places, row[STATE], r, n)
    _two_gates(b, d, state, s, places1, _places(places, row[STATE], r, n + BLOCK))


@kernel
def _four_rows(
    ofx: I64, ofh: I64, places: I64, w: I8, x: I8, p: F32, words: I32, state: F32, s: F32,
    rows: I64, parked: I64, n: int,
) -> None:  # fmt: skip
    """A block for four rows: what x gives is parked in scratch, as registers hold four rows' sums:
    in that of the first four, for all rows, so that it stays in the nearest cache."""
    at, t = rows[SCRATCH], rows[STATE]
    b, d, e, f = dots_four(ofx, w, x, words, at, n)
    _park(b, ofx, ofh, n, p, s, at[0], parked[0])
    _park(d, ofx, ofh, n, p, s, at[1], parked[1])
    _park(e, ofx, ofh, n, p, s, at[2], parked[2])
    _park(f, ofx, ofh, n, p, s, at[3], parked[3])
    b, d, e, f = dots_four(ofh, w, x, words, at, n)
    first, second = _places(places, t[0], at[0], n), _places(places, t[1], at[1], n)
    u = _with_h(b, ofh, n, p, load(s, parked[0] + ofx[3], BLOCK))
    v = _with_h(d, ofh, n, p, load(s, parked[1] + ofx[3], BLOCK))
    _two_gates(u, v, state, s, first, second)
    first, second = _places(places, t[2], at[2], n), _places(places, t[3], at[3], n)
    u = _with_h(e, ofh, n, p, load(s, parked[2] + ofx[3], BLOCK))
    v = _with_h(f, ofh, n, p, load(s, parked[3] + ofx[3], BLOCK))
    _two_gates(u, v, state, s, first, second)


@kernel
def _park(v: I32, ofx: I64, ofh: I64, n: int, p: F32, s: F32, r: int, parked: int) -> None:
    """Park what x gives to the pre-activations of the row at r in the scratch at `parked`."""
    start = load(p, ofx[7] + n, BLOCK)
    store(s, parked + ofx[3], scaled(to_float(v), ofx, n, p, s[r + ofh[8]], start))


@kernel
def _with_h(v: I32, ofh: I64, n: int, p: F32, rest: F32) -> F32:
    """The pre-activations from a row's sums of h and the rest."""
    return fma(to_float(v), load(p, ofh[6] + n, BLOCK), rest)


@kernel
def _places(places: I64, t: int, r: int, n: int) -> tuple[int, int, int]:
    """Where the units of the block at n have h and c in the state and h in scratch."""
    return t + places[0] + n // 4, t + places[1] + n // 4, r + places[2] + n // 4


@kernel
def _two_gates(
    u: F32, v: F32, state: F32, s: F32, first: tuple[int, int, int], second: tuple[int, int, int]
) -> None:
    """From two registers of each gate's pre-activations to c and h."""
    i, f = (
        joined(part(u, 0, LANES), part(v, 0, LANES)),
        joined(part(u, 1, LANES), part(v, 1, LANES)),
    )
    g, o = (
        joined(part(u, 2, LANES), part(v, 2, LANES)),
        joined(part(u, 3, LANES), part(v, 3, LANES)),
    )
    c = joined(load(state, first[1]), load(state, second[1]))
    new, out = lstm_unit(i, f, g, o, c)
    keep_lstm(part(new, 0, LANES), part(out, 0, LANES), state, first[0], first[1], s, first[2])
    keep_lstm(part(new, 1, LANES), part(out, 1, LANES), state, second[0], second[1], s, second[2])
