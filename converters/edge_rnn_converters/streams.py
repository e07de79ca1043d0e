"""Streams of inputs that are hard on a recurrent network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
SHORTEST, LONGEST = 12, 72
"""Steps of a stretch of one kind."""


def stretches(steps: int, width: int, spike: float, rng: np.random.Generator) -> F64:
    """Stretches of every kind, in random order, again and again: (steps, width), in deviations
    from the mean; `spike` is the size of the largest input to expect.

    Each part of the stream is as hard as any other, so that an error that grows along it does so
    because of the state, not of the inputs.
    """
    rows, last = [], np.zeros(width)
    for kind in _kinds(rng):
        n = int(rng.integers(SHORTEST, LONGEST))
        part = kind(n, last, spike, rng)
        rows.append(part)
        last = part[-1]
        if sum(map(len, rows)) >= steps:
            break
    return np.concatenate(rows)[:steps]


def _kinds(rng: np.random.Generator) -> Iterator[Callable[..., F64]]:
    while True:
        for i in rng.permutation(len(_KINDS)):
            yield _KINDS[i]


def _noise(n: int, last: F64, spike: float, rng: np.random.Generator) -> F64:
    return rng.normal(size=(n, len(last)))


def _loud(n: int, last: F64, spike: float, rng: np.random.Generator) -> F64:
    return rng.normal(0, spike / 3, (n, len(last))).clip(-spike, spike)


def _ramp(n: int, last: F64, spike: float, rng: np.random.Generator) -> F64:
    share = np.linspace(0, 1, n)[:, None]
    return (1 - share) * last + share * rng.uniform(-spike, spike, len(last))


def _steps(n: int, last: F64, spike: float, rng: np.random.Generator) -> F64:
    levels = rng.uniform(-spike / 2, spike / 2, (n // 8 + 1, len(last)))
    return np.repeat(levels, 8, axis=0)[:n]


def _silence(n: int, last: F64, spike: float, rng: np.random.Generator) -> F64:
    return np.zeros((n, len(last)))


def _spikes(n: int, last: F64, spike: float, rng: np.random.Generator) -> F64:
    rows = rng.normal(0, 0.1, (n, len(last)))
    at = rng.random(n) < 0.1
    rows[at] = rng.choice([-spike, spike], (int(at.sum()), len(last)))
    return rows


def _gap(n: int, last: F64, spike: float, rng: np.random.Generator) -> F64:
    """A sensor that does not change, as after a lost connection."""
    return np.repeat(last[None], n, axis=0)


_KINDS = (_noise, _loud, _ramp, _steps, _silence, _spikes, _gap)
