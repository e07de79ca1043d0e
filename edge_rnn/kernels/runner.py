"""One compiled function that steps any model: it interprets a program over flat arenas.

It checks every row before it steps the first, allocates nothing, and updates each stream's
state in place in the slab.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.activations import ACTS
from edge_rnn.graph import F32
from edge_rnn.kernels.cells import cell, copy, gru_after, gru_blend, gru_reset, lstm, rnn
from edge_rnn.kernels.context import ARRAYS, BACK, SLOT, Status
from edge_rnn.kernels.elementwise import activate, activate_tuned
from edge_rnn.kernels.float_products import floats
from edge_rnn.kernels.formats import Format
from edge_rnn.kernels.fused import lstm_dots
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.layers import emit, layer, select_rows, spread_windows
from edge_rnn.kernels.nibbles import nibble_dots
from edge_rnn.kernels.norms import norm, softmax
from edge_rnn.kernels.opcodes import (
    FROM_STATE,
    FROM_WINDOWS,
    LENGTHS,
    PHASES,
    PLACES,
    ROW,
    SCRATCH,
    STATE,
    STEP,
    Op,
)
from edge_rnn.kernels.products import dots, wide_dots
from edge_rnn.kernels.quantizing import all_finite, quantize
from edge_rnn.kernels.views import flat, in_rows, prefetch, viewer
from edge_rnn.kernels.windows import gather_windows, skip, unmasked

I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
I64 = NDArray[np.int64]

_OK, _STALE, _NOT_FINITE, _BAD_INDEX, _SHAPE = (int(s) for s in list(Status)[:5])
_LENGTH = np.array([LENGTHS[op] for op in Op], np.int64)
_END, _LOAD, _STORE, _MATVEC, _QUANTIZE, _RNN, _LSTM = (int(o) for o in list(Op)[:7])
_GRU_AFTER, _GRU_RESET, _GRU_BLEND, _LSTM_DOTS = (int(o) for o in list(Op)[7:11])
_EMIT, _SCHEDULE, _WINDOWS, _COPY_STATE, _ACTIVATE, _SOFTMAX, _SCALE, _EMBED = (
    int(o) for o in list(Op)[11:19]
)
_FIRST_TUNED = len(ACTS)
_FIRST_CELL, _FIRST_NORM = int(Op.KEEP), int(Op.LOG_SOFTMAX)
_FLOAT32, _FLOAT16, _INT8, _INT8_INT8, _INT8_INT16, _INT4_INT8, _ = (int(f) for f in Format)

_int64s, _int8s, _uint8s, _int16s, _int32s, _floats, _table = (
    viewer(kind) for kind in (np.int64, np.int8, np.uint8, np.int16, np.int32, np.float32, SLOT)
)
_AHEAD, _LINES = 8, 256
"""Rows ahead of which a record is loaded; numbers of a state that are (the rest follows)."""


@kernel
def step(context: I64, now: float, slots: I64, x: F32, y: F32) -> int:
    """Step the streams at `slots` (B,) by the rows of x (B, I) into y (B, O).

    Rows go through the program in chunks, no stream twice in one, so that a slot that stands more
    than once is stepped in order. A row without an output is NaN (see `emit_to`). Returns 0, or
    what `explain` tells of the first bad row: nothing was stepped then.
    """
    vocabularies, table = _int64s(context, 4), _table(context, 6)
    numbers = context[2 * ARRAYS :]
    state_width, scratch_width = numbers[0], numbers[2]
    inputs, outputs = numbers[3], numbers[4]
    emitted, B = _uint8s(context, 10), slots.size
    if x.shape[0] != B or x.shape[1] != inputs or y.shape[0] != B or y.shape[1] != outputs:
        return _SHAPE
    fault = _check(table, slots, vocabularies, x)
    if fault:
        return fault
    h, places = _floats(context, 5), in_rows(_int64s(context, 8), 2 * PLACES)
    p, regime = _floats(context, 3), _int64s(context, 12)
    b = 0
    while b < slots.size:
        end = unmasked(x, b, regime, p)
        if b == end:
            slot = slots[b] & 0xFFFFFFFF
            emitted[b : b + 1] = skip(table, slot, h, regime, p, slot * state_width, b, y)
            touch(table, slots[b : b + 1], now)
            b += 1
            continue
        if regime[PHASES]:
            m, n = gather_windows(
                table, slots[b:end], h, regime, p, state_width, scratch_width, places
            )
        else:
            m = n = _gather(table, slots[b:end], h, state_width, scratch_width, places)
        _run(context, places[:, :n], x[b : b + m], y[b : b + m], emitted[b : b + m])
        for i in range(b, b + m):
            table[slots[i] & 0xFFFFFFFF]["steps"] += 1
        touch(table, slots[b : b + m], now)
        b += m
    return _OK


@kernel
def admit(
    table: NDArray[Any], slots: I64, now: float, vocabularies: I64, x: F32, steps: I64
) -> int:
    """Check all rows as `step` does, fill in at which of its stream's `steps` (B,) each row is, and
    count them: for what steps the streams itself. Returns what `step` does."""
    fault = _check(table, slots, vocabularies, x)
    if fault:
        return fault
    for b in range(slots.size):
        slot = slots[b] & 0xFFFFFFFF
        steps[b] = table[slot]["steps"]
        table[slot]["steps"] += 1
    touch(table, slots, now)
    return _OK


@kernel
def touch(table: NDArray[Any], slots: I64, now: float) -> None:
    """Make the open streams at `slots` (B,) the most recently used, the last one newest."""
    sentinel = table.size - 1
    newest = table[sentinel]["older"]
    for b in range(slots.size):
        slot = slots[b] & 0xFFFFFFFF
        table[slot]["seen"] = now
        if slot != newest:
            newer, older = table[slot]["newer"], table[slot]["older"]
            table[newer]["older"] = older
            table[older]["newer"] = newer
            table[slot]["older"] = newest
            table[newest]["newer"] = slot
            newest = slot
    table[newest]["newer"] = sentinel
    table[sentinel]["older"] = newest


@kernel
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


@kernel
def _check(table: NDArray[Any], slots: I64, vocabularies: I64, x: F32) -> int:
    finite = all_finite(flat(x))
    for b in range(slots.size):
        if b + _AHEAD < slots.size:
            prefetch(table, slots[b + _AHEAD] & 0xFFFFFFFF)
        slot = slots[b] & 0xFFFFFFFF
        if slots[b] < 0 or slot >= table.size - 1:
            return _STALE | b << 8
        if table[slot]["open"] == 0 or table[slot]["generation"] != slots[b] >> 32:
            return _STALE | b << 8
        for i in range(0 if finite else x.shape[1]):
            if not np.isfinite(x[b, i]):
                return _NOT_FINITE | b << 8 | i << 40
        for j in range(0, vocabularies.size, 2):
            v = x[b, vocabularies[j]]
            if not (v >= 0 and v < vocabularies[j + 1] and v == np.floor(v)):
                return _BAD_INDEX | b << 8 | int(vocabularies[j]) << 40
    return _OK


@kernel
def _gather(
    table: NDArray[Any], slots: I64, h: F32, state_width: int, scratch_width: int, places: I64
) -> int:
    """How many of the next rows make a chunk; fills in what is known of each, and has what will be
    needed of it loaded: its state in h, and the neighbours it leaves by being used."""
    sentinel = table.size - 1
    table[sentinel]["chunk"] += 1
    chunk = table[sentinel]["chunk"]
    n = 0
    while n < slots.size and n < places.shape[1]:
        slot = slots[n] & 0xFFFFFFFF
        if table[slot]["chunk"] == chunk:
            break
        table[slot]["chunk"] = chunk
        places[SCRATCH, n] = n * scratch_width
        places[STATE, n] = slot * state_width
        places[STEP, n] = table[slot]["steps"]
        places[ROW, n] = n
        prefetch(table, table[slot]["newer"])
        prefetch(table, table[slot]["older"])
        for line in range(0, min(state_width, _LINES), 16):
            prefetch(h, slot * state_width + line)
        n += 1
    return n


@kernel
def _embed(a: I64, int8s: I8, floats: F32, s: F32, r: int) -> None:
    D, row = a[0], np.int64(s[r + a[1]])
    for j in range(D):
        if a[3]:
            s[r + a[2] + j] = np.float32(int8s[a[4] + row * D + j]) * floats[a[5] + row]
        else:
            s[r + a[2] + j] = floats[a[4] + row * D + j]


@kernel
def _scale(a: I64, p: F32, s: F32, r: int) -> None:
    for j in range(a[0]):
        offset, scale, shift = p[a[3] + j], p[a[4] + j], p[a[5] + j]
        s[r + a[2] + j] = (s[r + a[1] + j] - offset) * scale + shift


@kernel
def _source(source: int, h: F32, s: F32, rows: I64, windows: I64) -> tuple[F32, I64, I64]:
    """(array, where it begins for each row, where the row's sums and integers begin) of what a
    product reads."""
    if source == FROM_STATE:
        return h, rows[STATE], rows[SCRATCH]
    if source == FROM_WINDOWS:
        return s, windows[1], windows[0]
    return s, rows[SCRATCH], rows[SCRATCH]


@kernel
def _product(
    context: I64, a: I64, int8s: I8, p: F32, x: F32, rows_x: I64, s: F32, rows: I64
) -> None:
    """One matrix product for all rows, in the format that its operands name."""
    format, back = a[4], context[BACK]
    if format == _FLOAT32:
        floats(a, p, x, rows_x, p, s, rows, back)
    elif format == _FLOAT16:
        floats(a, _int16s(context, 2), x, rows_x, p, s, rows, back)
    elif format == _INT8:
        floats(a, int8s, x, rows_x, p, s, rows, back)
    elif format == _INT8_INT8:
        dots(a, int8s, s.view(np.int8), p, _int32s(context, 9), s, rows, back)
    elif format == _INT8_INT16:
        b8, b16 = s.view(np.int8), s.view(np.int16)
        wide_dots(a, int8s, b8, b16, p, _int32s(context, 9), s, rows, back)
    else:
        wide = format != _INT4_INT8
        nibble_dots(a, int8s, s.view(np.int8), p, s.view(np.int32), s, rows, wide, back)


@kernel
def _run(context: I64, places: I64, x: F32, y: F32, emitted: NDArray[np.uint8]) -> None:
    """Run the program once over a chunk, instruction by instruction, each over all rows that are
    scheduled."""
    code, int8s, p = _int64s(context, 0), _int8s(context, 1), _floats(context, 3)
    h, s = _floats(context, 5), _floats(context, 7)
    table = in_rows(_int64s(context, 11), 2)
    pc, rows, windows = 0, places[:PLACES], table[:, :0]
    context[BACK] = 1 - context[BACK]
    while code[pc] != _END:
        op = code[pc]
        a = code[pc + 1 : pc + 1 + _LENGTH[op]]
        if op == _MATVEC:
            x_, rows_x, to = _source(a[10], h, s, rows, windows)
            _product(context, a, int8s, p, x_, rows_x, s, to)
        elif op == _QUANTIZE:
            x_, rows_x, to = _source(a[5], h, s, rows, windows)
            quantize(a, x_, rows_x, p, s, to)
        elif op == _LSTM_DOTS:
            words, back = _int32s(context, 9), context[BACK]
            lstm_dots(a, int8s, s.view(np.int8), p, words, h, s, rows, back)
        elif op == _SCHEDULE:
            rows = places[PLACES:, : select_rows(places, a[0], a[1])]
        elif op == _EMIT:
            emit(places, a[0], a[1], y, emitted)
        elif op == _WINDOWS:
            windows = table[:, : spread_windows(rows, a[0], a[1], a[2], table)]
        elif op < _EMIT:
            _rows(op, a, h, s, x, y, rows)
        else:
            for i in range(rows.shape[1]):
                r, t, step = rows[SCRATCH, i], rows[STATE, i], rows[STEP, i]
                _row(op, a, int8s, p, h, t, s, r, step)
        pc += 1 + _LENGTH[op]


@kernel
def _rows(op: int, a: I64, h: F32, s: F32, x: F32, y: F32, rows: I64) -> None:
    """One of the instructions that most models are made of, for all rows."""
    if op == _LOAD:
        numbers = flat(x)
        for i in range(rows.shape[1]):
            copy(numbers, rows[ROW, i] * x.shape[1] + a[1], s, rows[SCRATCH, i] + a[2], a[0])
    elif op == _STORE:
        numbers = flat(y)
        for i in range(rows.shape[1]):
            copy(s, rows[SCRATCH, i] + a[1], numbers, rows[ROW, i] * y.shape[1] + a[2], a[0])
    elif op == _RNN:
        rnn(a, h, s, rows)
    elif op == _LSTM:
        lstm(a, h, s, rows)
    elif op == _GRU_AFTER:
        gru_after(a, h, s, rows)
    elif op == _GRU_RESET:
        gru_reset(a, h, s, rows)
    elif op == _GRU_BLEND:
        gru_blend(a, h, s, rows)


@kernel
def _row(op: int, a: I64, int8s: I8, p: F32, h: F32, t: int, s: F32, r: int, step: int) -> None:
    """One instruction for one row at this step of its stream, whose state begins at h[t] and whose
    scratch at s[r]."""
    n = a[0]
    if op == _COPY_STATE:
        copy(h, t + a[1], s, r + a[2], n)
    elif op == _ACTIVATE:
        if a[1] != a[2]:
            copy(s, r + a[1], s, r + a[2], n)
        if a[3] < _FIRST_TUNED:
            activate(a[3], s, r + a[2], n)
        else:
            activate_tuned(a[3], p[a[4]], p[a[4] + 1], s, r + a[2], n)
    elif op == _SOFTMAX:
        softmax(s, r + a[1], r + a[2], n, r + a[3])
    elif op == _SCALE:
        _scale(a, p, s, r)
    elif op == _EMBED:
        _embed(a, int8s, p, s, r)
    elif op < _FIRST_CELL:
        layer(op, a, int8s, p, h, t, s, r, step)
    elif op < _FIRST_NORM:
        cell(op, a, p, h, t, s, r)
    else:
        norm(op, a, p, s, r)
