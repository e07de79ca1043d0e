"""The compiled part: one function steps any model.

Arithmetic is IEEE float32 add, multiply, divide, compare and select in a fixed order, with no
fast-math and no libm, so that a result depends on nothing but its operands.

What stands here does not import Numba, which takes most of a second: `entries` are object code.
"""

from edge_rnn.kernels.context import (
    ID,
    NAME,
    SLOT,
    Status,
    emit_to,
    explain,
    make_context,
    make_ids,
)
from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.kernels.entries import (
    WRONG_TYPE,
    admit,
    enter,
    evict_order,
    find,
    leave,
    record,
    step,
    touch,
)
from edge_rnn.kernels.formats import (
    BLOCK,
    BY_UNIT,
    EACH,
    FLIP,
    LIMITS,
    PARTIALS,
    Format,
    pack,
    pack_nibbles,
)
from edge_rnn.kernels.memory import LINE, joined, zeros
from edge_rnn.kernels.opcodes import (
    ADD,
    FROM_SCRATCH,
    FROM_STATE,
    FROM_WINDOWS,
    LENGTHS,
    PLACES,
    Op,
)

__all__ = [
    "ADD",
    "BLOCK",
    "BY_UNIT",
    "EACH",
    "FLIP",
    "FROM_SCRATCH",
    "FROM_STATE",
    "FROM_WINDOWS",
    "ID",
    "LENGTHS",
    "LEVEL",
    "LIMITS",
    "LINE",
    "NAME",
    "PARTIALS",
    "PLACES",
    "SLOT",
    "WRONG_TYPE",
    "Format",
    "Op",
    "Status",
    "admit",
    "emit_to",
    "enter",
    "evict_order",
    "explain",
    "find",
    "joined",
    "leave",
    "make_context",
    "make_ids",
    "pack",
    "pack_nibbles",
    "record",
    "step",
    "touch",
    "zeros",
]
