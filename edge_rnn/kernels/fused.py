"""An LSTM's products and its gates in one: sums go from the registers that they are made in to the
gates, whose arithmetic fills the time that the next weights take to come.

The rows of both matrices stand by unit: a block is a register of each gate i, f, g, o.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.cells import lstm_unit
from edge_rnn.kernels.formats import BLOCK
from edge_rnn.kernels.integers import to_float
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.opcodes import PRODUCT_OPERANDS, SCRATCH, STATE
from edge_rnn.kernels.products import FOUR_ROWS, dots_four, dots_one, finish, scaled
from edge_rnn.kernels.simd import LANES, load, part

I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@kernel
def lstm_dots(a: I64, w: I8, x: I8, p: F32, words: I32, state: F32, s: F32, rows: I64) -> None:
    """LSTM_DOTS: a step of every row, whose x and h are integers in its scratch."""
    ofx, ofh = a[:PRODUCT_OPERANDS], a[PRODUCT_OPERANDS : 2 * PRODUCT_OPERANDS]
    places = a[2 * PRODUCT_OPERANDS :]
    for n in range(0, ofx[0], BLOCK):  # a block's weights stay in the nearest cache for all rows
        i = 0
        while FOUR_ROWS and i + 4 <= rows.shape[1]:
            _four(ofx, ofh, places, w, x, p, words, state, s, rows[:, i : i + 4], n)
            i += 4
        while i < rows.shape[1]:
            r, t = rows[SCRATCH, i], rows[STATE, i]
            v = to_float(dots_one(ofx, w, x, words, r, n))
            v = scaled(v, ofx, n, p, s[r + ofx[8]], load(p, ofx[7] + n, BLOCK))
            u = to_float(dots_one(ofh, w, x, words, r, n))
            v = scaled(u, ofh, n, p, s[r + ofh[8]], v)
            _gates(v, places, state, t, s, r, n // 4)
            i += 1


@kernel
def _four(
    ofx: I64, ofh: I64, places: I64, w: I8, x: I8, p: F32, words: I32, state: F32, s: F32,
    rows: I64, n: int,
) -> None:  # fmt: skip
    """A block for four rows: what x gives waits in scratch, as registers hold four rows' sums."""
    at = rows[SCRATCH]
    for i, v in enumerate(dots_four(ofx, w, x, words, at, n)):
        finish(to_float(v), ofx, n, p, s[at[i] + ofx[8]], s, at[i])
    for i, v in enumerate(dots_four(ofh, w, x, words, at, n)):
        r = at[i]
        u = scaled(to_float(v), ofh, n, p, s[r + ofh[8]], load(s, r + ofx[3] + n, BLOCK))
        _gates(u, places, state, rows[STATE, i], s, r, n // 4)


@kernel
def _gates(v: F32, places: I64, state: F32, t: int, s: F32, r: int, j: int) -> None:
    """From the sums of a register's worth of units, at j, to their c and h."""
    h, c, y = t + places[0] + j, t + places[1] + j, r + places[2] + j
    i, f, g, o = part(v, 0, LANES), part(v, 1, LANES), part(v, 2, LANES), part(v, 3, LANES)
    lstm_unit(i, f, g, o, s, state, h, c, y)
