"""Every activation over every float32: the bounds that docs/format.md states."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edge_rnn import Session, reference
from edge_rnn.activations import ACTS, TUNED, largest, of, steps, tuned
from edge_rnn.errors import ModelError
from edge_rnn.graph import Activation
from edge_rnn.kernels import elementwise
from edge_rnn.kernels.functions import quotient
from edge_rnn.kernels.jit import kernel
from edge_rnn.kernels.simd import LANES, load, store
from tests.core import models
from tests.core.test_format import table
from tests.effort import JIT, fewer

STATED = {
    row[0].strip("`").partition("(")[0]: row[2] for n in (2, 1) for row in table("Nodes", nth=n)
} | {"linear": "none"}
TUNED_ACTS = [
    *(tuned("affine", *n) for n in ((2, -1), (0.3, 1e6), (-1e-20, 0), (0, 0))),
    *(tuned("leaky_relu", n) for n in (0.01, -2, 1e10)),
    *(tuned("thresholded_relu", n) for n in (0, 1, -3)),
    *(tuned("scaled_tanh", *n) for n in ((1.7159, 0.6667), (-5, 0.1), (1e-30, 30))),
    *(tuned("hard_sigmoid", *n) for n in ((0.3, 0.4), (-5, 2), (1e20, 0.5))),
    *(tuned("elu", n) for n in (0.3, -2, 1e20)),
    *(tuned("clip", *n) for n in ((-3, 3), (0, 0.1), (1, 1), (-1e30, 1e30))),
]


def floats(n: int) -> np.ndarray:
    """float32 numbers of every size, and more of them where activations bend."""
    rng = np.random.default_rng(0)
    anywhere = rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = [rng.uniform(-size, size, n) for size in (1e-3, 2, 20, 110)]
    edges = [0, -0.0, 1e-45, -1e-45, 88.7228, 88.7229, -87.3365, -103.9, 3.4e38, -3.4e38, 6, 3]
    x = np.concatenate([anywhere[np.isfinite(anywhere)], *near, edges]).astype(np.float32)
    return x[-(len(x) // 16 * 16) :]


X = floats(fewer(1 << 18) if JIT else 1 << 11)


def bound(act: str) -> tuple[float, float]:
    """(ulp, absolute) that the page allows."""
    ulp = re.search(r"(\S+) ulp", STATED[act.partition("(")[0]])
    absolute = re.search(r"\b\d+e-\d+", STATED[act.partition("(")[0]])
    return float(ulp[1]) if ulp else 0, float(absolute[0]) if absolute else 0


def apply(act: str, y: np.ndarray) -> None:
    """By the kernel."""
    ((name, numbers),) = steps(act)
    if not numbers:
        return elementwise.activate(ACTS.index(act), y, 0, y.size)
    alpha, beta = (np.float32(n) for n in (*numbers, 0)[:2])
    number = len(ACTS) + list(TUNED).index(name)
    return elementwise.activate_tuned(number, alpha, beta, y, 0, y.size)


@pytest.mark.parametrize("act", [*ACTS, *TUNED_ACTS])
def test_the_stated_error(act: str) -> None:
    y = X.copy()
    apply(act, y)
    with np.errstate(over="ignore"):
        exact = reference.activate(act, X.astype(np.float64))
        nearest = exact.astype(np.float32)
    finite = np.isfinite(nearest)
    np.testing.assert_array_equal(y[~finite], nearest[~finite])
    ulp, absolute = bound(act)
    smallest = np.finfo(np.float32).tiny
    spacing = np.spacing(np.maximum(np.abs(nearest[finite]), smallest))
    error, allowed = np.abs(y[finite] - exact[finite]), np.maximum(ulp * spacing, absolute)
    worst = (error - allowed).argmax()
    assert (error <= allowed).all(), (X[finite][worst], y[finite][worst], exact[finite][worst])


@kernel
def divide(p, q, y):
    """y = p / q."""
    for i in range(0, y.size, LANES):
        store(y, i, quotient(load(p, i), load(q, i)))


def test_a_quotient_is_within_two_ulp() -> None:
    rng, n = np.random.default_rng(0), LANES * fewer(1 << 16)
    p, q = (
        (rng.uniform(1, 2, n) * 2.0 ** rng.integers(-59, 60, n)).astype(np.float32) for _ in "pq"
    )
    y = np.empty(n, np.float32)
    divide(p, q, y)
    exact = p.astype(np.float64) / q
    assert (np.abs(y - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()


@pytest.mark.parametrize("act", [*ACTS, *TUNED_ACTS])
def test_nan_passes_through(act: str) -> None:
    bits = np.array([0x7FC00000, 0xFFC00000, 0x7FC00001, 0x7FFFFFFF] * 4, np.uint32)
    y = bits.view(np.float32).copy()
    apply(act, y)
    assert np.isnan(y).all()


@pytest.mark.parametrize("act", TUNED_ACTS)
def test_nothing_exceeds_its_range(act: str) -> None:
    y = X.copy()
    apply(act, y)
    assert np.abs(y).max() <= (largest(act) or np.inf)


def test_one_after_another() -> None:
    act = of("sigmoid", of(tuned("clip", -1, 2), "square"))
    assert act == "sigmoid of clip(-1.0, 2.0) of square"
    expected = reference.activate("sigmoid", np.clip(X[:64].astype(float) ** 2, -1, 2))
    np.testing.assert_array_equal(reference.activate(act, X[:64].astype(float)), expected)
    model = models.model(Activation("y", "x", act), width=64)
    np.testing.assert_allclose(Session(model).run("a", X[None, :64])[0], expected, atol=2e-7)
    assert of("linear", "tanh") == of("tanh", "linear") == "tanh"


@pytest.mark.parametrize(
    "act",
    [
        *("mush", "", "tanh(1.0)", "elu()", "elu(0.50)", "elu(1)", "elu(nan)", "elu(1e999)"),
        *("elu(0.5, 1.0)", "affine(1.0)", "clip(3.0, -3.0)", "elu(0.5", "leaky_relu", "elu(x)"),
        *("tanh of ", " of tanh", "tanh of mush", "tanh of tanh of tanh of tanh of tanh"),
        *("elu(0.5) ", "ELU(0.5)", "elu(１.0)", "elu(1_0.0)"),
    ],
)
def test_what_is_no_activation_is_refused(act: str) -> None:
    with pytest.raises(
        ModelError, match=r"act is .*, allowed: linear, relu, .*clip\(alpha, beta\)"
    ):
        Session(models.model(Activation("y", "x", act)))  # type: ignore[arg-type]
