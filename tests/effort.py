"""How much the tests try: less where a step takes a thousand times as long.

That is so with the JIT off and on an emulated processor. EDGE_RNN_EFFORT says what share of the
examples and steps to take.
"""

from __future__ import annotations

import os

from hypothesis import settings
from numba import config

JIT = not config.DISABLE_JIT
_SHARE = float(os.environ.get("EDGE_RNN_EFFORT", "1" if JIT else "0.1"))


def fewer(n: int, least: int = 3) -> int:
    """n, or the share of it that is to be taken."""
    return max(round(n * _SHARE), min(least, n))


def examples(n: int) -> settings:
    """A test of a property tries n examples, or the share that is to be taken."""
    return settings(max_examples=fewer(n), deadline=None)
