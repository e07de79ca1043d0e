"""The compiled part: one function steps any model.

Arithmetic is IEEE float32 add, multiply, divide, compare and select in a fixed order, with no
fast-math and no libm, so that a result depends on nothing but its operands.
"""

from edge_rnn.kernels.cache import compile_cache

with compile_cache():
    from edge_rnn.kernels.layers import PLACES
    from edge_rnn.kernels.runner import SLOT, Status, evict_order, freeze, step, touch

__all__ = ["PLACES", "SLOT", "Status", "compile_cache", "evict_order", "freeze", "step", "touch"]
