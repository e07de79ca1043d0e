"""Arrays from addresses: one array of addresses and sizes tells a kernel of all that it works on,
so that calling it costs the same however many there are."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import numpy_support
from numba.np.arrayobj import populate_array
from numpy.typing import DTypeLike, NDArray

from edge_rnn.kernels.simd import lower


def viewer(dtype: DTypeLike) -> Any:
    """A function (context, i) -> the array of `dtype` that lies at context[2 i] and has
    context[2 i + 1] elements."""
    kind = np.dtype(dtype)
    array = types.Array(numpy_support.from_dtype(kind), 1, "C")

    @intrinsic
    def _view(typing: Any, where: Any, size: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = context.make_array(array)(context, builder)
            itemsize = ir.Constant(args[1].type, kind.itemsize)
            populate_array(
                made,
                data=builder.inttoptr(args[0], made.data.type),
                shape=cgutils.pack_array(builder, [args[1]]),
                strides=cgutils.pack_array(builder, [itemsize]),
                itemsize=itemsize,
                meminfo=None,
            )
            return made._getvalue()

        return array(types.intp, types.intp), generate

    def view(context: NDArray[np.int64], i: int) -> NDArray[Any]:
        where, size = int(context[2 * i]), int(context[2 * i + 1])
        if not size:
            return np.empty(0, kind)
        memory: Any = (ctypes.c_char * (size * kind.itemsize)).from_address(where)
        return np.ndarray(size, kind, memory)

    lower(view, lambda context, i: _view(context[2 * i], context[2 * i + 1]))
    return view


def describe(arrays: list[NDArray[Any]], *numbers: int) -> NDArray[np.int64]:
    """The context of C-contiguous arrays, which the caller keeps alive, and more numbers."""
    places = [n for a in arrays for n in (a.ctypes.data, a.size)]
    return np.array([*places, *numbers], np.int64)
