"""Every activation over every float32: the bounds that docs/format.md states."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edge_rnn import reference
from edge_rnn.graph import ACTS
from edge_rnn.kernels import elementwise
from tests.core.test_format import table
from tests.effort import fewer

STATED = {row[0].strip("`"): row[2] for row in table("Nodes", nth=1)} | {"linear": "none"}


def floats(n: int) -> np.ndarray:
    """float32 numbers of every size, and more of them where activations bend."""
    rng = np.random.default_rng(0)
    anywhere = rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = [rng.uniform(-size, size, n) for size in (1e-3, 2, 20, 110)]
    edges = [0, -0.0, 1e-45, -1e-45, 88.7228, 88.7229, -87.3365, -103.9, 3.4e38, -3.4e38, 6, 3]
    x = np.concatenate([anywhere[np.isfinite(anywhere)], *near, edges]).astype(np.float32)
    return x[-(len(x) // 16 * 16) :]


X = floats(fewer(1 << 18))


def bound(act: str) -> tuple[float, float]:
    """(ulp, absolute) that the page allows."""
    ulp = re.search(r"(\S+) ulp", STATED[act])
    absolute = re.search(r"\b\d+e-\d+", STATED[act])
    return float(ulp[1]) if ulp else 0, float(absolute[0]) if absolute else 0


@pytest.mark.parametrize("act", ACTS)
def test_the_stated_error(act: str) -> None:
    y = X.copy()
    elementwise.activate(ACTS.index(act), y, 0, y.size)
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


@pytest.mark.parametrize("act", ACTS)
def test_nan_passes_through(act: str) -> None:
    bits = np.array([0x7FC00000, 0xFFC00000, 0x7FC00001, 0x7FFFFFFF] * 4, np.uint32)
    y = bits.view(np.float32).copy()
    elementwise.activate(ACTS.index(act), y, 0, y.size)
    assert np.isnan(y).all()
