"""CRC-32C (Castagnoli), with which TensorFlow's checkpoints are checked; RFC 3720, appendix B.4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL, _ONES = 0x82F63B78, 0xFFFFFFFF
_LANES = 1024
_MASK = 0xA282EAD8


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of `data`.

    The data is read in lanes side by side, a byte of each at a time, whose remainders are then put
    together: that of A B is that of A, moved on over as many zeros as B has bytes, xor that of B.
    """
    if len(data) < 4:
        return _short(bytes(data))
    taken = np.frombuffer(data, np.uint8)
    length = -(-len(taken) // _LANES)
    rows = np.zeros(_LANES * length, np.uint8)  # zeros in front change nothing
    rows[len(rows) - len(taken) :] = taken
    start = len(rows) - len(taken)
    rows[start : start + 4] ^= 255  # begins with all ones
    columns = rows.reshape(_LANES, length).T
    state = np.zeros(_LANES, np.uint32)
    moved = np.uint32(1) << np.arange(32, dtype=np.uint32)  # what becomes of each bit
    for column in columns:
        state = _TABLE[(state ^ column) & 255] ^ (state >> 8)
        moved = _TABLE[moved & 255] ^ (moved >> 8)
    while len(state) > 1:
        state = _moved(moved, state[0::2]) ^ state[1::2]
        moved = _moved(moved, moved)
    return int(state[0]) ^ _ONES


def masked(data: bytes | memoryview) -> int:
    """The checksum as TensorFlow stores it, turned and shifted."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & _ONES


def _short(data: bytes) -> int:
    state = _ONES
    for byte in data:
        state = int(_TABLE[(state ^ byte) & 255]) ^ (state >> 8)
    return state ^ _ONES


def _moved(by: NDArray[np.uint32], state: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Remainders after the zeros that make of bit k by[k]."""
    made = np.zeros_like(state)
    for bit in range(32):
        made ^= (state >> np.uint32(bit) & np.uint32(1)) * by[bit]
    return made


def _table() -> NDArray[np.uint32]:
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = (state >> np.uint32(1)) ^ (state & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return state


_TABLE = _table()
