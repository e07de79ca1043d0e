"""Schedules, and the layers that read a window of past inputs.

A ring is `entries` vectors of a stream's state; input t, counted by the layer, stands in entry
t mod entries. At step n of the stream, t = (n - first) / period with the schedule of the layer's
input, so that no stream keeps a counter; a schedule holds at n = first, first + period, ...
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.cells import copy
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.opcodes import PLACES, ROW, SCRATCH, STEP, Op
from edge_rnn.kernels.simd import LANES, fma, load, splat, store

_COPY, _SUM, _PRODUCT, _PUSH, _TAPS, _DEPTHWISE, _POOL, _COLLECT, _TAKE, _FRAME_POOL = (
    int(o) for o in list(Op)[Op.COPY : Op.KEEP]
)
_0 = np.float32(0)

I8 = NDArray[np.int8]
I64 = NDArray[np.int64]


@kernel
def _due(n: int, first: int, period: int) -> bool:
    return n >= first and (n - first) % period == 0


@kernel
def select_rows(places: I64, first: int, period: int) -> int:
    """Copy the places of the rows whose step is in the schedule behind those of all rows; returns
    how many. `places` is (2 PLACES, rows)."""
    count = 0
    for i in range(places.shape[1]):
        if _due(places[STEP, i], first, period):
            for j in range(PLACES):
                places[PLACES + j, count] = places[j, i]
            count += 1
    return count


@kernel
def spread_windows(rows: I64, count: int, step: int, room: int, windows: I64) -> int:
    """Fill in where each of `count` windows of every row begins, and its own room; returns how many
    these are. `windows` is (2, windows): rooms and beginnings."""
    n = 0
    for i in range(rows.shape[1]):
        for k in range(count):
            windows[0, n] = rows[SCRATCH, i] + k * room
            windows[1, n] = rows[SCRATCH, i] + k * step
            n += 1
    return n


@kernel
def emit(places: I64, first: int, period: int, y: F32, emitted: NDArray[np.uint8]) -> None:
    """Say which messages have an output, unless `emitted` is empty; a row of y without one is NaN.

    A message may have several rows, of which one at most is due.
    """
    if period == 1 and first == 0:
        emitted[:] = 1
        return
    y[:] = np.nan
    emitted[:] = 0
    for i in range(places.shape[1] if emitted.size else 0):
        if _due(places[STEP, i], first, period):
            emitted[places[ROW, i]] = 1


@kernel
def layer(op: int, a: I64, int8s: I8, p: F32, h: F32, t: int, s: F32, r: int, n: int) -> None:
    """One instruction for one row at step n, whose state begins at h[t] and scratch at s[r]."""
    if op == _COPY:
        copy(s, r + a[1], s, r + a[2], a[0])
    elif op == _SUM:
        for j in range(r, r + a[0], LANES):
            store(s, a[3] + j, load(s, a[1] + j) + load(s, a[2] + j))
    elif op == _PRODUCT:
        for j in range(r, r + a[0], LANES):
            store(s, a[3] + j, load(s, a[1] + j) * load(s, a[2] + j))
    elif op == _PUSH:
        entry = (n - a[4]) // a[5] % a[3]
        copy(s, r + a[1], h, t + a[2] + entry * a[0], a[0])
    elif op == _TAPS:
        _taps(a, h, t + a[1], s, r + a[2], (n - a[4]) // a[5])
    elif op == _DEPTHWISE:
        if a[3]:
            _depthwise(a, int8s, p, a[5], s, r)
        else:
            _depthwise(a, p, p, -1, s, r)
    elif op == _POOL:
        _pool(a, h, t + a[1], s, r + a[2], (n - a[4]) // a[5])
    elif op == _COLLECT:
        for k in range(a[4]):
            copy(s, r + a[1] + k * a[3], s, r + a[2] + k * a[0], a[0])
    elif op == _TAKE:
        _take(a, p, s, r + a[1], r + a[2])
    elif op == _FRAME_POOL:
        _frame_pool(a, s, r + a[1], r + a[2])


@kernel
def _taps(a: I64, h: F32, ring: int, s: F32, dst: int, now: int) -> None:
    """A convolution's taps side by side, the oldest first. An entry is `width` long, of which n
    numbers are taken; entries from before the first input are zero still."""
    n, entries, width, kernel, dilation = a[0], a[3], a[6], a[7], a[8]
    for j in range(kernel):
        entry = (now - (kernel - 1 - j) * dilation) % entries
        copy(h, ring + entry * width, s, dst + j * n, n)


@kernel
def _depthwise(a: I64, w: Any, p: F32, scale: int, s: F32, r: int) -> None:
    """y = sum_j w_j x_j + bias, feature by feature; w is (kernel, P), the taps (kernel, width)."""
    P, taps, dst, at, bias, width, kernel = a[0], r + a[1], r + a[2], a[4], a[6], a[7], a[8]
    for i in range(0, P, LANES):
        total = splat(_0)
        for j in range(kernel):
            total = fma(load(w, at + j * P + i), load(s, taps + j * width + i), total)
        start = load(p, bias + i)
        if scale >= 0:
            store(s, dst + i, fma(total, load(p, scale + i), start))
        else:
            store(s, dst + i, total + start)


@kernel
def _pool(a: I64, h: F32, ring: int, s: F32, dst: int, now: int) -> None:
    """Maximum or mean of the entries that are there, from the oldest to the newest."""
    n, entries = a[0], a[3]
    count = min(now + 1, entries)
    copy(h, ring + (now + 1 - count) % entries * n, s, dst, n)
    for age in range(count - 2, -1, -1):
        _merge(h, ring + (now - age) % entries * n, s, dst, n, a[6])
    if a[6]:
        _divide(s, dst, n, count)


@kernel
def _merge(x: F32, i: int, y: F32, j: int, n: int, average: int) -> None:
    """The sums or the maxima of n numbers of x and of y, left in y."""
    for k in range(n):
        v, so_far = x[i + k], y[j + k]
        if average:
            y[j + k] = so_far + v
        elif v > so_far or v != v:  # NaN stays
            y[j + k] = v


@kernel
def _divide(y: F32, j: int, n: int, count: int) -> None:
    for k in range(n):
        y[j + k] = y[j + k] / np.float32(count)


@kernel
def _take(a: I64, p: F32, s: F32, src: int, dst: int) -> None:
    for j in range(a[0]):
        place = np.int64(p[a[3] + j])
        s[dst + j] = s[src + place] if place >= 0 else _0


@kernel
def _frame_pool(a: I64, s: F32, src: int, dst: int) -> None:
    """Maximum or mean of each window of positions of n channels, from the first to the last."""
    n, kernel, stride, average, count = a[0], a[3], a[4], a[5], a[6]
    for k in range(count):
        x, y = src + k * stride * n, dst + k * n
        copy(s, x, s, y, n)
        for j in range(1, kernel):
            _merge(s, x + j * n, s, y, n, average)
        if average:
            _divide(s, y, n, kernel)
