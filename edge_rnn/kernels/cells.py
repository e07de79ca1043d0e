"""The cells' point-wise parts: gates in scratch, state in the slab, updated in place.

Arrays are flat, operands `a` as `opcodes.Op` lists them; a place is an offset. P is H padded to
whole vectors, the distance from gate to gate; what stands between H and P is never read as a value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.elementwise import SIGMOID, TANH, activate
from edge_rnn.kernels.functions import quotient, sigmoid, sigmoid_ratio, tanh, tanh_ratio
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.opcodes import SCRATCH, STATE, Op
from edge_rnn.kernels.simd import LANES, WIDE, fma, full_like, load, splat, store

_0, _1 = np.float32(0.0), np.float32(1.0)
_KEEP, _LSTM_CELL, _MIN_GRU, _LRU = (int(o) for o in (Op.KEEP, Op.LSTM_CELL, Op.MIN_GRU, Op.LRU))

I64 = NDArray[np.int64]


@kernel
def copy(a: F32, i: int, b: F32, j: int, n: int) -> None:
    """b[j : j + n] = a[i : i + n]."""
    k = 0
    while k + LANES <= n:
        store(b, j + k, load(a, i + k))
        k += LANES
    while k + 4 <= n:
        store(b, j + k, load(a, i + k, 4))
        k += 4
    while k < n:
        store(b, j + k, load(a, i + k, 1))
        k += 1


@kernel
def rnn(a: I64, state: F32, s: F32, rows: I64) -> None:
    """RNN: h' = act(W x + U h + b), the sum at g."""
    for k in range(rows.shape[1]):
        r, h = rows[SCRATCH, k], rows[STATE, k] + a[2]
        copy(s, r + a[1], state, h, a[0])
        activate(a[3], state, h, a[0])
        copy(state, h, s, r + a[4], a[0])


@kernel
def lstm(a: I64, state: F32, s: F32, rows: I64) -> None:
    """LSTM: c' = f c + i g and h' = o hidden(c') from the pre-activations i, f, g, o."""
    usual = a[4] == SIGMOID and a[5] == TANH and a[6] == TANH
    for k in range(rows.shape[1]):
        r, t = rows[SCRATCH, k], rows[STATE, k]
        if usual:
            _lstm_usual(s, r + a[1], state, t + a[2], t + a[3], a[0], r + a[7])
        else:
            _lstm_any(a, s, r + a[1], state, t + a[2], t + a[3], a[0], r + a[7])


@kernel
def _lstm_usual(s: F32, g: int, state: F32, h: int, c: int, P: int, y: int) -> None:
    j = 0
    while j + WIDE <= P:
        at = g + j
        i, f = load(s, at, WIDE), load(s, at + P, WIDE)
        u, o = load(s, at + 2 * P, WIDE), load(s, at + 3 * P, WIDE)
        new, out = lstm_unit(i, f, u, o, load(state, c + j, WIDE))
        keep_lstm(new, out, state, h + j, c + j, s, y + j)
        j += WIDE
    while j < P:
        at = g + j
        i, f, u, o = load(s, at), load(s, at + P), load(s, at + 2 * P), load(s, at + 3 * P)
        new, out = lstm_unit(i, f, u, o, load(state, c + j))
        keep_lstm(new, out, state, h + j, c + j, s, y + j)
        j += LANES


@kernel
def lstm_unit(i: F32, f: F32, g: F32, o: F32, c: F32) -> tuple[F32, F32]:
    """(c', h') of units with the usual activations, from their pre-activations and c.

    i g and h' are one quotient each. f c is not part of one, whose error c would gather.
    """
    (i, i_q), (g, g_q) = sigmoid_ratio(i), tanh_ratio(g)
    new = fma(sigmoid(f), c, quotient(i * g, i_q * g_q))
    (o, o_q), (m, m_q) = sigmoid_ratio(o), tanh_ratio(new)
    return new, quotient(o * m, o_q * m_q)


@kernel
def keep_lstm(new: F32, out: F32, state: F32, h: int, c: int, s: F32, y: int) -> None:
    """c' and h' to the state, h' to scratch."""
    store(state, c, new)
    store(state, h, out)
    store(s, y, out)


@kernel
def _lstm_any(a: I64, s: F32, g: int, state: F32, h: int, c: int, P: int, y: int) -> None:
    activate(a[4], s, g, 2 * P)
    activate(a[5], s, g + 2 * P, P)
    activate(a[4], s, g + 3 * P, P)
    for j in range(0, P, LANES):
        new = load(s, g + j) * load(s, g + 2 * P + j)
        new = fma(load(s, g + P + j), load(state, c + j), new)
        store(state, c + j, new)
        store(s, y + j, new)
    activate(a[6], s, y, P)
    for j in range(0, P, LANES):
        out = load(s, g + 3 * P + j) * load(s, y + j)
        store(state, h + j, out)
        store(s, y + j, out)


@kernel
def gru_after(a: I64, state: F32, s: F32, rows: I64) -> None:
    """GRU_AFTER: h' from W x + b at g and U h + [0, 0, rb] at u, both in the order z, r, n."""
    usual = a[4] == SIGMOID and a[5] == TANH
    for k in range(rows.shape[1]):
        r, h = rows[SCRATCH, k], rows[STATE, k] + a[3]
        if usual:
            _gru_usual(s, r + a[1], r + a[2], state, h, a[0], r + a[6])
        else:
            _gru_any(s, r + a[1], r + a[2], state, h, a[0], a[4])
            _blend(s, r + a[1], state, h, a[0], a[5], r + a[6])


@kernel
def _gru_usual(s: F32, g: int, u: int, state: F32, h: int, P: int, y: int) -> None:
    j = 0
    while j + WIDE <= P:
        z = load(s, g + j, WIDE) + load(s, u + j, WIDE)
        r = load(s, g + P + j, WIDE) + load(s, u + P + j, WIDE)
        n, m = load(s, g + 2 * P + j, WIDE), load(s, u + 2 * P + j, WIDE)
        new = gru_unit(z, r, n, m, load(state, h + j, WIDE))
        store(state, h + j, new)
        store(s, y + j, new)
        j += WIDE
    while j < P:
        z, r = load(s, g + j) + load(s, u + j), load(s, g + P + j) + load(s, u + P + j)
        n, m = load(s, g + 2 * P + j), load(s, u + 2 * P + j)
        new = gru_unit(z, r, n, m, load(state, h + j))
        store(state, h + j, new)
        store(s, y + j, new)
        j += LANES


@kernel
def gru_unit(z: F32, r: F32, n: F32, m: F32, h: F32) -> F32:
    """h' of units with the usual activations, from the pre-activations of z and r and the parts
    n of x and m of h of the candidate's."""
    z = sigmoid(z)
    return fma(full_like(z, _1) - z, tanh(fma(sigmoid(r), m, n)), z * h)


@kernel
def _gru_any(s: F32, g: int, u: int, state: F32, h: int, P: int, gate: int) -> None:
    for j in range(0, 2 * P, LANES):
        store(s, g + j, load(s, g + j) + load(s, u + j))
    activate(gate, s, g, 2 * P)
    for j in range(g, g + P, LANES):
        n = fma(load(s, j + P), load(s, j - g + u + 2 * P), load(s, j + 2 * P))
        store(s, j + 2 * P, n)


@kernel
def gru_reset(a: I64, state: F32, s: F32, rows: I64) -> None:
    """GRU_RESET: activate z and r at g and leave r h at rh, for the candidate's product."""
    for k in range(rows.shape[1]):
        r, h, P = rows[SCRATCH, k], rows[STATE, k] + a[2], a[0]
        g, rh = r + a[1], r + a[3]
        activate(a[4], s, g, 2 * P)
        for j in range(0, P, LANES):
            store(s, rh + j, load(s, g + P + j) * load(state, h + j))


@kernel
def gru_blend(a: I64, state: F32, s: F32, rows: I64) -> None:
    """GRU_BLEND: h' = (1 - z) n + z h with z at g and n the candidate of what is at g + 2 P."""
    for k in range(rows.shape[1]):
        r, h = rows[SCRATCH, k], rows[STATE, k] + a[2]
        _blend(s, r + a[1], state, h, a[0], a[3], r + a[4])


@kernel
def _blend(s: F32, g: int, state: F32, h: int, P: int, candidate: int, y: int) -> None:
    activate(candidate, s, g + 2 * P, P)
    for j in range(0, P, LANES):
        z = load(s, g + j)
        kept = z * load(state, h + j)
        new = fma(splat(_1) - z, load(s, g + 2 * P + j), kept)
        store(state, h + j, new)
        store(s, y + j, new)


@kernel
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


@kernel
def min_gru(s: F32, g: int, state: F32, h: int, P: int) -> None:
    """h' = (1 - z) h + z n from z, n at s[g]."""
    for j in range(0, P, LANES):
        z = load(s, g + j)
        kept = (splat(_1) - z) * load(state, h + j)
        store(state, h + j, fma(z, load(s, g + P + j), kept))


@kernel
def lru(s: F32, b: int, state: F32, re: int, im: int, p: F32, l_re: int, l_im: int, P: int) -> None:
    """z' = l z + b for complex z in the state, l in p, and b at s[b], P apart."""
    for j in range(0, P, LANES):
        x, y = load(state, re + j), load(state, im + j)
        u, v = load(p, l_re + j), load(p, l_im + j)
        store(state, re + j, fma(u, x, fma(splat(_0) - v, y, load(s, b + j))))
        store(state, im + j, fma(u, y, fma(v, x, load(s, b + P + j))))


@kernel
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
