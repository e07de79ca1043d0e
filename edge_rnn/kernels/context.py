"""What the compiled runner is told of beside a call's own rows, and what it says of a bad one."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels.memory import LINE
from edge_rnn.kernels.opcodes import PHASES

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

NAME = np.dtype(
    {"names": ["size", "long"], "formats": ["i4", "i8"], "offsets": [0, 8], "itemsize": LINE}
)
"""The id of a slot's stream: from byte ID on its `size` bytes in UTF-8. Where they don't fit, or
there are none as it has half a surrogate pair, `size` is LONG and `long` the address of the str."""
ID, LONG, NAME_SIZE = 4, -1, NAME.itemsize
ID_ROOM = NAME_SIZE - ID

ARRAYS = 13
"""How many arrays a context names; the numbers follow their places and sizes."""
_EMITTED = 10
BACK = 2 * ARRAYS + 5
"""Where a context says from which end on products read their weights (see `products.block`)."""
BRIEF = BACK + 1
"""Where a context says how many rows are stepped in less time than handing over the interpreter's
lock is worth."""
_BRIEF_BYTES = 1 << 19


class Status(IntEnum):
    """What was wrong with the first bad row; its place is returned beside it."""

    OK = 0
    STALE_SLOT = 1
    NOT_FINITE = 2
    BAD_INDEX = 3
    SHAPE = 4
    TYPE = 0xFF
    """An array of another type, or one that is not C-contiguous and writable."""


def explain(fault: int) -> tuple[Status, int, int]:
    """(what is wrong, row, column) from what an entry returned."""
    return Status(fault & 0xFF), fault >> 8 & 0xFFFFFFFF, fault >> 40


def make_context(
    code: NDArray[np.int64], int8s: NDArray[np.int8], halves: NDArray[np.int16], floats: F32,
    vocabularies: NDArray[np.int64], regime: NDArray[np.int64], slab: F32, table: NDArray[Any],
    scratch: F32, places: NDArray[np.int64], windows: NDArray[np.int64], inputs: int, outputs: int,
) -> NDArray[np.int64]:  # fmt: skip
    """What `step` needs beside a call's own rows: the places of arrays, which must stay alive.

    The program's `code`, weights `int8s`, `halves` and `floats`, `vocabularies` (n, 2) and `regime`
    (see `opcodes.PHASES`); the streams' `slab` (capacity, state words) and `table` (capacity + 1);
    room for the scratch of (rows, scratch words), for the `places` (2 PLACES, rows) of what is
    known of each row and for `windows` (2, rows times the most windows of a row); the widths of a
    row of `inputs` and of `outputs`.
    """
    arrays: list[NDArray[Any]] = [code, int8s, halves, floats, vocabularies, slab, table]
    arrays += [scratch, places, floats.view(np.int32), np.empty(0, np.uint8), windows, regime]
    located = [n for a in arrays for n in (a.ctypes.data, a.size)]
    rows, times = len(scratch), max(1, windows.shape[1] // len(scratch), regime[PHASES])
    brief = _BRIEF_BYTES // (times * (int8s.nbytes + halves.nbytes + floats.nbytes + 1))
    numbers = (slab.shape[1], rows, scratch.shape[1], inputs, outputs, 0, brief)
    return np.array([*located, *numbers], np.int64)


def emit_to(context: NDArray[np.int64], emitted: NDArray[np.uint8]) -> None:
    """Have `step` say in `emitted` (B,), which must stay alive, which rows have an output; an empty
    array ends that."""
    context[2 * _EMITTED : 2 * _EMITTED + 2] = emitted.ctypes.data, emitted.size


def make_ids(
    index: NDArray[np.int64], names: NDArray[Any], table: NDArray[Any], slab: F32
) -> NDArray[np.int64]:
    """What `find`, `enter` and `leave` need beside a call's own ids: the places of arrays, which
    must stay alive.

    An `index` of zeros, whose size is a power of two and at least twice the number of slots, and
    the streams' `names` (capacity,), `table` and `slab` (see `make_context`).
    """
    arrays = [n for a in (index, names, table, slab) for n in (a.ctypes.data, a.size)]
    return np.array([*arrays, slab.shape[1], *map(id, (str, list, tuple)), 0], np.int64)
