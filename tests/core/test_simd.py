"""The vector operations: compiled, they give the bits of their NumPy meaning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from edge_rnn import Session
from edge_rnn.kernels import elementwise, norms, products
from edge_rnn.kernels.simd import LANES, fma, less, load, scale2, select, splat, sqrt, store
from tests.core import models

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
    "scale2": lambda a, b, c: scale2(a, b),
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


@given(st.floats(1, 2, width=32), st.integers(-126, 127))
def test_scale2_is_a_power_of_two(a: float, n: int) -> None:
    x = np.array([a], np.float32)
    assert scale2(x, np.array([n], np.float32))[0] == np.ldexp(x, n)[0]


@given(*[st.floats(-(2.0**60), 2.0**60, width=32)] * 3)
def test_the_numpy_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    result = float(fma(*(np.full(1, v, np.float32) for v in (a, b, c)))[0])
    ulp = Fraction(float(np.spacing(np.float32(abs(result)))))
    assert abs(Fraction(result) - exact) <= ulp / 2


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (31, 5), (32, 64), (33, 7), (100, 131)])
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_matvec_is_the_ordered_sum_of_each_output(kind: str, n: int, k: int, rows: int) -> None:
    """Bit for bit: fma over k from zero, then the scale and the bias, whatever tile computes it."""
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (n, k)).astype(kind)
    x = rng.normal(0, 1, (rows, k)).astype(np.float32)
    scale, bias = rng.normal(0, 1, (2, n)).astype(np.float32)
    total = np.zeros((rows, n), np.float32)
    for j in range(k):
        total = fma(w[None, :, j].astype(np.float32), x[:, j : j + 1], total)
    expected = fma(total, scale, bias) if kind == "int8" else total + bias
    N = -(-n // products.BLOCK) * products.BLOCK
    p = np.zeros(2 * N, np.float32)
    p[:n], p[N : N + n] = bias, scale
    y = np.zeros(rows * N, np.float32)
    where, at = np.arange(rows) * k, np.arange(rows) * N
    arguments = (products.pack(w), 0, N, k, x.reshape(-1), 0, where, p)
    products.matvec(*arguments, N if kind == "int8" else -1, 0, y, 0, at)
    assert y.reshape(rows, N)[:, :n].tobytes() == expected.tobytes()


def test_no_fast_math_anywhere() -> None:
    """Of any flag that lets a compiler change a float's bits, none is in the code it is given."""
    x = np.zeros(products.BLOCK, np.float32)
    one = np.zeros(1, np.int64)
    products.matvec(x, 0, products.BLOCK, 1, x, 0, one, x, -1, 0, x, 0, one)
    elementwise.activate(elementwise.SIGMOID, x, 0, products.BLOCK)
    a = np.ones(64, np.float32)
    norms.standardise(a, 0, 16, 9, 16, 1, 32, np.float32(0))
    norms.log_softmax(a, 0, 16, 9, 32)
    functions = (products.matvec, elementwise.activate, norms.standardise, norms.log_softmax)
    for function in functions:
        (code, *_) = function.inspect_llvm().values()
        exact = "sqrt" if function is norms.standardise else "fma"
        assert re.search(rf"@llvm\.{exact}\.(v{LANES})?f32\(", code)
        libm = re.findall(r"call \w+ @((?:sqrt|exp|log|log1p|expm1|tanh|erf|floor)f?)\(", code)
        assert not libm
        assert not re.search(r"= f\w+ (fast|nnan|ninf|nsz|arcp|contract|afn|reassoc)\b", code)


def test_the_same_bits_with_the_jit_off() -> None:
    script = (
        "import sys; from tests.core import models; from edge_rnn import Session\n"
        "for m in (models.stack('int8'), models.single('lstm_hard'), models.single('gru_odd')):\n"
        "    y = Session(m).step(['a', 'b', 'a', 'c', 'd'], models.inputs(5))\n"
        "    sys.stdout.buffer.write(y.tobytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    expected = [
        Session(m).step(["a", "b", "a", "c", "d"], models.inputs(5)).tobytes()
        for m in (models.stack("int8"), models.single("lstm_hard"), models.single("gru_odd"))
    ]
    assert done.stdout == b"".join(expected)
