"""Arrays that begin where a cache line does: a vector as wide as a line is then one access to the
cache, not two."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LINE = 64
"""Bytes of a cache line."""


def zeros(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Like `np.zeros`, from the start of a line; memory is taken when it is first written."""
    kind: np.dtype[Any] = np.dtype(dtype)
    nbytes = prod(np.atleast_1d(shape).tolist()) * kind.itemsize
    room = np.zeros(nbytes + LINE, np.uint8)
    first = -room.ctypes.data % LINE
    return room[first : first + nbytes].view(kind).reshape(shape)


def joined(parts: Sequence[NDArray[Any]], dtype: DTypeLike) -> NDArray[Any]:
    """The one-dimensional parts one after the other, from the start of a line."""
    whole = zeros(sum(part.size for part in parts), dtype)
    if parts:
        np.concatenate(parts, out=whole)
    return whole
