"""Integer vectors: int8 dot products four by four, exact on every processor.

Activations x lie in [-128, 127] and weights w in [-127, 127], so that each instruction's partial
sums are exact: `vpdpbusd` multiplies unsigned by signed numbers (activations are kept as x + 128
there, and a sum starts from -128 times the sum of its weights, see FLIP and `start`), `pmaddubsw`
multiplies |x| by w with the sign of x, `smull` adds two products in 16 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.kernels.formats import FLIP
from edge_rnn.kernels.integers import I8, I16, call, each, loader
from edge_rnn.kernels.simd import I32, Vector, address, constant, lower, spread

_I8, _I16, _I32 = (ir.IntType(bits) for bits in (8, 16, 32))
_FOUR = ir.VectorType(_I32, 4)


def quads(w: I8, i: int, n: int) -> I8:
    """w[i : i + 4 n]: n groups of four weights."""
    return w[i : i + 4 * n]


def quad(x: I8, i: int, n: int) -> I8:
    """x[i : i + 4], n times: the four activations that meet n groups of weights."""
    return np.tile(x[i : i + 4], n)


def shorts(x: I16, i: int, n: int) -> I16:
    """x[i : i + 4], n times, of an int16 array: the activations that meet n groups of weights."""
    return np.tile(x[i : i + 4], n)


def two_quads(x: I8, i: int, n: int) -> tuple[I8, I8]:
    """`quad` at i and at i + 4."""
    return quad(x, i, n), quad(x, i + 4, n)


def dot4(a: I32, x: I8, w: I8) -> I32:
    """a_j + sum_q x_{4j+q} w_{4j+q}; x is unsigned where FLIP is set."""
    wide = x.view(np.uint8) if FLIP else x
    return (a + (wide.astype(np.int32) * w).reshape(-1, 4).sum(axis=1)).astype(np.int32)


def dot4_nibbles(a: I32, x: I8, w: I8) -> I32:
    """`dot4` of activations without FLIP and unsigned weights, in [0, 15] but with VNNI."""
    products = x.astype(np.int32) * w.view(np.uint8)
    return (a + products.reshape(-1, 4).sum(axis=1)).astype(np.int32)


def dot2(a: I32, x: I16, w: I8) -> I32:
    """a_j + x_{2j} w_{2j} + x_{2j+1} w_{2j+1} of int16 activations."""
    return (a + (x.astype(np.int32) * w).reshape(-1, 2).sum(axis=1)).astype(np.int32)


def dot8(a: I32, x: I8, w: I8, y: I8, v: I8) -> I32:
    """a_j + x_{2j} w_{2j} + x_{2j+1} w_{2j+1} + y_{2j} v_{2j} + y_{2j+1} v_{2j+1}."""
    both = x.astype(np.int32) * w + y.astype(np.int32) * v
    return (a + both.reshape(-1, 2).sum(axis=1)).astype(np.int32)


def pair_sums(a: I32) -> I32:
    """a_{2j} + a_{2j+1}: half as many numbers."""
    return a[::2] + a[1::2]


def no_pairs(n: int) -> I16:
    """n times two int16 zeros: what `pairs` starts from."""
    return np.zeros(2 * n, np.int16)


def pairs(a: I16, x: I8, w: I8) -> I16:
    """a_j + x_{2j} w_{2j} + x_{2j+1} w_{2j+1} in int16, of unsigned weights in [0, 15]."""
    return (a + (x.astype(np.int32) * w).reshape(-1, 2).sum(axis=1)).astype(np.int16)


def pairs_joined(a: I16) -> I32:
    """a_{2j} + a_{2j+1} as int32."""
    return a.astype(np.int32).reshape(-1, 2).sum(axis=1).astype(np.int32)


def low_nibbles(w: I8) -> I8:
    """The lower four bits of each byte."""
    return w & 15


def high_nibbles(w: I8) -> I8:
    """The upper four bits of each byte."""
    return w >> 4 & 15


def upper_nibbles(w: I8) -> I8:
    """Each byte, then unsigned, without its lower four bits: 16 times its upper four."""
    return w & np.int8(-16)


def _pieces(builder: Any, v: Any, size: int) -> list[Any]:
    """The vector cut into vectors of `size`."""
    undefined = ir.Constant(v.type, ir.Undefined)
    places = ir.VectorType(_I32, size)
    return [
        builder.shuffle_vector(v, undefined, ir.Constant(places, list(range(at, at + size))))
        for at in range(0, v.type.count, size)
    ]


def _joined(builder: Any, parts: list[Any]) -> Any:
    while len(parts) > 1:
        size = 2 * parts[0].type.count
        order = ir.Constant(ir.VectorType(_I32, size), list(range(size)))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(a, b, order) for a, b in pairs]
    return parts[0]


def _vnni(builder: Any, a: Any, x: Any, w: Any) -> Any:
    """x unsigned, w signed."""
    bits = 32 * a.type.count
    x, w = builder.bitcast(x, a.type), builder.bitcast(w, a.type)
    return call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", a.type, a, x, w)


def _maddubs_unsigned(builder: Any, a: Any, u: Any, s: Any) -> Any:
    """u unsigned, s signed; a sum of two products must fit 16 bits."""
    n = a.type.count
    shorts = ir.VectorType(_I16, 2 * n)
    pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", shorts, u, s)
    ones = ir.Constant(shorts, [1] * 2 * n)
    return builder.add(a, call(builder, "llvm.x86.avx2.pmadd.wd", a.type, pairs, ones))


def _pairs_avx2(builder: Any, a: Any, x: Any, w: Any) -> Any:
    return builder.add(a, call(builder, "llvm.x86.avx2.pmadd.ub.sw", a.type, w, x))


def _maddubs(builder: Any, a: Any, x: Any, w: Any) -> Any:
    negative = builder.icmp_signed("<", x, ir.Constant(x.type, None))
    size = builder.select(negative, builder.neg(x), x)
    signed = call(builder, "llvm.x86.avx2.psign.b", w.type, w, x)
    return _maddubs_unsigned(builder, a, size, signed)


def _pmaddwd(builder: Any, a: Any, x: Any, w: Any) -> Any:
    """Products of 16-bit numbers, added two by two, then again by shuffles."""
    shorts, pairs = ir.VectorType(_I16, 8), []
    for part in range(2):
        wide = [builder.sext(_pieces(builder, v, 8)[part], shorts) for v in (x, w)]
        pairs.append(call(builder, "llvm.x86.sse2.pmadd.wd", a.type, *wide))
    places = ir.VectorType(_I32, 4)
    even, odd = (
        builder.shuffle_vector(*pairs, ir.Constant(places, [i + first for i in (0, 2, 4, 6)]))
        for first in (0, 1)
    )
    return builder.add(a, builder.add(even, odd))


def _dot2(builder: Any, a: Any, x: Any, w: Any) -> Any:
    name = "llvm.x86.avx2.pmadd.wd" if a.type.count == 8 else "llvm.x86.sse2.pmadd.wd"
    return builder.add(a, call(builder, name, a.type, x, builder.sext(w, x.type)))


def _sdot(builder: Any, a: Any, x: Any, w: Any) -> Any:
    return call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", a.type, a, x, w)


def _smull(builder: Any, a: Any, x: Any, w: Any) -> Any:
    shorts = ir.VectorType(_I16, 8)
    halves = zip(_pieces(builder, x, 8), _pieces(builder, w, 8), strict=True)
    low, high = (call(builder, "llvm.aarch64.neon.smull.v8i16", shorts, p, q) for p, q in halves)
    pairs = call(builder, "llvm.aarch64.neon.addp.v8i16", shorts, low, high)
    return builder.add(a, call(builder, "llvm.aarch64.neon.saddlp.v4i32.v8i16", a.type, pairs))


def _dot8(builder: Any, a: Any, x: Any, w: Any, y: Any, v: Any) -> Any:
    """With NEON: two products of 16 bits each are added to one another, then pairs to a."""
    shorts = ir.VectorType(_I16, 8)
    smull, parts = "llvm.aarch64.neon.smull.v8i16", []
    for half in (0, 1):
        one, other = (
            call(builder, smull, shorts, _pieces(builder, p, 8)[half], _pieces(builder, q, 8)[half])
            for p, q in ((x, w), (y, v))
        )
        both = builder.add(one, other)
        parts.append(call(builder, "llvm.aarch64.neon.saddlp.v4i32.v8i16", _FOUR, both))
    return builder.add(a, _joined(builder, parts))


_SIGNED = {
    "vnni": _vnni,
    "maddubs": _maddubs,
    "pmaddwd": _pmaddwd,
    "sdot": _sdot,
    "smull": _smull,
}[LEVEL.dot]


def _nibbles(builder: Any, a: Any, x: Any, w: Any) -> Any:
    unsigned = {"vnni": _vnni, "maddubs": _maddubs_unsigned}.get(LEVEL.dot)
    return unsigned(builder, a, w, x) if unsigned else _SIGNED(builder, a, x, w)


def _cut(builder: Any, one: Any, args: Any, size: int, each: int) -> Any:
    """one(...) of a register's worth of each vector: `size` sums, and `each` numbers for a sum."""
    sizes = (size, *[each * size] * (len(args) - 1))
    parts = (_pieces(builder, v, n) for v, n in zip(args, sizes, strict=True))
    return _joined(builder, [one(builder, *part) for part in zip(*parts, strict=True)])


def _by_register(one: Any, each: int) -> Any:
    """An intrinsic of long vectors from its meaning on a register's worth of each."""

    def operation(typing: Any, a: Any, x: Any, w: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _cut(builder, one, args, min(LEVEL.lanes, a.count), each)

        return a(a, x, w), generate

    return operation


def _dot8_neon(typing: Any, a: Any, x: Any, w: Any, y: Any, v: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _cut(builder, _dot8, args, 8, 2)

    return a(a, x, w, y, v), generate


def _repeated(builder: Any, four: Any, kind: Any) -> Any:
    """Four numbers, together a word, as often as the vector holds them."""
    n = kind.llvm.count // 4
    if LEVEL.dot != "smull":
        return builder.bitcast(spread(builder, four, n), kind.llvm)
    # That both halves of a register are alike must stay hidden: LLVM would multiply by the lower
    # one twice, which takes a move for each upper half of w that `smull2` does without.
    one = spread(builder, four, LEVEL.lanes)
    one = builder.asm(ir.FunctionType(one.type, [one.type]), "", "=w,0", [one], False)
    order = ir.Constant(ir.VectorType(_I32, n), [i % LEVEL.lanes for i in range(n)])
    undefined = ir.Constant(one.type, ir.Undefined)
    return builder.bitcast(builder.shuffle_vector(one, undefined, order), kind.llvm)


def _repeater(element: str, word: Any) -> Any:
    """Four numbers, together a `word`, loaded once and repeated."""

    def repeat(typing: Any, x: Any, i: Any, n: Any) -> Any:
        kind = Vector(element, 4 * constant(n))

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = address(builder, context, signature.args[0], args[0], args[1], word)
            return _repeated(builder, builder.load(at, align=1), kind)

        return kind(x, types.intp, n), generate

    return repeat


def _two_quads(typing: Any, x: Any, i: Any, n: Any) -> Any:
    kind = Vector("int8", 4 * constant(n))
    both = types.UniTuple(kind, 2)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if LEVEL.machine == "aarch64":  # one load: the products take their lane of it
            eight = ir.VectorType(_I32, 2)
            at = address(builder, context, signature.args[0], args[0], args[1], eight)
            words = builder.load(at, align=1)
            fours = [builder.extract_element(words, _I32(k)) for k in (0, 1)]
        else:
            places = (args[1], builder.add(args[1], ir.Constant(args[1].type, 4)))
            fours = [
                builder.load(
                    address(builder, context, signature.args[0], args[0], place, _I32), align=1
                )
                for place in places
            ]
        parts = [_repeated(builder, four, kind) for four in fours]
        return context.make_tuple(builder, both, parts)

    return both(x, types.intp, n), generate


_quads = loader("int8", 4, 1)
_dot4, _dot4_nibbles = _by_register(_SIGNED, 4), _by_register(_nibbles, 4)
_dot2_shorts = _by_register(_dot2, 2)
_quad, _shorts = _repeater("int8", _I32), _repeater("int16", ir.IntType(64))
_low_nibbles = each(lambda b, v, t: b.and_(v, ir.Constant(t, [15] * t.count)))
_high_nibbles = each(lambda b, v, t: b.lshr(v, ir.Constant(t, [4] * t.count)))
_upper_nibbles = each(lambda b, v, t: b.and_(v, ir.Constant(t, [-16] * t.count)))


def _pair_sums(typing: Any, a: Any) -> Any:
    half = Vector("int32", a.count // 2)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined, places = ir.Constant(a.llvm, ir.Undefined), ir.VectorType(_I32, half.count)
        even, odd = (
            builder.shuffle_vector(
                args[0], undefined, ir.Constant(places, list(range(first, a.count, 2)))
            )
            for first in (0, 1)
        )
        return builder.add(even, odd)

    return half(a), generate


def _no_pairs(typing: Any, n: Any) -> Any:
    kind = Vector("int16", 2 * constant(n))
    return kind(n), lambda context, builder, signature, args: ir.Constant(kind.llvm, None)


def _pairs(typing: Any, a: Any, x: Any, w: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _cut(builder, _pairs_avx2, args, 2 * LEVEL.lanes, 2)

    return a(a, x, w), generate


def _pairs_joined(typing: Any, a: Any) -> Any:
    sums = Vector("int32", a.count // 2)

    def one(builder: Any, v: Any) -> Any:
        ones = ir.Constant(v.type, [1] * v.type.count)
        result = ir.VectorType(_I32, v.type.count // 2)
        return call(builder, "llvm.x86.avx2.pmadd.wd", result, v, ones)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _cut(builder, one, args, 2 * LEVEL.lanes, 0)

    return sums(a), generate


lower(quads, _quads)
lower(quad, _quad)
lower(shorts, _shorts)
lower(two_quads, _two_quads)
lower(dot4, _dot4)
lower(dot4_nibbles, _dot4_nibbles)
lower(dot2, _dot2_shorts)
lower(dot8, _dot8_neon)
lower(pair_sums, _pair_sums)
lower(no_pairs, _no_pairs)
lower(pairs, _pairs)
lower(pairs_joined, _pairs_joined)
lower(low_nibbles, _low_nibbles)
lower(high_nibbles, _high_nibbles)
lower(upper_nibbles, _upper_nibbles)
