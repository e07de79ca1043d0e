"""Weights in fewer bits: what is lost is bounded, and what can't be kept is refused."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis.extra.numpy import array_shapes, arrays

from edge_rnn import Session
from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import Dense, Embedding, Gru, Input, Matrix, Model, digest, tensors
from edge_rnn.validation import validate
from edge_rnn_converters.quantize import ALIASES, PRECISIONS, Precision, int4, int8, quantize
from tests.core import models
from tests.effort import examples

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32)
MATRICES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=FLOATS)


def model(scale: float = 1.0) -> Model:
    rng = np.random.default_rng(0)

    def w(*shape: int) -> Matrix:
        return Matrix((scale * rng.normal(size=shape)).astype(np.float32))

    zeros = np.zeros(12, np.float32)
    gru = Gru("gru", "table", w(12, 3), w(12, 4), zeros, zeros[:4])
    dense = Dense("out", "gru", w(2, 4), zeros[:2])
    return Model((Input("x", 1),), (Embedding("table", "x", w(5, 3)), gru, dense), ("out",))


@given(MATRICES)
@examples(100)
def test_int8_is_within_half_a_step_and_never_minus_128(w: np.ndarray) -> None:
    q = int8(w)
    assert q.data.dtype == np.int8 and q.scale is not None
    assert q.data.min() >= -127 and q.scale.min() > 0
    step = q.scale.astype(np.float64)[:, None]
    assert (np.abs(q.float64() - w) <= 0.5 * step * (1 + 1e-6)).all()
    widest = np.abs(q.data.astype(int)).max(axis=1)
    normal = np.abs(w).max(axis=1) > 1e-30
    assert (widest[normal] == 127).all()


@given(MATRICES)
@examples(100)
def test_int8_keeps_sign_and_zero(w: np.ndarray) -> None:
    q = int8(w).data.astype(int)
    assert (q * np.sign(w) >= 0).all()
    np.testing.assert_array_equal(int8(-w).data, -q)


@given(MATRICES)
@examples(100)
def test_int8_rows_do_not_know_of_each_other(w: np.ndarray) -> None:
    np.testing.assert_array_equal(int8(w).data[:1], int8(w[:1]).data)


def test_int8_ties_round_to_even_and_a_row_of_zeros_has_scale_one() -> None:
    q = int8(np.float32([[127, 0.5, 1.5, 2.5, -0.5, -1.5], [0, 0, 0, 0, 0, 0]]))
    np.testing.assert_array_equal(q.data, [[127, 0, 2, 2, 0, -2], [0] * 6])
    assert q.scale is not None
    np.testing.assert_array_equal(q.scale, [1, 1])


def test_int8_of_the_smallest_numbers_there_are() -> None:
    q = int8(np.float32([[1e-45, -1e-45]]))
    assert q.scale is not None and q.scale[0] > 0
    assert np.abs(q.float64()).max() <= 1e-40


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_matrix_and_nothing_else_is_quantized(precision: str) -> None:
    before, after = model(), quantize(model(), precision)  # type: ignore[arg-type]
    validate(after)
    dtypes = {m.data.dtype for n in after.nodes for m in vars_of(n)}
    whole = precision in ("float16", "float32")
    assert dtypes == {np.dtype(precision if whole else "int8")}
    gru, same = before.nodes[1], after.nodes[1]
    assert isinstance(gru, Gru) and isinstance(same, Gru)
    assert same.b.dtype == np.float32 and (same.b == gru.b).all()
    x = np.arange(5, dtype=np.float32)[:, None]
    y = [Session(m, capacity=1).run("s", x) for m in (before, after)]
    four_bit = precision in ("int4", "w4a16", "w4a8")
    assert [m.four_bit for m in vars_of(same)] == [four_bit] * 2
    kept = dict.fromkeys(("int8", "int4", "w8a16", "w4a16"), "int16")
    kept |= {"w8a8": "int8", "w4a8": "int8"}
    assert same.activations == kept.get(precision, "float32")
    bound = {"float32": 0, "float16": 5e-3}.get(precision, 1 if four_bit else 0.1)
    assert np.abs(y[0] - y[1]).max() <= bound


def test_a_layer_may_have_a_precision_of_its_own() -> None:
    after = quantize(model(), "w8a8", {"gru": "w4a16", "out": "float32"})
    table, gru, out = after.nodes
    assert isinstance(gru, Gru) and isinstance(out, Dense) and isinstance(table, Embedding)
    assert (gru.activations, out.activations) == ("int16", "float32")
    assert gru.u.four_bit and out.w.scale is None and table.table.data.dtype == np.int8
    with pytest.raises(ModelError, match="no layer 'dense'; the model's are table, gru, out"):
        quantize(model(), "w8a8", {"dense": "int8"})


def test_the_names_of_weights_alone_stand_for_a_format_each() -> None:
    for alias, meant in ALIASES.items():
        assert digest(quantize(model(), alias)) == digest(quantize(model(), meant))
    weights_only = quantize(model(), "w8a32").nodes[1]
    assert isinstance(weights_only, Gru) and weights_only.activations == "float32"


@given(MATRICES)
@examples(100)
@example(np.float32([[7.9352366e15, 5.5540580e16]]))  # a scale of float64 loses a little less
def test_int4_loses_no_more_than_plain_rounding(w: np.ndarray) -> None:
    q = int4(w)
    assert q.scale is not None and np.abs(q.data).max() <= 7
    peak = np.abs(w).max(axis=1, keepdims=True).astype(np.float64) / 7
    scale = peak.astype(np.float32).astype(np.float64)  # as a file holds it
    scale[scale < 1e-37] = 1
    plain = np.clip(np.rint(w / scale), -7, 7) * scale
    lost, allowed = (((v - w.astype(np.float64)) ** 2).sum(axis=1) for v in (q.float64(), plain))
    assert (lost <= allowed * (1 + 1e-12)).all()


def test_int4_takes_care_of_an_outlier() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(0, 1, (64, 32)).astype(np.float32)
    w[:, 3] = 6
    q, peak = int4(w), np.abs(w).max(axis=1, keepdims=True) / 7
    plain = np.rint(w / peak) * peak
    assert ((q.float64() - w) ** 2).sum() < 0.95 * ((plain - w) ** 2).sum()


def vars_of(node: object) -> list[Matrix]:
    return [v for v in (getattr(node, n, None) for n in ("w", "u", "table")) if v is not None]


def test_float16_refuses_what_would_become_infinite() -> None:
    with pytest.raises(
        UnsupportedError, match=r"node 'table': table: .* is beyond float16's 65504"
    ):
        quantize(model(scale=1e6), "float16")


def test_an_unknown_precision() -> None:
    with pytest.raises(ModelError, match="'int2', expected one of int8, int4, w8a16"):
        quantize(model(), "int2")  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["w8a16", "w4a8", "w8a32", "float16"])
@pytest.mark.parametrize("kind", [k for k in models.NODES if len(models.formats(k)) > 1])
def test_every_matrix_of_every_kind_is_quantized(kind: str, precision: Precision) -> None:
    """Those that a node may do without, where it has them, as well."""
    whole = models.single(kind)
    small = quantize(whole, precision)
    validate(small)
    for node, before in zip(small.nodes, whole.nodes, strict=True):
        assert [name for name, _, _ in tensors(node)] == [name for name, _, _ in tensors(before)]
        for _, _, t in tensors(node):
            if isinstance(t, Matrix):
                assert t.data.dtype == ("float16" if precision == "float16" else "int8")
        depthwise = getattr(node, "depthwise", False)
        if (
            precision.startswith("w")
            and precision != "w8a32"
            and hasattr(node, "activations")
            and not depthwise
        ):
            assert node.activations == f"int{precision[3:]}"
    assert np.isfinite(Session(small).run("a", models.inputs(9))).all()
