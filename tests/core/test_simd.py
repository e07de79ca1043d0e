"""The vector operations: compiled, they give the bits of their NumPy meaning."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from edge_rnn import Session
from edge_rnn.kernels import dots, formats, functions, integers
from edge_rnn.kernels.build import faults
from edge_rnn.kernels.cpu import LEVELS
from edge_rnn.kernels.simd import (
    LANES,
    any_nan,
    fma,
    less,
    load,
    select,
    splat,
    sqrt,
    store,
)
from tests.core import models
from tests.effort import examples

HOSTILE = np.array(
    [
        0,
        -0.0,
        1,
        -1,
        1e-45,
        -1e-40,
        1.1754944e-38,
        3.4e38,
        -3.4e38,
        np.inf,
        -np.inf,
        np.nan,
        0.1,
        3,
    ],
    np.float32,
)


def triples(seed: int = 0) -> np.ndarray:
    """(3, n) numbers of every size, hostile ones among them, n a multiple of LANES."""
    rng = np.random.default_rng(seed)
    wide = np.exp(rng.uniform(-80, 80, (3, 2000))) * rng.choice([-1, 1], (3, 2000))
    near = rng.normal(0, 1, (3, 2000))
    hostile = rng.choice(HOSTILE, (3, 4000))
    return np.concatenate([wide, near, hostile], axis=1).astype(np.float32)


OPERATIONS = {
    "add": lambda a, b, c: a + b,
    "sub": lambda a, b, c: a - b,
    "mul": lambda a, b, c: a * b,
    "div": lambda a, b, c: a / b,
    "fma": lambda a, b, c: fma(a, b, c),
    "sqrt": lambda a, b, c: sqrt(a),
    "bits": lambda a, b, c: integers.from_bits(
        integers.add(integers.bits(a), integers.shift_up(integers.bits(b), 23))
    ),
    "select": lambda a, b, c: select(less(a, b), c, a),
    "splat": lambda a, b, c: a + splat(np.float32(0.1)),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", OPERATIONS)
def test_compiled_is_the_numpy_meaning(name: str) -> None:
    operation = njit(OPERATIONS[name])

    @njit
    def compiled(a, b, c, y):
        for i in range(0, y.size, LANES):
            store(y, i, operation(load(a, i), load(b, i), load(c, i)))

    a, b, c = triples()
    y = np.empty_like(a)
    compiled(a, b, c, y)
    parts = [
        OPERATIONS[name](*(v[i : i + LANES] for v in (a, b, c))) for i in range(0, a.size, LANES)
    ]
    expected = np.concatenate(parts)
    same = (y.view(np.int32) == expected.view(np.int32)) | (np.isnan(y) & np.isnan(expected))
    assert same.all(), (a[~same][:3], b[~same][:3], c[~same][:3])


@pytest.mark.parametrize("lane", [None, *range(LANES)])
def test_a_nan_is_found_in_any_lane_and_nothing_else_is_taken_for_one(lane: int | None) -> None:
    compiled = njit(lambda x: any_nan(load(x, 0)))
    x = np.resize(HOSTILE[~np.isnan(HOSTILE)], LANES).astype(np.float32)
    if lane is not None:
        x[lane] = -np.nan
    assert compiled(x) == any_nan(x) == (lane is not None)


@examples(100)
@given(st.floats(1, 2, width=32), st.integers(-126, 127))
def test_scale2_is_a_power_of_two(a: float, n: int) -> None:
    x = np.array([a], np.float32)
    scale2 = getattr(functions.scale2, "py_func", functions.scale2)
    with np.errstate(over="ignore"):
        assert scale2(x, np.array([n], np.float32))[0] == np.ldexp(x, n)[0]


def check_fma(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    result = fma(*(np.full(1, v, np.float32) for v in (a, b, c)))[0]
    ulp = Fraction(float(np.spacing(abs(result))))
    error = abs(Fraction(float(result)) - exact)
    assert error <= ulp / 2
    assert error < ulp / 2 or result.view(np.int32) % 2 == 0


@examples(100)
@given(*[st.floats(-(2.0**60), 2.0**60, width=32)] * 3)
def test_the_numpy_fma_rounds_once(a: float, b: float, c: float) -> None:
    check_fma(a, b, c)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("a", "b", "c"),
    [
        (1 + 2**-12, 1 + 2**-12, 2**-100),
        (1 + 2**-12, 1 + 2**-12, -(2**-100)),
        (1 + 2**-12, 1 + 2**-12, 0),
        (1 + 2**-12, 1 - 2**-12, 2**-24),
        (2**-75 * (1 + 2**-23), 2**-75 * (1 - 2**-23), 2**-140),
        (2**-75 * (1 + 2**-23), 2**-75 * (1 - 2**-23), 2**-140 + 2**-149),
        (2**-75, 2**-75, 2**-149),
        (2**-75, 2**-75, 0),
    ],
)
def test_the_numpy_fma_near_the_middle_of_two_numbers(
    a: float, b: float, c: float, sign: int
) -> None:
    """Where a sum rounded to float64 lies there, the second rounding must know on which side."""
    check_fma(sign * a, b, sign * c)


INTEGERS = {
    "dot4": lambda a, x, w: dots.dot4(a, x, w),
    "dot4_nibbles": lambda a, x, w: dots.dot4_nibbles(a, x, dots.low_nibbles(w)),
    "high_nibbles": lambda a, x, w: dots.dot4_nibbles(a, x, dots.high_nibbles(w)),
    "shift and byte": lambda a, x, w: integers.add(
        integers.shift(dots.dot4(a, x, w), 8), integers.low_byte(a)
    ),
}
if formats.NIBBLES_BY_OUTPUT:
    INTEGERS["upper_nibbles"] = lambda a, x, w: dots.dot4_nibbles(a, x, dots.upper_nibbles(w))
BLOCK = formats.BLOCK


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_compiled_are_the_numpy_meaning(name: str) -> None:
    operation = njit(INTEGERS[name])

    @njit
    def compiled(a, x, w, y):
        for i in range(a.size // BLOCK):
            v = operation(
                integers.ints(a, i * BLOCK, BLOCK),
                dots.quad(x, 4 * i, BLOCK),
                dots.quads(w, 4 * i * BLOCK, BLOCK),
            )
            integers.store_bytes(y, i * BLOCK, v)
            integers.store_bytes(y, a.size + i * BLOCK, integers.shift(v, 8))
            integers.store_bytes(y, 2 * a.size + i * BLOCK, integers.shift(v, 16))

    rng, n = np.random.default_rng(0), 500 * BLOCK
    a = rng.integers(-(2**22), 2**22, n).astype(np.int32)
    w = rng.choice([-127, -126, -1, 0, 1, 127, 64], 4 * n).astype(np.int8)
    x = rng.choice([-128, -127, -1, 0, 1, 127, 50], 4 * n // BLOCK).astype(np.int8)
    x[:4], w[:BLOCK] = -128, -127
    y = np.zeros(3 * n, np.int8)
    compiled(a, x, w, y)
    expected = np.concatenate(
        [
            INTEGERS[name](
                a[i : i + BLOCK],
                np.tile(x[4 * i // BLOCK : 4 * i // BLOCK + 4], BLOCK),
                w[4 * i : 4 * (i + BLOCK)],
            )
            for i in range(0, n, BLOCK)
        ]
    ).astype(np.int32)
    parts = y.reshape(3, -1).view(np.uint8).astype(np.int32)
    got = parts[0] | parts[1] << 8 | parts[2] << 16
    assert (got == expected & 0xFFFFFF).all()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("  %s = fadd <8 x float> %a, %b", 0),
        ("  %s = fadd fast <8 x float> %a, %b", 1),
        ("  %s = fmul contract float %a, %b\n  %t = fcmp nnan olt float %s, %b", 2),
        ("  %s = tail call <8 x float> @llvm.fma.v8f32(<8 x float> %a)", 0),
        ("  %s = tail call nsz <8 x float> @llvm.fma.v8f32(<8 x float> %a)", 1),
        ("  %s = call fastcc float @ours(float %a)", 0),
        ("declare <8 x float> @llvm.sqrt.v8f32(<8 x float>) #1\ndeclare ptr @PyErr_Occurred()", 0),
        ("declare float @tanhf(float)", 1),
        ("declare i32 @numba_attempt_nocopy_reshape(i64, ptr)", 1),
        ('declare i64 @"quoted.name"(i64, ptr)', 1),
    ],
)
def test_no_fast_math_and_no_libm_is_compiled(code: str, found: int) -> None:
    """All kernels' code is looked through for these whenever it is compiled."""
    assert len(faults(code)) == found


@pytest.mark.process
@pytest.mark.parametrize("level", LEVELS)
def test_the_same_bits_with_the_jit_off(level: str) -> None:
    """Whatever the processor: nothing is compiled, so that the kernels of any level can run."""
    script = (
        "import sys; from tests.core import test_simd\n"
        "sys.stdout.buffer.write(test_simd.every_formats_bits())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "EDGE_RNN_CPU": level},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout == every_formats_bits()


@cache
def every_formats_bits() -> bytes:
    """Of a few steps of several streams, of which tiles of four, of two and of one are made."""
    streams, x = [*"abacdefghi"], models.inputs(10)
    return b"".join(Session(models.stack(f)).step(streams, x).tobytes() for f in models.FORMATS)
