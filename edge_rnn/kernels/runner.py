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
from edge_rnn.kernels.cells import (
    copy,
    gru_after,
    gru_blend,
    gru_reset,
    lru,
    lstm,
    lstm_cell,
    min_gru,
    multiply,
)
from edge_rnn.kernels.elementwise import activate
from edge_rnn.kernels.norms import affine, l2, log_softmax, prelu, rms, softmax, standardise
from edge_rnn.kernels.opcodes import LENGTHS, Op
from edge_rnn.kernels.products import matvec

I8 = NDArray[np.int8]
I64 = NDArray[np.int64]

SLOT = np.dtype(
    [
        ("newer", np.int32),
        ("older", np.int32),
        ("generation", np.int32),
        ("open", np.int32),
        ("steps", np.int64),
        ("chunk", np.int64),
        ("seen", np.float64),
    ]
)
"""One slot's bookkeeping. `newer` and `older` link the open slots by last use in a ring
through a sentinel, the last record; `generation` tells a reused slot from its old handle;
`chunk` is the last chunk of rows that the slot stood in, the sentinel's the last chunk of all."""


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
_SCALE, _EMBED, _RNN, _LSTM, _GRU_AFTER, _GRU_RESET, _GRU_BLEND = (int(o) for o in list(Op)[8:15])

_KEEP, _LSTM_CELL, _MULTIPLY, _MIN_GRU, _LRU = (int(o) for o in list(Op)[15:20])
_LOG_SOFTMAX, _STANDARDISE, _RMS, _L2, _AFFINE, _PRELU = (int(o) for o in list(Op)[20:])


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
    places: I64,
) -> tuple[int, int, int]:
    """Step the streams at `slots` (B,) by the rows of x (B, I) into y (B, O).

    Rows go through the program in chunks of up to len(scratch) rows, no stream twice in one, so
    that a slot that stands more than once is stepped in order. `places` (2, rows) is room for
    where the rows' scratch and state begin. Returns (status, row, column); unless status is OK
    nothing was stepped.
    """
    status, row, column = _check(table, slots, vocabularies, x)
    if status == _OK:
        b = 0
        while b < slots.size:
            n = _gather(table, slots[b:], state.shape[1], scratch.shape[1], places)
            _run(
                code,
                int8s,
                floats,
                state.reshape(-1),
                scratch.reshape(-1),
                places[:, :n],
                x[b : b + n],
                y[b : b + n],
            )
            for i in range(b, b + n):
                table[slots[i] & 0xFFFFFFFF]["steps"] += 1
                _touch(table, slots[i] & 0xFFFFFFFF, now)
            b += n
    return status, row, column


@njit(cache=True, error_model="numpy")
def touch(table: NDArray[Any], slots: I64, now: float) -> None:
    """Make the open streams at `slots` (B,) the most recently used, the last one newest."""
    for b in range(slots.size):
        _touch(table, slots[b] & 0xFFFFFFFF, now)


def freeze() -> None:
    """Compile nothing more: arrays of other types are then a TypeError instead of seconds lost."""
    if hasattr(step, "disable_compile"):  # not so under NUMBA_DISABLE_JIT
        step.disable_compile()


@njit(cache=True)
def evict_order(table: NDArray[Any], order: I64) -> int:
    """Fill `order` with the open slots from least to most recently used; returns how many."""
    sentinel = table.size - 1
    slot = table[sentinel]["newer"]
    count = 0
    while slot != sentinel and count < order.size:
        order[count] = slot
        count += 1
        slot = table[slot]["newer"]
    return count


@njit(error_model="numpy")
def _check(table: NDArray[Any], slots: I64, vocabularies: I64, x: F32) -> tuple[int, int, int]:
    for b in range(slots.size):
        slot = slots[b] & 0xFFFFFFFF
        if slots[b] < 0 or slot >= table.size - 1:
            return _STALE, b, 0
        if table[slot]["open"] == 0 or table[slot]["generation"] != slots[b] >> 32:
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
    table[slot]["seen"] = now
    newest = table[sentinel]["older"]
    if slot != newest:
        newer, older = table[slot]["newer"], table[slot]["older"]
        table[newer]["older"] = older
        table[older]["newer"] = newer
        table[slot]["older"] = newest
        table[slot]["newer"] = sentinel
        table[newest]["newer"] = slot
        table[sentinel]["older"] = slot


@njit(error_model="numpy")
def _gather(
    table: NDArray[Any], slots: I64, state_width: int, scratch_width: int, places: I64
) -> int:
    """How many of the next rows make a chunk; fills in where their scratch and state begin."""
    sentinel = table.size - 1
    table[sentinel]["chunk"] += 1
    chunk = table[sentinel]["chunk"]
    n = 0
    while n < slots.size and n < places.shape[1]:
        slot = slots[n] & 0xFFFFFFFF
        if table[slot]["chunk"] == chunk:
            break
        table[slot]["chunk"] = chunk
        places[0, n] = n * scratch_width
        places[1, n] = slot * state_width
        n += 1
    return n


@njit(error_model="numpy", boundscheck=False)
def _embed(a: I64, int8s: I8, floats: F32, s: F32, r: int) -> None:
    D, row = a[0], np.int64(s[r + a[1]])
    for j in range(D):
        if a[3]:
            s[r + a[2] + j] = np.float32(int8s[a[4] + row * D + j]) * floats[a[5] + row]
        else:
            s[r + a[2] + j] = floats[a[4] + row * D + j]


@njit(error_model="numpy", boundscheck=False)
def _scale(a: I64, p: F32, s: F32, r: int) -> None:
    for j in range(a[0]):
        offset, scale, shift = p[a[3] + j], p[a[4] + j], p[a[5] + j]
        s[r + a[2] + j] = (s[r + a[1] + j] - offset) * scale + shift


@njit(error_model="numpy", boundscheck=False)
def _product(a: I64, int8s: I8, p: F32, x: F32, rows_x: I64, s: F32, rows: I64) -> None:
    N, K, src, dst, w, scale, base = a[0], a[1], a[2], a[3], a[5], a[6], a[7]
    if a[4]:
        matvec(int8s, w, N, K, x, src, rows_x, p, scale, base, s, dst, rows)
    else:
        matvec(p, w, N, K, x, src, rows_x, p, -1, base, s, dst, rows)


@njit(error_model="numpy", boundscheck=False)
def _run(code: I64, int8s: I8, floats: F32, h: F32, s: F32, places: I64, x: F32, y: F32) -> None:
    """Run the program once over a chunk, instruction by instruction, each over all rows."""
    pc = 0
    while code[pc] != _END:
        op = code[pc]
        a = code[pc + 1 : pc + 1 + _LENGTH[op]]
        if op == _MATVEC:
            _product(a, int8s, floats, s, places[0], s, places[0])
        elif op == _MATVEC_STATE:
            _product(a, int8s, floats, h, places[1], s, places[0])
        else:
            for i in range(places.shape[1]):
                _row(op, a, int8s, floats, h, places[1, i], s, places[0, i], x[i], y[i])
        pc += 1 + _LENGTH[op]


@njit(error_model="numpy", boundscheck=False)
def _row(
    op: int, a: I64, int8s: I8, p: F32, h: F32, t: int, s: F32, r: int, x: F32, y: F32
) -> None:
    """One instruction for one row, whose state begins at h[t] and whose scratch at s[r]."""
    n = a[0]
    if op == _LOAD:
        copy(x, a[1], s, r + a[2], n)
    elif op == _STORE:
        copy(s, r + a[1], y, a[2], n)
    elif op == _COPY_STATE:
        copy(h, t + a[1], s, r + a[2], n)
    elif op == _ACTIVATE:
        if a[1] != a[2]:
            copy(s, r + a[1], s, r + a[2], n)
        activate(a[3], s, r + a[2], n)
    elif op == _SOFTMAX:
        softmax(s, r + a[1], r + a[2], n, r + a[3])
    elif op == _SCALE:
        _scale(a, p, s, r)
    elif op == _EMBED:
        _embed(a, int8s, p, s, r)
    elif op == _RNN:
        copy(s, r + a[1], h, t + a[2], n)
        activate(a[3], h, t + a[2], n)
    elif op == _LSTM:
        lstm(s, r + a[1], h, t + a[2], t + a[3], n, a[4], a[5], a[6])
    elif op == _GRU_AFTER:
        gru_after(s, r + a[1], r + a[2], h, t + a[3], n, a[4], a[5])
    elif op == _GRU_RESET:
        gru_reset(s, r + a[1], h, t + a[2], r + a[3], n, a[4])
    elif op == _GRU_BLEND:
        gru_blend(s, r + a[1], h, t + a[2], n, a[3])
    elif op < _LOG_SOFTMAX:
        _cell(op, a, p, h, t, s, r)
    else:
        _norm(op, a, p, s, r)


@njit(error_model="numpy", boundscheck=False)
def _cell(op: int, a: I64, p: F32, h: F32, t: int, s: F32, r: int) -> None:
    n = a[0]
    if op == _KEEP:
        copy(s, r + a[1], h, t + a[2], n)
    elif op == _LSTM_CELL:
        lstm_cell(s, r + a[1], h, t + a[2], r + a[3], n, a[4])
    elif op == _MULTIPLY:
        multiply(s, r + a[1], r + a[2], n)
    elif op == _MIN_GRU:
        min_gru(s, r + a[1], h, t + a[2], n)
    elif op == _LRU:
        lru(s, r + a[1], h, t + a[2], t + a[3], p, a[4], a[5], n)


@njit(error_model="numpy", boundscheck=False)
def _norm(op: int, a: I64, p: F32, s: F32, r: int) -> None:
    n, x, y = a[0], r + a[1], r + a[2]
    if op == _LOG_SOFTMAX:
        log_softmax(s, x, y, n, r + a[3])
    elif op == _STANDARDISE:
        standardise(s, x, y, n, a[5], a[6], r + a[3], p[a[4]])
    elif op == _RMS:
        rms(s, x, y, n, r + a[3], p[a[4]])
    elif op == _L2:
        l2(s, x, y, n, r + a[3], p[a[4]])
    elif op == _AFFINE:
        affine(s, x, y, n, p, a[3], a[4])
    elif op == _PRELU:
        prelu(s, x, y, n, p, a[3])
