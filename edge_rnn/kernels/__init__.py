"""The compiled part: one function steps any model.

Arithmetic is IEEE float32 add, multiply, divide, compare and select in a fixed order, with no
fast-math and no libm, so that a result depends on nothing but its operands.
"""

from edge_rnn.kernels.cache import announce, compile_cache
from edge_rnn.kernels.cpu import LEVEL

announce()
with compile_cache():
    from edge_rnn.kernels.dots import FLIP
    from edge_rnn.kernels.norms import PARTIALS
    from edge_rnn.kernels.opcodes import (
        ADD,
        FROM_SCRATCH,
        FROM_STATE,
        FROM_WINDOWS,
        LENGTHS,
        PLACES,
        Op,
    )
    from edge_rnn.kernels.products import BLOCK, EACH, Format, pack, pack_nibbles
    from edge_rnn.kernels.quantizing import LIMITS
    from edge_rnn.kernels.runner import (
        SLOT,
        Status,
        admit,
        emit_to,
        evict_order,
        explain,
        freeze,
        make_context,
        step,
        touch,
    )
    from edge_rnn.kernels.windows import record

__all__ = [
    "ADD",
    "BLOCK",
    "EACH",
    "FLIP",
    "FROM_SCRATCH",
    "FROM_STATE",
    "FROM_WINDOWS",
    "LENGTHS",
    "LEVEL",
    "LIMITS",
    "PARTIALS",
    "PLACES",
    "SLOT",
    "Format",
    "Op",
    "Status",
    "admit",
    "compile_cache",
    "emit_to",
    "evict_order",
    "explain",
    "freeze",
    "make_context",
    "pack",
    "pack_nibbles",
    "record",
    "step",
    "touch",
]
