"""The figures of a certificate against cases worked out by hand."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from edge_rnn_converters.certificate import metrics
from edge_rnn_converters.streams import stretches
from tests.effort import examples


def drifting(rate: float, steps: int = 10_000, seed: int = 0) -> np.ndarray:
    """Errors (steps, 1) of size exp(rate t), with noise."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, 1)) * np.exp(rate * np.arange(steps))[:, None]


def test_sqnr() -> None:
    assert metrics.sqnr_db(1000, 1) == pytest.approx(30)
    assert metrics.sqnr_db(1, 100) == pytest.approx(-20)
    assert metrics.sqnr_db(5, 0) is None


@given(st.floats(-3e-4, 3e-4), st.integers(0, 1000))
@examples(30)
def test_a_growth_that_was_put_in_is_found(rate: float, seed: int) -> None:
    g = metrics.growth(metrics.curve(drifting(rate, seed=seed)), 10_000)
    assert g is not None and g.low < g.factor < g.high
    assert math.log(g.factor) == pytest.approx(10_000 * rate, abs=0.2)
    if abs(rate) > 1e-4:
        assert g.growing == (rate > 0)


def test_steady_noise_does_not_grow_and_a_random_walk_does() -> None:
    grows = [
        (metrics.growth(metrics.curve(drifting(0, seed=s)), 10_000) or pytest.fail()).growing
        for s in range(50)
    ]
    assert not any(grows)
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(size=(10_000, 64)), axis=0)
    g = metrics.growth(metrics.curve(walk), 10_000)
    assert g is not None and g.growing
    linear = metrics.growth(metrics.curve(np.arange(1.0, 10_001)[:, None]), 10_000)
    assert linear is not None and linear.growing


@pytest.mark.parametrize(
    ("rate", "steps", "verdict"),
    [(0, 10_000, "bounded"), (3e-4, 10_000, "growing"), (0, 500, "unclear")],
)
def test_what_is_said_of_growth(rate: float, steps: int, verdict: str) -> None:
    g = metrics.growth(metrics.curve(drifting(rate, steps)), steps)
    assert g is not None and g.verdict == verdict


def test_a_fit_needs_parts_and_errors() -> None:
    assert metrics.growth(np.ones(5), 100) is None
    assert metrics.growth(np.zeros(50), 100) is None


def test_errors_up_to_where_they_are_finite() -> None:
    truth = np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5], [1, 0]])
    y = np.array([[0.2, 0.7], [0.4, 0.5], [0.5, np.nan], [1, 0]])
    e = metrics.errors("q", y, truth, np.array([4, 6, 8, 10]), 12, "largest")
    assert (e.answers, e.broken, e.at, e.flips) == (2, 8, 6, 1)
    assert e.largest == pytest.approx(0.2) and e.margin == pytest.approx(0.2)
    assert e.rms == pytest.approx(math.sqrt((0.01 + 0.04 + 0.01) / 4))
    assert e.sqnr_db == pytest.approx(10 * math.log10((0.04 + 0.64 + 0.36 + 0.16) / 0.06))
    assert e.agreement == 0.5
    with pytest.raises(ValueError, match="not finite"):
        metrics.errors("q", y[2:], truth[2:], np.array([8, 10]), 12, None)


def test_a_decision_at_a_half() -> None:
    truth, y = np.array([[0.4], [0.9]]), np.array([[0.6], [0.8]])
    e = metrics.errors("q", y, truth, np.arange(2), 2, "half")
    assert e.flips == 1 and e.margin == pytest.approx(0.1)


def test_classification_by_hand() -> None:
    labels, called = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    s = metrics.classification("q", called, labels, ["a", "b", "c", "d"])
    assert s.confusion == ((2, 1, 0, 0), (1, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0))
    assert s.accuracy == pytest.approx(3 / 6)
    a, b, c, d = s.classes
    assert (a.precision, a.recall, a.rows) == (pytest.approx(2 / 4), pytest.approx(2 / 3), 3)
    assert a.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert (b.precision, b.recall) == (0.5, 0.5) and (c.f1, d.f1, d.rows) == (0, 0, 0)
    assert s.macro_f1 == pytest.approx((a.f1 + b.f1 + 0) / 3)


def test_regression_by_hand() -> None:
    s = metrics.regression("q", np.array([[1.0], [2], [6]]), np.array([[1.0], [4], [5]]))
    assert s.mae == pytest.approx(1) and s.rmse == pytest.approx(math.sqrt(5 / 3))


@given(st.integers(1, 3000), st.integers(1, 4), st.integers(0, 99))
@examples(30)
def test_streams_are_of_every_kind_and_within_the_range(steps: int, width: int, seed: int) -> None:
    x = stretches(steps, width, 4.0, np.random.default_rng(seed))
    assert x.shape == (steps, width) and np.isfinite(x).all() and np.abs(x).max() < 6
    if steps > 1500:
        assert (np.abs(x) == 4).any() and (x == 0).all(axis=1).any()
        assert (np.diff(x, axis=0) == 0).all(axis=1).any()
