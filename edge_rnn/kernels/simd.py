"""Vectors of float32 for kernels: values with operators, so that a kernel reads as its equations.

    c = fma(f, load(c_old, j), i * g)
    store(h, j, o * tanh(c))

compiles to the vector instructions an expert would write, on x86 and ARM. Every operation is exact
IEEE arithmetic in its lane; no fast-math flag is ever set. Under NUMBA_DISABLE_JIT=1 a vector is a
NumPy array and each operation has the meaning written in its Python body, bit for bit.
"""

from __future__ import annotations

import operator
import platform
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def _lanes() -> int:
    """8 where 256-bit registers are, else 4; a result never depends on it."""
    wide = platform.machine() == "x86_64" and llvm.get_host_cpu_features().get("avx2", False)
    return 8 if wide else 4


LANES = _lanes()
_FLOAT = ir.VectorType(ir.FloatType(), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


class _Vector(types.Type):
    """LANES float32 numbers in a register."""


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _FLOAT)


class _Mask(types.Type):
    """LANES truth values."""


@register_model(_Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(ir.IntType(1), LANES))


vector, mask = _Vector(name=f"float32x{LANES}"), _Mask(name=f"bool x{LANES}")


def load(a: NDArray[Any], i: int) -> F32:
    """a[i : i + LANES] of a float32 array, or of an int8 one, widened exactly."""
    return a[i : i + LANES].astype(np.float32)


def store(a: F32, i: int, v: F32) -> None:
    """a[i : i + LANES] = v."""
    a[i : i + LANES] = v


def splat(x: np.float32) -> F32:
    """x in every lane."""
    return np.full(LANES, x, np.float32)


def fma(a: F32, b: F32, c: F32) -> F32:
    """a b + c with one rounding (IEEE 754 fusedMultiplyAdd)."""
    # The product is exact in float64. Rounding the sum to odd keeps what the second rounding, to
    # float32, needs to know (Boldo and Melquiond, 2008).
    product = np.multiply(a, b, dtype=np.float64)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    bits = np.atleast_1d(total).view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    toward = np.where((error > 0) == (total > 0), 1, -1)
    odd = (bits + np.where(inexact, toward, 0)).view(np.float64)
    return odd.astype(np.float32)


def sqrt(a: F32) -> F32:
    """The square root, rounded once (IEEE 754 squareRoot)."""
    return np.sqrt(a)


def less(a: F32, b: F32) -> NDArray[np.bool_]:
    """a < b in each lane; false where either is NaN."""
    return np.asarray(a < b)


def select(m: NDArray[np.bool_], a: F32, b: F32) -> F32:
    """a where m, else b."""
    return np.where(m, a, b)


def scale2(a: F32, n: F32) -> F32:
    """a 2^n for a whole n, added to the exponent's bits: a and the result must be normal."""
    # A float32 near 1.5 2^23 has its whole number in its last bits.
    whole = (n + np.float32(12582912)).view(np.int32) << 23
    scaled: F32 = (a.view(np.int32) + whole).view(np.float32)
    return scaled


def _pointer(builder: Any, context: Any, array_type: Any, array: Any, index: Any) -> Any:
    """The address of array[index]."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _as_vector(builder: Any, pointer: Any, kind: Any) -> Any:
    return builder.bitcast(pointer, kind.as_pointer())


@intrinsic
def _load(typing: Any, a: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = _pointer(builder, context, signature.args[0], *args)
        if signature.args[0].dtype is types.int8:
            return builder.sitofp(builder.load(_as_vector(builder, at, _BYTES), align=1), _FLOAT)
        return builder.load(_as_vector(builder, at, _FLOAT), align=4)

    return vector(a, types.intp), generate


@intrinsic
def _store(typing: Any, a: Any, i: Any, v: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = _pointer(builder, context, signature.args[0], *args[:2])
        builder.store(args[2], _as_vector(builder, at, _FLOAT), align=4)
        return context.get_dummy_value()

    return types.void(a, types.intp, v), generate


@intrinsic
def _splat(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(_FLOAT, ir.Undefined)
        first = builder.insert_element(undefined, args[0], ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(first, undefined, zeros)

    return vector(types.float32), generate


@intrinsic
def _fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_FLOAT, [_FLOAT] * 3)
        name = f"llvm.fma.v{LANES}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return vector(vector, vector, vector), generate


@intrinsic
def _sqrt(typing: Any, a: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_FLOAT, [_FLOAT])
        name = f"llvm.sqrt.v{LANES}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return vector(vector), generate


@intrinsic
def _less(typing: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fcmp_ordered("<", *args)

    return mask(vector, vector), generate


@intrinsic
def _select(typing: Any, m: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return vector(mask, vector, vector), generate


@intrinsic
def _scale2(typing: Any, a: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        magic = ir.Constant(_FLOAT, [12582912.0] * LANES)
        whole = builder.bitcast(builder.fadd(args[1], magic), _INTS)
        bits = builder.shl(whole, ir.Constant(_INTS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(args[0], _INTS), bits), _FLOAT)

    return vector(vector, vector), generate


def _binary(instruction: str) -> Any:
    @intrinsic
    def operation(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args)

        return vector(vector, vector), generate

    return operation


_add, _sub, _mul, _div = (_binary(i) for i in ("fadd", "fsub", "fmul", "fdiv"))


def _lower(function: Any, implementation: Callable[..., Any]) -> None:
    """Compiled code that calls `function` with these arguments gets `implementation`."""
    overload(function, strict=False)(lambda *_: implementation)


def _lower_operator(function: Any, implementation: Callable[..., Any]) -> None:
    """The same for an operator, between two vectors."""
    overload(function, strict=False)(lambda a, b: implementation if a is b is vector else None)


_lower(load, lambda a, i: _load(a, i))
_lower(store, lambda a, i, v: _store(a, i, v))
_lower(splat, lambda x: _splat(x))
_lower(fma, lambda a, b, c: _fma(a, b, c))
_lower(sqrt, lambda a: _sqrt(a))
_lower(less, lambda a, b: _less(a, b))
_lower(select, lambda m, a, b: _select(m, a, b))
_lower(scale2, lambda a, n: _scale2(a, n))
_lower_operator(operator.add, lambda a, b: _add(a, b))
_lower_operator(operator.sub, lambda a, b: _sub(a, b))
_lower_operator(operator.mul, lambda a, b: _mul(a, b))
_lower_operator(operator.truediv, lambda a, b: _div(a, b))
