"""One compiled function that steps any model: it interprets a program over flat arenas.

It checks every row before it steps the first, allocates nothing, and updates each stream's
state in place in the slab.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.elementwise import activate, softmax
from edge_rnn.kernels.layers import (
    accumulate,
    add,
    copy,
    gru_blend,
    gru_reset_after,
    gru_reset_before,
    lstm_update,
    rescale,
)
from edge_rnn.kernels.opcodes import ADD, LENGTHS, Op

I8 = NDArray[np.int8]
I64 = NDArray[np.int64]

SLOT = np.dtype(
    [
        ("newer", np.int32),
        ("older", np.int32),
        ("generation", np.int32),
        ("open", np.int32),
        ("steps", np.int64),
        ("seen", np.float64),
    ]
)
"""One slot's bookkeeping. `newer` and `older` link the open slots by last use in a ring
through a sentinel, the last record; `generation` tells a reused slot from its old handle."""


class Status(IntEnum):
    """What was wrong with the first bad row; its place is returned beside it."""

    OK = 0
    STALE_SLOT = 1
    NOT_FINITE = 2
    BAD_INDEX = 3


_OK, _STALE, _NOT_FINITE, _BAD_INDEX = (int(s) for s in Status)
_LENGTH = np.array([LENGTHS[op] for op in Op], np.int64)
_END, _LOAD, _STORE, _COPY_STATE, _MATVEC, _MATVEC_STATE, _ACTIVATE, _SOFTMAX = (
    int(o) for o in list(Op)[:8]
)
_SCALE, _EMBED, _RNN, _LSTM, _GRU_AFTER, _GRU_RESET, _GRU_BLEND = (int(o) for o in list(Op)[8:])


@njit(cache=True, error_model="numpy", nogil=True)
def step(
    code: I64,
    int8s: I8,
    floats: F32,
    vocabularies: I64,
    state: F32,
    table: NDArray[Any],
    slots: I64,
    now: float,
    x: F32,
    y: F32,
    scratch: F32,
) -> tuple[int, int, int]:
    """Step the streams at `slots` (B,) by the rows of x (B, I) into y (B, O).

    A slot that stands more than once is stepped in order. Returns (status, row, column); unless
    status is OK nothing was stepped.
    """
    status, row, column = _check(table, slots, vocabularies, x)
    if status == _OK:
        for b in range(slots.size):
            slot = slots[b] & 0xFFFFFFFF
            _run(code, int8s, floats, state[slot], x[b], y[b], scratch)
            table[slot].steps += 1
            _touch(table, slot, now)
    return status, row, column


@njit(cache=True, error_model="numpy")
def touch(table: NDArray[Any], slots: I64, now: float) -> None:
    """Make the open streams at `slots` (B,) the most recently used, the last one newest."""
    for b in range(slots.size):
        _touch(table, slots[b] & 0xFFFFFFFF, now)


@njit(cache=True)
def evict_order(table: NDArray[Any], order: I64) -> int:
    """Fill `order` with the open slots from least to most recently used; returns how many."""
    sentinel = table.size - 1
    slot = table[sentinel].newer
    count = 0
    while slot != sentinel and count < order.size:
        order[count] = slot
        count += 1
        slot = table[slot].newer
    return count


@njit(error_model="numpy")
def _check(table: NDArray[Any], slots: I64, vocabularies: I64, x: F32) -> tuple[int, int, int]:
    for b in range(slots.size):
        slot = slots[b] & 0xFFFFFFFF
        if slots[b] < 0 or slot >= table.size - 1:
            return _STALE, b, 0
        if table[slot].open == 0 or table[slot].generation != slots[b] >> 32:
            return _STALE, b, 0
        for i in range(x.shape[1]):
            if not np.isfinite(x[b, i]):
                return _NOT_FINITE, b, i
        for j in range(vocabularies.shape[0]):
            v = x[b, vocabularies[j, 0]]
            if not (v >= 0 and v < vocabularies[j, 1] and v == np.floor(v)):
                return _BAD_INDEX, b, vocabularies[j, 0]
    return _OK, 0, 0


@njit(error_model="numpy")
def _touch(table: NDArray[Any], slot: int, now: float) -> None:
    sentinel = table.size - 1
    table[slot].seen = now
    newest = table[sentinel].older
    if slot != newest:
        newer, older = table[slot].newer, table[slot].older
        table[newer].older = older
        table[older].newer = newer
        table[slot].older = newest
        table[slot].newer = sentinel
        table[newest].newer = slot
        table[sentinel].older = slot


@njit(error_model="numpy")
def _matvec(a: I64, src: F32, int8s: I8, floats: F32, scratch: F32, total: F32) -> None:
    N, K = a[0], a[1]
    dst = scratch[a[3] : a[3] + N]
    total = total[:N]
    if a[4]:
        accumulate(int8s[a[5] : a[5] + N * K], src, total)
        rescale(floats[a[6] : a[6] + N], total)
    else:
        accumulate(floats[a[5] : a[5] + N * K], src, total)
    if a[7] != ADD:
        copy(floats[a[7] : a[7] + N], dst)
    add(total, dst)


@njit(error_model="numpy")
def _embed(a: I64, int8s: I8, floats: F32, scratch: F32) -> None:
    D, row = a[0], np.int64(scratch[a[1]])
    for j in range(D):
        if a[3]:
            scratch[a[2] + j] = np.float32(int8s[a[4] + row * D + j]) * floats[a[5] + row]
        else:
            scratch[a[2] + j] = floats[a[4] + row * D + j]


@njit(error_model="numpy")
def _scale(a: I64, floats: F32, scratch: F32) -> None:
    for j in range(a[0]):
        offset, scale, shift = floats[a[3] + j], floats[a[4] + j], floats[a[5] + j]
        scratch[a[2] + j] = (scratch[a[1] + j] - offset) * scale + shift


@njit(error_model="numpy")
def _run(code: I64, int8s: I8, floats: F32, h: F32, x: F32, y: F32, s: F32) -> None:
    """Run the program once; h (S,) is the stream's state, s the scratch whose head is sums."""
    pc = 0
    while code[pc] != _END:
        op = code[pc]
        a = code[pc + 1 : pc + 1 + _LENGTH[op]]
        n = a[0]
        if op == _LOAD:
            copy(x[a[1] : a[1] + n], s[a[2] : a[2] + n])
        elif op == _STORE:
            copy(s[a[1] : a[1] + n], y[a[2] : a[2] + n])
        elif op == _COPY_STATE:
            copy(h[a[1] : a[1] + n], s[a[2] : a[2] + n])
        elif op == _MATVEC:
            _matvec(a, s[a[2] : a[2] + a[1]], int8s, floats, s, s)
        elif op == _MATVEC_STATE:
            _matvec(a, h[a[2] : a[2] + a[1]], int8s, floats, s, s)
        elif op == _ACTIVATE:
            copy(s[a[1] : a[1] + n], s[a[2] : a[2] + n])
            activate(a[3], s[a[2] : a[2] + n])
        elif op == _SOFTMAX:
            softmax(s[a[1] : a[1] + n], s[a[2] : a[2] + n])
        elif op == _SCALE:
            _scale(a, floats, s)
        elif op == _EMBED:
            _embed(a, int8s, floats, s)
        elif op == _RNN:
            copy(s[a[1] : a[1] + n], h[a[2] : a[2] + n])
            activate(a[3], h[a[2] : a[2] + n])
        elif op == _LSTM:
            g = s[a[1] : a[1] + 4 * n]
            lstm_update(g, h[a[2] : a[2] + n], h[a[3] : a[3] + n], a[4], a[5], a[6])
        elif op == _GRU_AFTER:
            g, u = s[a[1] : a[1] + 3 * n], s[a[2] : a[2] + 3 * n]
            gru_reset_after(g, u, h[a[3] : a[3] + n], a[4], a[5])
        elif op == _GRU_RESET:
            g, rh = s[a[1] : a[1] + 3 * n], s[a[3] : a[3] + n]
            gru_reset_before(g, h[a[2] : a[2] + n], rh, a[4])
        elif op == _GRU_BLEND:
            gru_blend(s[a[1] : a[1] + 3 * n], h[a[2] : a[2] + n], a[3])
        pc += 1 + _LENGTH[op]
