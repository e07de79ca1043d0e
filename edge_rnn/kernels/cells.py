"""The cells' point-wise parts for one row: gates in scratch, state in the slab, updated in place.

Arrays are flat; a place is an offset. P is H padded to whole vectors, the distance from gate to
gate; what stands between H and P is never read as a value.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.elementwise import activate
from edge_rnn.kernels.opcodes import Op
from edge_rnn.kernels.simd import LANES, fma, load, splat, store

_0, _1 = np.float32(0.0), np.float32(1.0)
_KEEP, _LSTM_CELL, _MIN_GRU, _LRU = (int(o) for o in (Op.KEEP, Op.LSTM_CELL, Op.MIN_GRU, Op.LRU))

I64 = NDArray[np.int64]


@njit(error_model="numpy", boundscheck=False)
def copy(a: F32, i: int, b: F32, j: int, n: int) -> None:
    """b[j : j + n] = a[i : i + n]."""
    for k in range(n):
        b[j + k] = a[i + k]


@njit(error_model="numpy", boundscheck=False)
def lstm(
    s: F32, g: int, state: F32, h: int, c: int, P: int, gate: int, cell: int, hidden: int
) -> None:
    """c' = f c + i g and h' = o hidden(c') from the pre-activations i, f, g, o at s[g]."""
    activate(gate, s, g, 2 * P)
    activate(cell, s, g + 2 * P, P)
    activate(gate, s, g + 3 * P, P)
    for j in range(0, P, LANES):
        new = load(s, g + j) * load(s, g + 2 * P + j)
        new = fma(load(s, g + P + j), load(state, c + j), new)
        store(state, c + j, new)
        store(state, h + j, new)
    activate(hidden, state, h, P)
    for j in range(0, P, LANES):
        store(state, h + j, load(s, g + 3 * P + j) * load(state, h + j))


@njit(error_model="numpy", boundscheck=False)
def gru_after(s: F32, g: int, u: int, state: F32, h: int, P: int, gate: int, cand: int) -> None:
    """h' from W x + b at s[g] and U h + [0, 0, rb] at s[u], both in the order z, r, n."""
    for j in range(0, 2 * P, LANES):
        store(s, g + j, load(s, g + j) + load(s, u + j))
    activate(gate, s, g, 2 * P)
    for j in range(g, g + P, LANES):
        n = fma(load(s, j + P), load(s, j - g + u + 2 * P), load(s, j + 2 * P))
        store(s, j + 2 * P, n)
    gru_blend(s, g, state, h, P, cand)


@njit(error_model="numpy", boundscheck=False)
def gru_reset(s: F32, g: int, state: F32, h: int, rh: int, P: int, gate: int) -> None:
    """Activate z and r at s[g] and leave r h at s[rh], for the candidate's product."""
    activate(gate, s, g, 2 * P)
    for j in range(0, P, LANES):
        store(s, rh + j, load(s, g + P + j) * load(state, h + j))


@njit(error_model="numpy", boundscheck=False)
def gru_blend(s: F32, g: int, state: F32, h: int, P: int, cand: int) -> None:
    """h' = (1 - z) n + z h with z at s[g] and n = candidate(s[g + 2 P])."""
    activate(cand, s, g + 2 * P, P)
    for j in range(0, P, LANES):
        z = load(s, g + j)
        kept = z * load(state, h + j)
        store(state, h + j, fma(splat(_1) - z, load(s, g + 2 * P + j), kept))


@njit(error_model="numpy", boundscheck=False)
def lstm_cell(s: F32, g: int, state: F32, c: int, m: int, P: int, coupled: int) -> None:
    """c' = f c + i g from the gates i, f, g at s[g], or i, g where coupled, which is f = 1 - i.

    c' goes to the state and to s[m].
    """
    candidate = g + P if coupled else g + 2 * P
    for j in range(0, P, LANES):
        i = load(s, g + j)
        f = splat(_1) - i if coupled else load(s, g + P + j)
        new = fma(f, load(state, c + j), i * load(s, candidate + j))
        store(state, c + j, new)
        store(s, m + j, new)


@njit(error_model="numpy", boundscheck=False)
def min_gru(s: F32, g: int, state: F32, h: int, P: int) -> None:
    """h' = (1 - z) h + z n from z, n at s[g]."""
    for j in range(0, P, LANES):
        z = load(s, g + j)
        kept = (splat(_1) - z) * load(state, h + j)
        store(state, h + j, fma(z, load(s, g + P + j), kept))


@njit(error_model="numpy", boundscheck=False)
def lru(s: F32, b: int, state: F32, re: int, im: int, p: F32, l_re: int, l_im: int, P: int) -> None:
    """z' = l z + b for complex z in the state, l in p, and b at s[b], P apart."""
    for j in range(0, P, LANES):
        x, y = load(state, re + j), load(state, im + j)
        u, v = load(p, l_re + j), load(p, l_im + j)
        store(state, re + j, fma(u, x, fma(splat(_0) - v, y, load(s, b + j))))
        store(state, im + j, fma(u, y, fma(v, x, load(s, b + P + j))))


@njit(error_model="numpy", boundscheck=False)
def cell(op: int, a: I64, p: F32, h: F32, t: int, s: F32, r: int) -> None:
    """One instruction for one row, whose state begins at h[t] and whose scratch at s[r]."""
    n = a[0]
    if op == _KEEP:
        copy(s, r + a[1], h, t + a[2], n)
    elif op == _LSTM_CELL:
        lstm_cell(s, r + a[1], h, t + a[2], r + a[3], n, a[4])
    elif op == _MIN_GRU:
        min_gru(s, r + a[1], h, t + a[2], n)
    elif op == _LRU:
        lru(s, r + a[1], h, t + a[2], t + a[3], p, a[4], a[5], n)
