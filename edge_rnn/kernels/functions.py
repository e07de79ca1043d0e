"""Functions of float32 vectors, with the same bits on every machine.

NaN passes through every function, so that a diverged stream shows. A stated error is that against
real numbers, at most; a test checks it over all float32 numbers. Vectors run over padded
lengths: what they leave behind the last element is never read as a value.
"""

from __future__ import annotations

import numpy as np

from edge_rnn.graph import F32
from edge_rnn.kernels.integers import (
    ROUND,
    add,
    bits,
    from_bits,
    same,
    shift,
    shift_up,
    subtract,
    to_float,
)
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.simd import LANES, fma, full_like, less, select, splat, sqrt

_0, _HALF, _1, _2, _3, _6 = (np.float32(v) for v in (0.0, 0.5, 1.0, 2.0, 3.0, 6.0))
_SIXTH = np.float32(1 / 6)
_TANH_LIMIT = np.float32(8)
_TANH_P = (1, 0.1344449520111084, 3.5715950652956963e-3, 2.189461883972399e-5, 1.523038584139158e-8)
_TANH_Q = (1, 0.4677782356739044, 0.026164431124925613, 3.411287325434387e-4, 8.522425218870922e-7)
_P, _Q = (tuple(np.float32(v) for v in c) for c in (_TANH_P, _TANH_Q))
_SIGMOID_LIMIT = 2 * _TANH_LIMIT
_SIGMOID_P, _SIGMOID_Q = (
    tuple(np.float32(v * 2.0 ** (exponent - 2 * k)) for k, v in enumerate(c))
    for c, exponent in ((_TANH_P, -2), (_TANH_Q, 0))
)
_EXP_LOW, _EXP_HIGH, _INFINITY = (np.float32(v) for v in (-87.33654, 88.72283, np.inf))
_LOG2E, _LN2_HIGH, _LN2_LOW = (
    np.float32(v) for v in (1.44269504088896341, 0.693359375, -2.12194440e-4)
)
_E5, _E4, _E3, _E2, _E1, _E0 = (
    np.float32(v)
    for v in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
_RECIPROCAL = np.uint32(0x7EF311C7).view(np.float32)
_SQRT2_1, _LN2 = np.float32(0.41421356), np.float32(0.69314718056)
_L8, _L7, _L6, _L5, _L4, _L3, _L2, _L1, _L0 = (
    np.float32(v)
    for v in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
_NORMAL, _TWO_25, _25, _NAN = (np.float32(v) for v in (2.0**-126, 2.0**25, 25.0, np.nan))
_MINUS_SQRT_HALF = np.int32(-0x3F3504F3)
_GELU_1, _GELU_3 = np.float32(1.5957691216057308), np.float32(0.07135481627)
_Q_K, _Q_END = np.float32(0.3), np.float32(15)
_Q8, _Q7, _Q6, _Q5, _Q4, _Q3, _Q2, _Q1, _Q0 = (
    np.float32(v)
    for v in (
        0.03840781956115196,
        -0.169309404256941,
        0.22895551388124902,
        -0.07684364363937769,
        0.14276780496283534,
        0.0945848890466466,
        0.12194549138030718,
        0.11948418436001218,
        7.373787513698105e-06,
    )
)
_MISH_LIMIT = np.float32(30)


Coefficients = tuple[np.float32, ...]


@kernel
def clip(x: F32, low: np.float32, high: np.float32) -> F32:
    """A vector held inside [low, high]; NaN stays NaN."""
    bottom, top = full_like(x, low), full_like(x, high)
    x = select(less(x, bottom), bottom, x)
    return select(less(top, x), top, x)


@kernel
def quotient(p: F32, q: F32) -> F32:
    """p / q of vectors where 2^-60 < q < 2^60, within 2 ulp.

    A step of Newton's and one of Halley's method from what the bits of q tell of 1 / q, within 5 %:
    seven instructions, alike on all processors, that take less time than a division.
    """
    one = full_like(q, _1)
    r = from_bits(subtract(bits(full_like(q, _RECIPROCAL)), bits(q)))
    r = fma(r, fma(-q, r, one), r)
    y, e = p * r, fma(-q, r, one)
    return fma(y, fma(e, e, e), y)


@kernel
def _ratio(x: F32, limit: np.float32, p: Coefficients, q: Coefficients) -> tuple[F32, F32]:
    """c P(c^2) and Q(c^2), polynomials of degree 4 by their coefficients, with x clipped to c."""
    c = clip(x, -limit, limit)
    s = c * c
    u = fma(fma(full_like(s, p[4]), s, full_like(s, p[3])), s, full_like(s, p[2]))
    v = fma(fma(full_like(s, q[4]), s, full_like(s, q[3])), s, full_like(s, q[2]))
    u = fma(fma(u, s, full_like(s, p[1])), s, full_like(s, p[0])) * c
    return u, fma(fma(v, s, full_like(s, q[1])), s, full_like(s, q[0]))


@kernel
def tanh_ratio(x: F32) -> tuple[F32, F32]:
    """(p, q) with tanh x = p / q and 1 <= q < 2^8: what goes on to be multiplied by another
    ratio needs no quotient of its own.

    x P(x^2) / Q(x^2), both of degree 4, fitted to float32 arithmetic with P(0) = Q(0) = 1.
    """
    return _ratio(x, _TANH_LIMIT, _P, _Q)


@kernel
def sigmoid_ratio(x: F32) -> tuple[F32, F32]:
    """(p, q) with 1 / (1 + exp(-x)) = p / q and 1 <= q < 2^8, as tanh(x / 2) / 2 + 1 / 2."""
    p, q = _ratio(x, _SIGMOID_LIMIT, _SIGMOID_P, _SIGMOID_Q)
    return fma(full_like(q, _HALF), q, p), q


@kernel
def tanh(x: F32) -> F32:
    """tanh x of a vector, within 5 ulp."""
    p, q = tanh_ratio(x)
    return quotient(p, q)


@kernel
def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x)) of a vector, within 2e-7."""
    p, q = sigmoid_ratio(x)
    return quotient(p, q)


@kernel
def softsign(x: F32) -> F32:
    """x / (1 + |x|) of a vector, within 2 ulp."""
    return x / (splat(_1) + size(x))


@kernel
def size(x: F32) -> F32:
    """|x| of a vector."""
    return select(less(x, splat(_0)), splat(_0) - x, x)


@kernel
def relu(x: F32) -> F32:
    """max(x, 0) of a vector."""
    return select(less(x, splat(_0)), splat(_0), x)


@kernel
def scale2(a: F32, n: F32) -> F32:
    """a 2^n for a whole n, added to the exponent's bits: a and the result must be normal."""
    return from_bits(add(bits(a), shift_up(bits(n + splat(ROUND)), 23)))


@kernel
def _reduce(x: F32) -> tuple[F32, F32]:
    """(n, exp(r) - 1) where x = n ln 2 + r and n is whole: Cephes' `expf`, a polynomial in r."""
    n = fma(x, splat(_LOG2E), splat(ROUND)) - splat(ROUND)
    r = fma(n, splat(-_LN2_LOW), fma(n, splat(-_LN2_HIGH), x))
    p = fma(fma(fma(splat(_E5), r, splat(_E4)), r, splat(_E3)), r, splat(_E2))
    p = fma(fma(p, r, splat(_E1)), r, splat(_E0))
    return n, fma(p, r * r, r)


@kernel
def exp(x: F32) -> F32:
    """exp(x) of a vector, within 1 ulp; 0 where it is below the normal numbers."""
    c = clip(x, _EXP_LOW, _EXP_HIGH)
    n, q = _reduce(c)
    y = scale2(q + splat(_1), n)
    y = select(less(x, splat(_EXP_LOW)), splat(_0), y)
    y = select(less(splat(_EXP_HIGH), x), splat(_INFINITY), y)
    return select(less(c, splat(_INFINITY)), y, x)


@kernel
def expm1(x: F32) -> F32:
    """exp(x) - 1 of a vector where x <= 0, within 2 ulp."""
    n, q = _reduce(clip(x, _EXP_LOW, _0))
    power = scale2(splat(_1), n)
    return fma(power, q, power - splat(_1))


@kernel
def log1p(x: F32) -> F32:
    """log(1 + x) of a vector where 0 <= x <= 1, within 3 ulp: Cephes' `logf` about 1 or 2."""
    near = less(x, splat(_SQRT2_1))
    f = select(near, x, splat(_HALF) * (x - splat(_1)))
    y = _log_near_1(f, splat(_0))
    return select(near, y, y + splat(_LN2))


@kernel
def log(x: F32) -> F32:
    """log x of a vector, within 1 ulp; NaN where x < 0. x = 2^n m, m from sqrt 1/2 to sqrt 2."""
    small = less(x, splat(_NORMAL))
    c = select(small, x * splat(_TWO_25), x)
    k = to_float(shift(add(bits(c), same(_MINUS_SQRT_HALF, LANES)), 23))
    m = scale2(c, splat(_0) - k)
    n = select(small, k - splat(_25), k)
    y = fma(n, splat(_LN2_HIGH), _log_near_1(m - splat(_1), n * splat(_LN2_LOW)))
    y = select(less(splat(_0), x), y, splat(-_INFINITY))
    y = select(less(x, splat(_0)), splat(_NAN), y)
    return select(less(x, splat(_INFINITY)), y, x)


@kernel
def root(x: F32) -> F32:
    """The square root of a vector; where x < 0 one NaN for all processors, whose own differ.

    LLVM takes any NaN for any other, and would make sqrt(x) of a choice between it and one.
    """
    return select(less(x, splat(_0)), splat(_NAN), sqrt(size(x)))


@kernel
def _log_near_1(f: F32, more: F32) -> F32:
    """log(1 + f) + more where 1 + f lies from sqrt 1/2 to sqrt 2, Cephes' polynomial."""
    p = fma(fma(fma(splat(_L8), f, splat(_L7)), f, splat(_L6)), f, splat(_L5))
    p = fma(fma(fma(p, f, splat(_L4)), f, splat(_L3)), f, splat(_L2))
    p = fma(fma(p, f, splat(_L1)), f, splat(_L0))
    z = f * f
    return f + fma(p * f, z, fma(splat(-_HALF), z, more))


@kernel
def silu(x: F32) -> F32:
    """x sigmoid(x) of a vector as x / (1 + exp(-x)), within 3 ulp or 2e-36."""
    return x / (splat(_1) + exp(splat(_0) - x))


@kernel
def elu(x: F32, alpha: np.float32) -> F32:
    """x where x > 0, else alpha (exp(x) - 1), of a vector, within 3 ulp."""
    return select(less(splat(_0), x), x, splat(alpha) * expm1(x))


@kernel
def gelu(x: F32) -> F32:
    """x Phi(x) of a vector, Phi the normal distribution, as max(x, 0) - a Q(a) with a = |x|.

    Q(a) = 1 - Phi(a) is exp(-a^2 / 2) times a polynomial in 1 / (1 + 0.3 a), fitted to 6e-8 of
    it for a up to 14. Within 10 ulp or 2e-36.
    """
    a = clip(size(x), _0, _Q_END)
    square = a * a
    rest = fma(a, a, splat(_0) - square)  # what rounding the square lost
    e = exp(splat(-_HALF) * square)
    e = fma(splat(-_HALF) * rest, e, e)
    t = splat(_1) / fma(splat(_Q_K), a, splat(_1))
    q = fma(fma(fma(splat(_Q8), t, splat(_Q7)), t, splat(_Q6)), t, splat(_Q5))
    q = fma(fma(fma(q, t, splat(_Q4)), t, splat(_Q3)), t, splat(_Q2))
    q = fma(fma(q, t, splat(_Q1)), t, splat(_Q0)) * e
    return relu(x) - a * q


@kernel
def gelu_tanh(x: F32) -> F32:
    """x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3))) of a vector.

    Within 150 ulp or 2e-36: far below 0 the exponential enlarges its argument's rounding.
    """
    u = x * fma(splat(_GELU_3), x * x, splat(_GELU_1))
    return x / (splat(_1) + exp(splat(_0) - u))


@kernel
def log1p_exp(a: F32) -> F32:
    """log(1 + exp(-a)) of a vector where a >= 0, within 2 ulp or 2e-38."""
    return log1p(exp(splat(_0) - a))


@kernel
def mish(x: F32) -> F32:
    """x tanh(log(1 + exp(x))) of a vector, as x n / (n + 2) with n = exp(x) (exp(x) + 2).

    Within 4 ulp or 2e-36.
    """
    e = exp(select(less(splat(_MISH_LIMIT), x), splat(_MISH_LIMIT), x))
    n: F32 = e * (e + splat(_2))
    return x * (n / (n + splat(_2)))


@kernel
def hard_swish(x: F32) -> F32:
    """x relu6(x + 3) / 6 of a vector, within 3 ulp."""
    return x * (clip(x + splat(_3), _0, _6) * splat(_SIXTH))
