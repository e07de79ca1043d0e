"""Windows: which of a stream's states a message steps, messages that are left out, and the ring of
messages for those models that see a window when it is whole.

A stream in windows of `length` every `hop` messages has a state for each of the windows that it may
be in at once, `phases` of them; window j, which begins at step j hop, has the one at j mod phases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.cells import copy
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.opcodes import (
    BEGIN,
    HOP,
    KEPT,
    LENGTH,
    MASK,
    PHASES,
    ROW,
    SCRATCH,
    STATE,
    STEP,
    WIDTH,
)
from edge_rnn.kernels.views import flat, prefetch

I64 = NDArray[np.int64]
_LINES = 256
"""Numbers of a state that are loaded ahead; the rest follows."""
_0, _1 = np.float32(0), np.float32(1)


@kernel
def unmasked(x: F32, b: int, regime: I64, p: F32) -> int:
    """The first row of x from b on that is masked, or how many there are."""
    rows: int = x.shape[0]
    if regime[MASK] < 0:
        return rows
    mask = p[regime[MASK]]
    for i in range(b, rows):
        differs = False
        for j in range(x.shape[1]):
            differs |= x[i, j] != mask
        if not differs:
            return i
    return rows


@kernel
def _oldest(step: int, regime: I64) -> int:
    """The first of the windows that a stream is in at this step; the last is step // hop."""
    return max(0, int(step - regime[LENGTH] + regime[HOP]) // int(regime[HOP]))


@kernel
def _begun(h: F32, base: int, j: int, step: int, regime: I64, p: F32) -> int:
    """Where the state of window j lies, of a stream whose states begin at `base`; it is the initial
    one if the window begins at this step."""
    state = base + j % int(regime[PHASES]) * int(regime[WIDTH])
    if step == j * regime[HOP] and regime[BEGIN] >= 0:
        copy(p, regime[BEGIN], h, state, regime[WIDTH])
    elif step == j * regime[HOP]:
        for i in range(state, state + regime[WIDTH]):
            h[i] = _0
    return state


@kernel
def gather_windows(
    table: NDArray[Any], slots: I64, h: F32, regime: I64, p: F32, state_width: int,
    scratch_width: int, places: I64,
) -> tuple[int, int]:  # fmt: skip
    """How many of the next messages make a chunk, and how many rows those are: one for each window
    that a message's stream is in. Fills in what is known of each row."""
    sentinel = table.size - 1
    table[sentinel]["chunk"] += 1
    chunk = table[sentinel]["chunk"]
    m, n = 0, 0
    while m < slots.size and n + regime[PHASES] <= places.shape[1]:
        slot = slots[m] & 0xFFFFFFFF
        if table[slot]["chunk"] == chunk:
            break
        table[slot]["chunk"] = chunk
        step = table[slot]["steps"]
        for j in range(_oldest(step, regime), step // regime[HOP] + 1):
            state = _begun(h, slot * state_width, j, step, regime, p)
            if regime[KEPT] >= 0:
                h[state + regime[KEPT]] = _1
            places[SCRATCH, n] = n * scratch_width
            places[STATE, n] = state
            places[STEP, n] = step - j * regime[HOP]
            places[ROW, n] = m
            for line in range(0, min(regime[WIDTH], _LINES), 16):
                prefetch(h, state + line)
            n += 1
        m += 1
    return m, n


@kernel
def skip(
    table: NDArray[Any], slot: int, h: F32, regime: I64, p: F32, base: int, b: int, y: F32
) -> int:
    """A masked message, row b of y: does its stream, whose states begin at `base`, answer?"""
    y[b] = np.nan
    if not regime[PHASES]:
        return 0
    step = table[slot]["steps"]
    table[slot]["steps"] += 1
    answered = 0
    for j in range(_oldest(step, regime), step // regime[HOP] + 1):
        state = _begun(h, base, j, step, regime, p)
        kept = state + regime[KEPT]
        ends = step - j * regime[HOP] == regime[LENGTH] - 1
        if ends and regime[KEPT] >= 0 and h[kept] == _1:
            copy(h, kept + 1, flat(y), b * y.shape[1], y.shape[1])
            answered = 1
    return answered


@kernel
def record(
    rings: F32, slots: I64, steps: I64, x: F32, due: NDArray[np.bool_], windows: F32
) -> None:
    """Put the rows of x (B, I), each at its step of its stream, into the streams' `rings`
    (capacity, n I), and those rings in the order of their messages, after each message that is due,
    into `windows` (how many are due, n, I)."""
    n, width, w = windows.shape[1], windows.shape[2], 0
    kept, out = flat(rings), flat(windows)
    for b in range(slots.size):
        ring, place = slots[b] * rings.shape[1], steps[b] % n
        copy(flat(x), b * width, kept, ring + place * width, width)
        if due[b]:
            older = (n - 1 - place) * width
            copy(kept, ring + (place + 1) * width, out, w * n * width, older)
            copy(kept, ring, out, w * n * width + older, (place + 1) * width)
            w += 1
