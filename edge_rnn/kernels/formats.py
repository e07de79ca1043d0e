"""Number formats of products, and how weights and activations lie in memory for them.

Weights are packed [N / BLOCK][K / each][BLOCK][each]: the outputs of a block lie side by side for
each group of `each` inputs, so that a lane adds its own products.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import GROUP
from edge_rnn.kernels.cpu import LEVEL

BLOCK = max(32, 4 * LEVEL.lanes)
"""Outputs that lie side by side: four registers' worth, whose sums end while others begin."""
BY_UNIT = LEVEL.lanes * 4 == BLOCK and LEVEL.name != "avxvnni"
"""A block may be a register of each of an LSTM's four gates, and products go on to its gates. With
AVX-VNNI two rows share a load of weights, but there are no registers for what both leave."""

EACH = 8
"""Integer activations are filled up to a multiple of it."""

FLIP = -128 if LEVEL.dot == "vnni" else 0
"""What an activation's byte is combined with, exclusive or, when it meets signed weights."""

LIMITS = {"int8": 127, "int16": 127 * 256}
"""The largest |q|; both bytes of an int16 activation fit an int8."""

PARTIALS = 16
"""Words of room for the partial sums over a row's features."""


class Format(IntEnum):
    """Weights and activations of a product. A number is also a place in the runner's dispatch."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT8 = 2
    """int8 weights, widened to float32."""
    INT8_INT8 = 3
    INT8_INT16 = 4
    INT4_INT8 = 5
    INT4_INT16 = 6


NIBBLES_BY_OUTPUT = LEVEL.dot == "vnni"
"""A byte holds the 4-bit weights of two outputs for one input, else of one output for two: where
bytes of weights are unsigned, one output is what a byte gives less what its upper half does."""


def pack(w: NDArray[Any], each: int = 1, block: int = BLOCK) -> NDArray[Any]:
    """w (N, K) as [N / block][K / each][block][each], zeros filling it up to whole groups."""
    n, k = w.shape
    full = np.zeros((-(-n // block) * block, -(-k // each) * each), w.dtype)
    full[:n, :k] = w
    blocks = full.reshape(-1, block, full.shape[1] // each, each)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(-1)


def pack_nibbles(w: NDArray[np.int8]) -> NDArray[np.int8]:
    """w (N, K) in [-8, 7] plus 8, two a byte: of each GROUP of inputs the first half lies in the
    lower four bits, the second half in the upper four; or so of each block of outputs."""
    n, k = w.shape
    if NIBBLES_BY_OUTPUT:
        full = np.full((-(-n // BLOCK) * BLOCK, -(-k // GROUP) * GROUP), 8, np.int8)
        full[:n, :k] += w
        low, high = full.reshape(-1, 2, BLOCK // 2, full.shape[1]).swapaxes(0, 1)
        return pack((high << 4 | low).reshape(-1, full.shape[1]), 4, BLOCK // 2)
    full = np.zeros((n, -(-k // GROUP), 2, GROUP // 2), np.int8)
    full.reshape(n, -1)[:, :k] = w
    both = ((full[:, :, 1] + 8) << 4) | (full[:, :, 0] + 8)
    packed = pack(both.reshape(n, -1), 4)
    rest = np.zeros((-(-n // BLOCK) * BLOCK, both.shape[1] * GROUP // 2), bool)
    rest[n:] = True
    packed[pack(rest, 4)] = -120  # 8 and 8: zeros
    return packed
