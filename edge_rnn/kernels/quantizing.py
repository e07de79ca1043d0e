"""Activations as integers: q = round(x / unit), with one unit for a whole row.

The unit is max |x| over the largest integer, or a fixed one where the range of x is known. It is
not finite where an x is not, so that a diverged stream shows in every product.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32, GROUP
from edge_rnn.kernels.formats import EACH, FLIP, LIMITS, Format
from edge_rnn.kernels.integers import (
    ROUND,
    add,
    bits,
    larger_size,
    largest,
    same,
    shift,
    store_bytes,
    store_shorts,
)
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.products import SHORTS
from edge_rnn.kernels.simd import LANES, any_nan, fma, leading, load, splat

_LIMIT8, _LIMIT16 = (np.float32(limit) for limit in LIMITS.values())
_TINY, _0, _NAN = np.float32(1e-30), np.float32(0), np.float32(np.nan)
_NONE, _HALF = np.int32(0), np.int32(128)
_INT8_INT8, _INT8_INT16, _INT4_INT8, _INT4_INT16 = (
    int(f) for f in (Format.INT8_INT8, Format.INT8_INT16, Format.INT4_INT8, Format.INT4_INT16)
)

I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@kernel
def _size(x: F32, i: int, n: int) -> np.float32:
    """The largest |x| of x[i : i + n], at least _TINY; NaN if one is."""
    whole = n // LANES * LANES
    sizes = same(_NONE, LANES)
    for k in range(i, i + whole, LANES):
        sizes = larger_size(sizes, load(x, k))
    if n > whole:  # what follows is read, too: there is room for whole vectors
        sizes = larger_size(sizes, leading(load(x, i + whole), n - whole))
    size = largest(sizes)
    return _TINY if size < _TINY else size


@kernel
def _finite(x: F32, i: int, n: int) -> bool:
    """Is every number of x[i : i + n]?"""
    whole = n // LANES * LANES
    total = _zeros_of(x, i, i + whole)
    if n > whole:
        total = fma(leading(load(x, i + whole), n - whole), splat(_0), total)
    return not any_nan(total)


@kernel
def _zeros_of(x: F32, i: int, end: int) -> F32:
    """Zeros, NaN in a lane where a number of x[i : end], whole vectors, is not finite."""
    total = splat(_0)
    for k in range(i, end, LANES):
        total = fma(load(x, k), splat(_0), total)
    return total


@kernel
def all_finite(x: F32) -> bool:
    """Is every number of x?"""
    whole = x.size // LANES * LANES
    finite = not any_nan(_zeros_of(x, 0, whole))
    for k in range(whole, x.size):
        finite &= bool(np.isfinite(x[k]))
    return bool(finite)


@kernel
def _round_bytes(
    x: F32, i: int, n: int, inverse: np.float32, upper: bool, to: I8, at: int, flip: int
) -> None:
    """to[at:] = the lower bytes of round(x inverse), or what is then left above them, flipped: a
    multiple of 128 that is added with ROUND changes no rounding, and of the byte just that bit."""
    start = splat(ROUND + np.float32(256 * flip if upper else flip))
    for k in range(0, n, LANES):
        q = bits(fma(load(x, i + k), splat(inverse), start))
        if upper:
            q = shift(add(q, same(_HALF, LANES)), 8)
        store_bytes(to, at + k, q)


@kernel
def _round_shorts(x: F32, i: int, n: int, inverse: np.float32, to: I16, at: int) -> None:
    """to[at:] = round(x inverse)."""
    for k in range(0, n, LANES):
        store_shorts(to, at + k, bits(fma(load(x, i + k), splat(inverse), splat(ROUND))))


@kernel
def _sum_groups(x: I8, at: int, groups: int, to: I32, first: int) -> None:
    """to[first + g] = the sum of the bytes of group g."""
    for g in range(groups):
        total = _NONE
        for k in range(at + g * GROUP, at + (g + 1) * GROUP):
            total += np.int32(x[k])
        to[first + g] = total


@kernel
def quantize(a: I64, x: F32, rows_x: I64, p: F32, s: F32, rows: I64) -> None:
    """QUANTIZE: leave x[rows_x[i] + src] in the scratch of every row i as the format's product
    reads it, and its unit beside it: that of the range [-fixed, fixed], or of the row's own where
    fixed is 0."""
    n, format, fixed = a[0], a[6], p[a[4]]
    limit = _LIMIT16 if format in (_INT8_INT16, _INT4_INT16) else _LIMIT8
    unit, inverse = fixed / limit, limit / fixed if fixed > 0 else _0
    for k in range(rows.size):
        i, r = rows_x[k] + a[1], rows[k]
        if fixed > 0:
            s[r + a[3]] = unit if _finite(x, i, n) else _NAN
        else:
            size = _size(x, i, n)
            s[r + a[3]], inverse = size / limit, limit / size
        if format == _INT8_INT8:
            _round_bytes(x, i, n, inverse, False, s.view(np.int8), 4 * (r + a[2]), FLIP)
        else:
            _write(x, i, n, inverse, format, s, r + a[2])


@kernel
def _write(x: F32, i: int, n: int, inverse: np.float32, format: int, s: F32, to: int) -> None:
    """round(x inverse) from the word `to` of the scratch on, in the format's arrangement."""
    bytes8 = s.view(np.int8)
    if format == _INT8_INT16 and SHORTS:
        _round_shorts(x, i, n, inverse, s.view(np.int16), 2 * to)
        return
    grouped, wide = format in (_INT4_INT8, _INT4_INT16), format in (_INT8_INT16, _INT4_INT16)
    at, each, flip = 4 * to, GROUP if grouped else EACH, 0 if grouped else FLIP
    length = (n + each - 1) // each * each
    if wide:  # what is written beyond the upper bytes' end, the lower ones then replace
        _round_bytes(x, i, n, inverse, True, bytes8, at, flip)
    low = at + length if wide else at
    _round_bytes(x, i, n, inverse, False, bytes8, low, flip)
    if grouped:
        groups = (low - at + length) // GROUP
        _sum_groups(bytes8, at, groups, s.view(np.int32), to + groups * GROUP // 4)
