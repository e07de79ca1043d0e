"""The kernels that Python calls, each with the types that it takes. Numba is not imported for them:
they are object code from the cache, or compiled into it first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from edge_rnn.kernels.cache import object_code
from edge_rnn.kernels.context import SLOT
from edge_rnn.kernels.native import load

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
"""No kernel is compiled: each has a meaning in NumPy, for debugging and coverage."""

WRONG_TYPE = -1
"""What an entry returns for arrays of other types; nothing was done then."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array (of `ndim` dimensions), C-contiguous, aligned, writable and no subclass."""

    dtype: np.dtype[Any]
    ndim: int = 1

    def takes(self, a: Any) -> bool:
        """Is it one?"""
        plain = type(a) is np.ndarray and a.flags.carray and a.ndim == self.ndim
        return plain and a.dtype == self.dtype


Kind: TypeAlias = Array | type[int] | type[float] | type[object]
"""What an argument is; of an `object` the kernel gets the address."""


class Entry:
    """A function of a module of kernels. Called with as many arguments as it has kinds it returns a
    number, or WRONG_TYPE. It runs without the interpreter's lock, unless it takes an object, or is
    brief: the first argument, a context, says up to which length of argument `counted` it is."""

    def __init__(self, module: str, name: str, *kinds: Kind, counted: int = 0) -> None:
        self.module, self.name, self.kinds, self.counted = module, name, kinds, counted

    @cached_property
    def function(self) -> Callable[..., int]:
        """The function itself, which costs less to call; it is loaded, or compiled, now."""
        library = next(name for name, entries in LIBRARIES.items() if self in entries)
        return _functions(library)[self.name]

    def __call__(self, *arguments: Any) -> int:
        """Call the function."""
        return self.function(*arguments)

    def interpreted(self) -> Callable[..., int]:
        """The function with the JIT off."""
        function = getattr(import_module(f"edge_rnn.kernels.{self.module}"), self.name)

        def checked(*arguments: Any) -> int:
            kinds = zip(self.kinds, arguments, strict=True)
            if not all(kind.takes(a) for kind, a in kinds if isinstance(kind, Array)):
                return WRONG_TYPE
            given = [
                id(a) if kind is object else a
                for kind, a in zip(self.kinds, arguments, strict=True)
            ]
            return int(function(*given) or 0)

        return checked


def _array(dtype: DTypeLike, ndim: int = 1) -> Array:
    return Array(np.dtype(dtype), ndim)


_I64, _I32, _I8, _MARKS, _F32, _ROWS, _WINDOWS, _TABLE = (
    *(_array(t) for t in (np.int64, np.int32, np.int8, np.bool_, np.float32)),
    *(_array(np.float32, ndim) for ndim in (2, 3)),
    _array(SLOT),
)

step = Entry("runner", "step", _I64, float, _I64, _ROWS, _ROWS, counted=2)
admit = Entry("runner", "admit", _TABLE, _I64, float, _I64, _ROWS, _I64)
touch = Entry("runner", "touch", _TABLE, _I64, float)
evict_order = Entry("runner", "evict_order", _TABLE, _I64)
record = Entry("windows", "record", _ROWS, _I64, _I64, _ROWS, _MARKS, _WINDOWS)
find = Entry("ids", "find", _I64, object, _I64)
enter = Entry("ids", "enter", _I64, object, int)
leave = Entry("ids", "leave", _I64, object, int)
stream = Entry("limits", "stream", _I32, int, _F32)
dot_peak = Entry("limits", "dot_peak", _I8, _I8, int, _F32)
fma_peak = Entry("limits", "fma_peak", _F32, _F32, int, _F32)

SESSION = "session"
LIBRARIES = {
    SESSION: (step, admit, touch, evict_order, record, find, enter, leave),
    "limits": (stream, dot_peak, fma_peak),
}
"""What is compiled together; a session needs but the first."""


@cache
def _functions(library: str) -> Mapping[str, Callable[..., int]]:
    entries = LIBRARIES[library]
    if INTERPRETED:
        return {e.name: e.interpreted() for e in entries}
    return load(object_code(library), [e.name for e in entries])
