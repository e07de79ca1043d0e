"""What a core can do at most, measured with the instructions that the kernels are built from: how
fast it reads weights, and how many multiply-adds it makes of operands that are at hand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.kernels.dots import dot4, dot8, pair_sums, quad, quads, two_quads
from edge_rnn.kernels.integers import add, ints, same, to_float
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.memory import joined, zeros
from edge_rnn.kernels.simd import F32, I32, LANES, fma, load, splat, store

I8 = NDArray[np.int8]

DEPTH = 32
"""Groups of inputs that the operands of a peak hold: few enough for the nearest cache."""
SUMS = (16 if LEVEL.lanes == 16 else 8) * LANES
"""Sums under way at once: each has time to end before it is needed again. All are in registers:
AVX-512 has 32, and needs more than eight sums, AVX2 has sixteen."""

ROOM = SUMS + LANES
"""Words of `y` that hold all that a function below hands back."""

_HALF, _NONE, _0 = SUMS // 2, np.int32(0), np.float32(0)
_PAIRED = LEVEL.dot == "smull"
_ONE_ROW = LEVEL.dot in ("maddubs", "pmaddwd", "smull")
"""An activation's part of the work is worth sharing; elsewhere a weight's load is, by two rows."""
_N = SUMS if _ONE_ROW else _HALF


def words(nbytes: int) -> I32:
    """What to `stream`: nbytes, rounded up to whole registers, from the start of a cache line."""
    some = zeros(-(-nbytes // (4 * LANES)) * LANES, np.int32)
    some.fill(1)  # pages that were never written are one and the same in memory
    return some


def operands() -> tuple[I8, I8]:
    """(w, x) for `dot_peak`."""
    rng = np.random.default_rng(0)
    w, x = (rng.integers(-127, 128, DEPTH * n).astype(np.int8) for n in (4 * SUMS, 2 * 4))
    return joined([w], np.int8), x


def floats() -> tuple[F32, F32]:
    """(w, x) for `fma_peak`."""
    w, x = operands()
    return joined([w.astype(np.float32)], np.float32), x.astype(np.float32)


@kernel
def stream(w: I32, repeats: int, y: F32) -> int:
    """Read all of w, `repeats` times, as a step reads weights: in order, in whole registers, each
    word once. y (ROOM,) takes sums that need every word. Returns the bytes read."""
    n = w.size - w.size % SUMS
    some, rest = same(_NONE, SUMS), same(_NONE, LANES)
    for _ in range(repeats):
        for i in range(0, n, SUMS):
            some = add(some, ints(w, i, SUMS))
        for i in range(n, w.size, LANES):
            rest = add(rest, ints(w, i, LANES))
    store(y, 0, to_float(some))
    store(y, SUMS, to_float(rest))
    return 4 * w.size * repeats


@kernel
def dot_peak(w: I8, x: I8, repeats: int, y: F32) -> int:
    """Integer multiply-adds, by the instructions of this level, of operands in the nearest cache.
    y (ROOM,) takes the sums. Returns how many multiply-adds were made."""
    if _PAIRED:
        _paired(w, x, repeats, y)
    else:
        _quads(w, x, repeats, y)
    return repeats * DEPTH * 4 * SUMS


@kernel
def _quads(w: I8, x: I8, repeats: int, y: F32) -> None:
    a = b = same(_NONE, _N)
    for _ in range(repeats):
        for k in range(DEPTH):
            m = quads(w, 4 * _N * k, _N)
            a = dot4(a, quad(x, 4 * k, _N), m)
            if not _ONE_ROW:
                b = dot4(b, quad(x, 4 * (DEPTH + k), _N), m)
    if not _ONE_ROW:
        store(y, _HALF, to_float(b))
    store(y, 0, to_float(a))


@kernel
def _paired(w: I8, x: I8, repeats: int, y: F32) -> None:
    """Two groups of inputs at once, each group's outputs in two parts."""
    a = b = same(_NONE, SUMS)
    for _ in range(repeats):
        for k in range(0, DEPTH, 2):
            v, u = two_quads(x, 4 * k, _HALF)
            at, second = 4 * SUMS * k, 4 * SUMS * (k + 1)
            a = dot8(a, v, quads(w, at, _HALF), u, quads(w, second, _HALF))
            at, second = at + 4 * _HALF, second + 4 * _HALF
            b = dot8(b, v, quads(w, at, _HALF), u, quads(w, second, _HALF))
    store(y, 0, to_float(pair_sums(a)))
    store(y, _HALF, to_float(pair_sums(b)))


@kernel
def fma_peak(w: F32, x: F32, repeats: int, y: F32) -> int:
    """The same of float32 numbers."""
    a = b = splat(_0, _HALF)
    for _ in range(repeats):
        for k in range(DEPTH):
            m = load(w, _HALF * k, _HALF)
            a = fma(m, splat(x[k], _HALF), a)
            b = fma(m, splat(x[DEPTH + k], _HALF), b)
    store(y, 0, a)
    store(y, _HALF, b)
    return repeats * DEPTH * SUMS
