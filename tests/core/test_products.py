"""Matrix-vector products of every format: exact, whatever tile, row or lane computes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn import Session
from edge_rnn.graph import GROUP, Dense, Input, Matrix, Model
from edge_rnn.kernels.simd import fma
from edge_rnn.program import compile_model
from tests.core.models import FORMATS
from tests.effort import examples

F = np.float32
TERMS = 64
LIMITS = {"int8": F(127), "int16": F(32512)}


def dense(format: str, n: int, k: int, seed: int = 0) -> Model:
    """A product with weights over the whole range of their format."""
    rng = np.random.default_rng(seed)
    weights, _, activations = format.partition(" ")
    scale = None
    if weights.startswith("float"):
        w = rng.normal(0, 1, (n, k)).astype(weights)
    else:
        most, groups = (7, (-(-k // GROUP),)) if weights == "int4" else (127, ())
        w = rng.integers(-most, most + 1, (n, k)).astype(np.int8)
        scale = rng.uniform(0.001, 1, (n, *groups)).astype(F)
    bias = rng.normal(0, 1, n).astype(F)
    node = Dense("y", "x", Matrix(w, scale), bias, activations=activations or "float32")
    return Model((Input("x", k),), (node,), ("y",))


def integers(x: np.ndarray, activations: str) -> tuple[np.ndarray, np.ndarray]:
    """(q (B, K) int64, unit (B,) float32) as the format's specification says."""
    size = np.maximum(np.abs(x).max(axis=1), F(1e-30))
    limit = LIMITS[activations]
    inverse = limit / size
    q = np.rint(x.astype(np.float64) * inverse[:, None].astype(np.float64))
    return q.astype(np.int64), size / limit


def expected(model: Model, x: np.ndarray) -> np.ndarray:
    """The bits that a product must have: see docs/format.md."""
    node = model.nodes[0]
    assert isinstance(node, Dense)
    w, scale = node.w.data, node.w.scale
    if node.activations == "float32":
        total = np.zeros((len(x), len(w)), F)
        for first in range(0, w.shape[1], TERMS):
            part = np.zeros_like(total)
            for j in range(first, min(first + TERMS, w.shape[1])):
                part = fma(w[None, :, j].astype(F), x[:, j : j + 1], part)
            total = total + part
        return fma(total, F(1) if scale is None else scale, node.b)
    q, unit = integers(x, node.activations)
    if not node.w.four_bit:
        return fma(as_float(q @ w.T.astype(np.int64)), scale * unit[:, None], node.b)
    total = np.zeros((len(x), len(w)), F)
    for g in range(scale.shape[1]):
        part = slice(g * GROUP, (g + 1) * GROUP)
        total = fma((q[:, part] @ w[:, part].T.astype(np.int64)).astype(F), scale[:, g], total)
    return fma(total, unit[:, None], node.b)


def as_float(total: np.ndarray) -> np.ndarray:
    """An exact sum as float32: rounded once if it is small, else as 256 times its upper part,
    which is rounded first, plus its lowest byte."""
    small = total.astype(F)
    large = fma((total >> 8).astype(F), F(256), (total & 255).astype(F))
    return np.where(np.abs(total) < 2**31, small, large)


@examples(60)
@given(
    st.sampled_from(FORMATS), st.integers(1, 150), st.integers(1, 700), st.integers(1, 8),
    st.integers(0, 3),
)  # fmt: skip
def test_every_format_has_the_specified_bits(
    format: str, n: int, k: int, rows: int, seed: int
) -> None:
    model = dense(format, n, k, seed)
    rng = np.random.default_rng(seed)
    x = (rng.normal(0, 1, (rows, k)) * rng.choice([1e-20, 1, 1e6], (rows, 1))).astype(F)
    if rows > 2:
        x[1] = 0
    y = Session(model, capacity=rows).step([str(i) for i in range(rows)], x)
    assert y.tobytes() == expected(model, x).astype(F).tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_saturating_weights_and_activations(format: str) -> None:
    """The largest sums there are: every product of the same sign, as wide as a layer may be."""
    k = 4096
    model = dense(format, 3, k)
    node = model.nodes[0]
    assert isinstance(node, Dense)
    most = node.w.data.dtype.type(7 if node.w.four_bit else 127)
    signs = np.where(np.arange(k) % 2, 1, -1).astype(F)
    node.w.data[:] = most * signs.astype(node.w.data.dtype)
    x = np.stack([signs, -signs, np.ones(k, F), np.where(np.arange(k) == 5, F(1e-3), signs)])
    y = Session(model).step(list("abcd"), x)
    assert y.tobytes() == expected(model, x).astype(F).tobytes()


@pytest.mark.parametrize("format", [f for f in FORMATS if " " in f])
def test_a_number_that_is_not_finite_shows_in_every_sum(format: str) -> None:
    """Inside a model an overflow may make one; it must not be rounded to a harmless integer."""
    first = Dense("big", "x", Matrix(np.full((9, 1), 1e36, F)), np.zeros(9, F))
    second = dense(format, 5, 9).nodes[0]
    assert isinstance(second, Dense)
    last = Dense("y", "big", second.w, second.b, activations=second.activations)
    model = Model((Input("x", 1),), (first, last), ("y",))
    y = Session(model).step(["a", "b"], np.array([[1e3], [0.5]], F))
    assert not np.isfinite(y[0]).any()
    assert np.isfinite(y[1]).all()


@pytest.mark.parametrize(("format", "bits"), [("int8 int8", 8), ("int4 int8", 5), ("float16", 16)])
def test_weights_are_kept_in_their_format(format: str, bits: int) -> None:
    """A step reads each weight once: what the runtime holds is no wider than what it was given."""
    program = compile_model(dense(format, 64, 512))
    held = program.int8s.nbytes + program.halves.nbytes + program.floats.nbytes
    assert held <= 64 * 512 * bits / 8 + 4096
