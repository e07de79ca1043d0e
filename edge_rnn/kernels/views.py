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

from edge_rnn.kernels.entries import INTERPRETED
from edge_rnn.kernels.simd import address, function, lower

_BYTES = ir.IntType(8).as_pointer()


def viewer(dtype: DTypeLike) -> Any:
    """A function (context, i) -> the array of `dtype` that lies at context[2 i] and has
    context[2 i + 1] elements."""
    kind: np.dtype[Any] = np.dtype(dtype)
    # Not an overload: code without reference counts can't return an array from a function.
    return _interpreted(kind) if INTERPRETED else _compiled(kind)


def flat(a: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous array's numbers as one row."""
    return a.reshape(-1)


def in_rows(a: NDArray[Any], n: int) -> NDArray[Any]:
    """A row of numbers as n rows."""
    return a.reshape(n, a.size // n)


def prefetch(a: NDArray[Any], i: int) -> None:
    """Have the cache line of a[i] loaded, for a use that comes soon."""


def _prefetch(typing: Any, a: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        at = address(builder, context, signature.args[0], *args, ir.IntType(8))
        f = function(builder, "llvm.prefetch.p0", ir.VoidType(), byte, word, word, word)
        builder.call(f, [at, word(1), word(3), word(1)])  # for writing, to stay, data
        return context.get_dummy_value()

    return types.void(a, types.intp), generate


def _array(target: Any, builder: Any, kind: Any, data: Any, shape: list[Any]) -> Any:
    """A C-contiguous array of the Numba type `kind`."""
    made, word = target.make_array(kind)(target, builder), ir.IntType(64)
    size = target.get_abi_sizeof(target.get_data_type(kind.dtype))
    strides = [word(size)]
    for n in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], n))
    populate_array(
        made,
        data=builder.bitcast(data, made.data.type),
        shape=cgutils.pack_array(builder, shape),
        strides=cgutils.pack_array(builder, strides),
        itemsize=word(size),
        meminfo=None,
    )
    return made._getvalue()


def _flat(typing: Any, a: Any) -> Any:
    row = types.Array(a.dtype, 1, "C")

    def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = target.make_array(a)(target, builder, args[0])
        return _array(target, builder, row, given.data, [given.nitems])

    return row(a), generate


def _in_rows(typing: Any, a: Any, n: Any) -> Any:
    rows = types.Array(a.dtype, 2, "C")

    def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = target.make_array(a)(target, builder, args[0])
        shape = [args[1], builder.udiv(given.nitems, args[1])]
        return _array(target, builder, rows, given.data, shape)

    return rows(a, types.intp), generate


lower(flat, _flat)
lower(in_rows, _in_rows)
lower(prefetch, _prefetch)


def _interpreted(kind: np.dtype[Any]) -> Any:
    def view(context: NDArray[np.int64], i: int) -> NDArray[Any]:
        where, size = int(context[2 * i]), int(context[2 * i + 1])
        if not size:
            return np.empty(0, kind)
        memory: Any = (ctypes.c_char * (size * kind.itemsize)).from_address(where)
        return np.ndarray(size, kind, memory)

    return view


def _compiled(kind: np.dtype[Any]) -> Any:
    array = types.Array(numpy_support.from_dtype(kind), 1, "C")

    @intrinsic
    def view(typing: Any, context: Any, i: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
            numbers = target.make_array(signature.args[0])(target, builder, args[0]).data
            first = builder.shl(args[1], ir.Constant(args[1].type, 1))
            where, size = (
                builder.load(builder.gep(numbers, [builder.add(first, ir.Constant(first.type, k))]))
                for k in (0, 1)
            )
            return _array(target, builder, array, builder.inttoptr(where, _BYTES), [size])

        return array(context, types.intp), generate

    return view
