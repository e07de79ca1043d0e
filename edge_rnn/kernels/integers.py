"""Vectors of int32 for kernels, and the ways between them and float32 or bytes.

Under NUMBA_DISABLE_JIT=1 each operation has the meaning written in its Python body.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from edge_rnn.kernels.simd import F32, I32, Vector, address, constant, function, lower, spread

I8 = NDArray[np.int8]
I16 = NDArray[np.int16]

ROUND = np.float32(3 << 22)
"""Added to a small number it leaves no room for a fraction: the sum's low bits are the number,
rounded to nearest, ties to even."""

_I8, _I16, _I32 = (ir.IntType(bits) for bits in (8, 16, 32))


def ints(a: I32, i: int, n: int) -> I32:
    """a[i : i + n] of an int32 array."""
    return a[i : i + n]


def same(x: np.int32, n: int) -> I32:
    """The int32 x in each of n lanes."""
    return np.full(n, x, np.int32)


def to_float(a: I32) -> F32:
    """int32 to float32, rounded to nearest, ties to even."""
    return a.astype(np.float32)


def add(a: I32, b: I32) -> I32:
    """a + b of int32 vectors."""
    return a + b


def subtract(a: I32, b: I32) -> I32:
    """a - b of int32 vectors."""
    return a - b


def shift(a: I32, bits: int) -> I32:
    """a >> bits, rounding down."""
    return a >> bits


def shift_up(a: I32, bits: int) -> I32:
    """a << bits, of which the lowest 32 bits are kept."""
    return a << bits


def low_byte(a: I32) -> I32:
    """a mod 256."""
    return a & 255


def bits(v: F32) -> I32:
    """The bits of float32 numbers."""
    return v.view(np.int32)


def from_bits(a: I32) -> F32:
    """The float32 numbers that have these bits."""
    return a.view(np.float32)


def larger_size(a: I32, v: F32) -> I32:
    """The larger of a and the bits of |v|, which are in the order of |v|, NaN above all."""
    return np.maximum(a, v.view(np.int32) & 0x7FFFFFFF)


def largest(a: I32) -> np.float32:
    """The largest number of a, whose bits are a float32's."""
    return a.max().view(np.float32)


def store_shorts(a: I16, i: int, v: I32) -> None:
    """a[i : i + n] = the lower 16 bits of each number."""
    a[i : i + v.size] = v.astype(np.uint16).view(np.int16)


def store_bytes(a: I8, i: int, v: I32) -> None:
    """a[i : i + n] = the lowest byte of each number."""
    a[i : i + v.size] = v.astype(np.uint8).view(np.int8)


def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """The value of an LLVM intrinsic."""
    kinds = [a.type for a in arguments]
    return builder.call(function(builder, name, result, *kinds), arguments)


def loader(element: str, each: int, align: int) -> Any:
    """An intrinsic (array, i, n) -> n times `each` numbers from array[i] on."""

    def load(typing: Any, a: Any, i: Any, n: Any) -> Any:
        kind = Vector(element, each * constant(n))

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = address(builder, context, signature.args[0], args[0], args[1], kind.llvm)
            return builder.load(at, align=align)

        return kind(a, types.intp, n), generate

    return load


_ints = loader("int32", 1, 4)


def _same(typing: Any, x: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return spread(builder, args[0], constant(n))

    return Vector("int32", constant(n))(types.int32, n), generate


def each(build: Any, element: str | None = None) -> Any:
    """An intrinsic on one vector: build(builder, value, LLVM type of the result)."""

    def operation(typing: Any, a: Any) -> Any:
        result = Vector(element or a.element, a.count)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return build(builder, args[0], result.llvm)

        return result(a), generate

    return operation


_low_byte = each(lambda b, v, t: b.and_(v, ir.Constant(t, [255] * t.count)))
_to_float = each(lambda b, v, t: b.sitofp(v, t), "float32")
_bits = each(lambda b, v, t: b.bitcast(v, t), "int32")
_from_bits = each(lambda b, v, t: b.bitcast(v, t), "float32")


def _add(typing: Any, a: Any, b: Any) -> Any:
    return a(a, a), lambda context, builder, signature, args: builder.add(*args)


def _subtract(typing: Any, a: Any, b: Any) -> Any:
    return a(a, a), lambda context, builder, signature, args: builder.sub(*args)


def _shifted(instruction: str) -> Any:
    def operation(typing: Any, a: Any, n: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            by = ir.Constant(a.llvm, [constant(n)] * a.count)
            return getattr(builder, instruction)(args[0], by)

        return a(a, n), generate

    return operation


_shift, _shift_up = _shifted("ashr"), _shifted("shl")


def _larger_size(typing: Any, a: Any, v: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = builder.bitcast(args[1], a.llvm)
        size = builder.and_(size, ir.Constant(a.llvm, [0x7FFFFFFF] * a.count))
        return builder.select(builder.icmp_signed("<", args[0], size), size, args[0])

    return a(a, v), generate


def _largest(typing: Any, a: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = f"llvm.vector.reduce.smax.v{a.count}i32"
        return builder.bitcast(call(builder, name, _I32, args[0]), ir.FloatType())

    return types.float32(a), generate


def _store_shorts(typing: Any, a: Any, i: Any, v: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(_I16, v.count)
        at = address(builder, context, signature.args[0], args[0], args[1], kind)
        builder.store(builder.trunc(args[2], kind), at, align=2)
        return context.get_dummy_value()

    return types.void(a, types.intp, v), generate


def _store_bytes(typing: Any, a: Any, i: Any, v: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(_I8, v.count)
        at = address(builder, context, signature.args[0], args[0], args[1], kind)
        builder.store(builder.trunc(args[2], kind), at, align=1)
        return context.get_dummy_value()

    return types.void(a, types.intp, v), generate


lower(ints, _ints)
lower(same, _same)
lower(to_float, _to_float)
lower(add, _add)
lower(subtract, _subtract)
lower(shift, _shift)
lower(shift_up, _shift_up)
lower(low_byte, _low_byte)
lower(bits, _bits)
lower(from_bits, _from_bits)
lower(larger_size, _larger_size)
lower(largest, _largest)
lower(store_shorts, _store_shorts)
lower(store_bytes, _store_bytes)
