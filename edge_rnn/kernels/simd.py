"""Vectors for kernels: values with operators, so that a kernel reads as its equations.

    c = fma(f, load(c_old, j), i * g)
    store(h, j, o * tanh(c))

compiles to the vector instructions an expert would write, on x86 and ARM. A vector is LANES wide,
a register, unless a constant length is given: a longer one is held in several registers. Every
operation is exact IEEE arithmetic in its lane; no fast-math flag is ever set. Under
NUMBA_DISABLE_JIT=1 a vector is a NumPy array and each operation has the meaning written in its
Python body, bit for bit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import infer, infer_global, make_intrinsic_template
from numba.extending import models, register_model
from numpy.typing import NDArray

from edge_rnn.kernels.cpu import LEVEL

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

LANES = LEVEL.lanes
WIDE = 2 * LANES if LEVEL.lanes == 16 or LEVEL.machine == "aarch64" else LANES
"""How many lanes long chains of operations take at once: one register's wait for each other, and
where there are 32 registers there is room for another's between them."""

_LEFT_OUT = types.Omitted(LANES)
_ELEMENTS = {
    "float32": ir.FloatType(),
    "int32": ir.IntType(32),
    "int16": ir.IntType(16),
    "int8": ir.IntType(8),
    "bool": ir.IntType(1),
}


class Vector(types.Type):
    """`count` numbers of a type in registers."""

    def __init__(self, element: str, count: int) -> None:
        self.element, self.count = element, count
        super().__init__(name=f"{element}x{count}")

    @property
    def key(self) -> tuple[str, int]:
        """Two vectors of the same numbers and length are one type."""
        return self.element, self.count

    @property
    def llvm(self) -> ir.VectorType:
        """The type that LLVM knows it by."""
        return ir.VectorType(_ELEMENTS[self.element], self.count)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def load(a: NDArray[Any], i: int, n: int = LANES) -> F32:
    """a[i : i + n] of a float32 array, or of int8 or float16 (as int16) ones, widened exactly."""
    part = a[i : i + n]
    return part.view(np.float16).astype(np.float32) if a.dtype == np.int16 else part.astype("f4")


def store(a: F32, i: int, v: F32) -> None:
    """a[i : i + n] = v."""
    a[i : i + v.size] = v


def splat(x: np.float32, n: int = LANES) -> F32:
    """x in every lane."""
    v = np.empty(n, np.float32)  # np.full does the same in twice the time
    v.fill(x)
    return v


def full_like(v: F32, x: np.float32) -> F32:
    """x in as many lanes as v has."""
    return splat(x, v.size)


def joined(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """a, then b: one vector of both."""
    return np.concatenate([a, b])


def fma(a: F32, b: F32, c: F32) -> F32:
    """a b + c with one rounding (IEEE 754 fusedMultiplyAdd)."""
    product: F64 = np.multiply(a, b, dtype=np.float64)  # exact
    total: F64 = product + c
    rounded = total.astype(np.float32)
    if _tied(total, rounded):
        rounded = _rounded_to_odd(product, c, total).astype(np.float32)
    return rounded


def _tied(total: F64, rounded: F32) -> bool:
    """Whether a number of `total` may lie half-way between two of float32, the only place where
    rounding twice could go wrong. Its last 28 bits are zeros, then, and it is none of float32."""
    low = total.view(np.int64) << 36
    return bool(np.count_nonzero(low) < low.size) and bool(np.any((low == 0) & (rounded != total)))


def _rounded_to_odd(product: F64, c: F32, total: F64) -> F64:
    """product + c, whose rounded value is `total`, rounded to odd where that is inexact: it keeps
    what a second rounding, to float32, needs to know (Boldo and Melquiond, 2008)."""
    part = total - product
    error = (product - (total - part)) + (c - part)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    toward = np.where((error > 0) == (total > 0), 1, -1)
    return (bits + np.where(inexact, toward, 0)).view(np.float64)


def sqrt(a: F32) -> F32:
    """The square root, rounded once (IEEE 754 squareRoot)."""
    return np.sqrt(a)


def part(v: F32, k: int, n: int) -> F32:
    """The k-th n numbers of a vector."""
    return v[k * n : (k + 1) * n]


def leading(v: F32, n: int) -> F32:
    """The first n numbers of a vector, 0 in the other lanes."""
    return np.where(np.arange(v.size) < n, v, np.float32(0))


def less(a: F32, b: F32) -> NDArray[np.bool_]:
    """a < b in each lane; false where either is NaN."""
    return np.asarray(a < b)


def select(m: NDArray[np.bool_], a: F32, b: F32) -> F32:
    """a where m, else b."""
    return np.where(m, a, b)


def any_nan(v: F32) -> bool:
    """Is a number of the vector NaN?"""
    return bool(np.isnan(v).any())


def constant(n: Any) -> int:
    """The value of a length in a kernel's types: a literal, or a default that was left out."""
    return int(n.value if isinstance(n, types.Omitted) else n.literal_value)


def function(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """An LLVM intrinsic's declaration."""
    kind = ir.FunctionType(result, list(arguments))
    return cgutils.get_or_insert_function(builder.module, kind, name)


def address(builder: Any, context: Any, array_type: Any, array: Any, index: Any, kind: Any) -> Any:
    """&array[index] as a pointer to `kind`."""
    at = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    return builder.bitcast(at, kind.as_pointer())


def spread(builder: Any, scalar: Any, n: int) -> Any:
    """The number in every one of n lanes."""
    undefined = ir.Constant(ir.VectorType(scalar.type, n), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), n), [0] * n)
    return builder.shuffle_vector(first, undefined, zeros)


def _widened(builder: Any, v: Any, floats: Any) -> Any:
    """Finite float16 numbers, by an instruction or by moving their bits to where float32 has
    them and multiplying by the difference of the exponents' biases, which is exact."""
    if LEVEL.halves:
        return builder.fpext(builder.bitcast(v, ir.VectorType(ir.HalfType(), v.type.count)), floats)

    def all_lanes(kind: Any, x: float) -> Any:
        return ir.Constant(kind, [x] * floats.count)

    words = ir.VectorType(ir.IntType(32), floats.count)
    v = builder.zext(v, words)
    size = builder.shl(builder.and_(v, all_lanes(words, 0x7FFF)), all_lanes(words, 13))
    size = builder.fmul(builder.bitcast(size, floats), all_lanes(floats, 2.0**112))
    sign = builder.shl(builder.and_(v, all_lanes(words, 0x8000)), all_lanes(words, 16))
    return builder.bitcast(builder.or_(builder.bitcast(size, words), sign), floats)


def _load(typing: Any, a: Any, i: Any, n: Any = _LEFT_OUT) -> Any:
    floats = Vector("float32", constant(n))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = {types.int8: "int8", types.int16: "int16"}.get(a.dtype, "float32")
        kind = Vector(stored, floats.count).llvm
        at = address(builder, context, signature.args[0], args[0], args[1], kind)
        v = builder.load(at, align=1 if stored == "int8" else 2 if stored == "int16" else 4)
        if stored == "int8":
            return builder.sitofp(v, floats.llvm)
        if stored == "int16":
            return _widened(builder, v, floats.llvm)
        return v

    return floats(a, types.intp, n), generate


def _store(typing: Any, a: Any, i: Any, v: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = address(builder, context, signature.args[0], args[0], args[1], v.llvm)
        builder.store(args[2], at, align=4)
        return context.get_dummy_value()

    return types.void(a, types.intp, v), generate


def _splat(typing: Any, x: Any, n: Any = _LEFT_OUT) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return spread(builder, args[0], constant(n))

    return Vector("float32", constant(n))(types.float32, n), generate


def _full_like(typing: Any, v: Any, x: Any) -> Any:
    return v(v, types.float32), lambda context, builder, s, args: spread(builder, args[1], v.count)


def _joined(typing: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = ir.VectorType(ir.IntType(32), 2 * a.count)
        return builder.shuffle_vector(*args, ir.Constant(places, list(range(2 * a.count))))

    return Vector(a.element, 2 * a.count)(a, a), generate


def _fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = f"llvm.fma.v{a.count}f32"
        return builder.call(function(builder, name, a.llvm, *[a.llvm] * 3), args)

    return a(a, a, a), generate


def _sqrt(typing: Any, a: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = f"llvm.sqrt.v{a.count}f32"
        return builder.call(function(builder, name, a.llvm, a.llvm), args)

    return a(a), generate


def _part(typing: Any, v: Any, k: Any, n: Any) -> Any:
    first, count = constant(k) * constant(n), constant(n)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(v.llvm, ir.Undefined)
        places = ir.VectorType(ir.IntType(32), count)
        order = ir.Constant(places, list(range(first, first + count)))
        return builder.shuffle_vector(args[0], undefined, order)

    return Vector(v.element, count)(v, k, n), generate


def _leading(typing: Any, v: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = ir.VectorType(ir.IntType(32), v.count)
        count = spread(builder, builder.trunc(args[1], ir.IntType(32)), v.count)
        kept = builder.icmp_signed("<", ir.Constant(words, list(range(v.count))), count)
        return builder.select(kept, args[0], ir.Constant(v.llvm, None))

    return v(v, types.intp), generate


def _less(typing: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fcmp_ordered("<", *args)

    return Vector("bool", a.count)(a, a), generate


def _select(typing: Any, m: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return a(m, a, a), generate


def _any_nan(typing: Any, v: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = ir.IntType(v.count)
        lanes = builder.bitcast(builder.fcmp_unordered("uno", args[0], args[0]), mask)
        return builder.icmp_unsigned("!=", lanes, mask(0))

    return types.boolean(v), generate


def _binary(instruction: str) -> Any:
    def operation(typing: Any, a: Any, b: Any) -> Any:
        if not isinstance(a, Vector) or a.element != "float32" or a != b:
            return None  # an operator has other meanings too

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args)

        return a(a, a), generate

    return operation


def _neg(typing: Any, a: Any) -> Any:
    if not isinstance(a, Vector) or a.element != "float32":
        return None
    return a(a), lambda context, builder, signature, args: builder.fneg(args[0])


_add, _sub, _mul, _div = (_binary(i) for i in ("fadd", "fsub", "fmul", "fdiv"))


def lower(function: Any, typed: Callable[..., Any]) -> None:
    """Compiled code that calls `function` gets what `typed` generates in its place.

    typed: (typing context, types of the arguments) -> (signature, generator of LLVM code), or None
    for types it is not for. Unlike a function that is called it takes no time to compile.
    """
    name = f"{function.__name__} of vectors"
    template = make_intrinsic_template(function, typed, name, prefer_literal=True, kwargs={})
    infer(template)
    infer_global(function, types.Function(template))


lower(load, _load)
lower(store, _store)
lower(splat, _splat)
lower(full_like, _full_like)
lower(joined, _joined)
lower(fma, _fma)
lower(sqrt, _sqrt)
lower(part, _part)
lower(leading, _leading)
lower(less, _less)
lower(select, _select)
lower(any_nan, _any_nan)
lower(operator.add, _add)
lower(operator.sub, _sub)
lower(operator.mul, _mul)
lower(operator.truediv, _div)
lower(operator.neg, _neg)
