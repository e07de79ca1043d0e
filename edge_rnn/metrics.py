"""What the daemon counts and measures, at most a few times a batch."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Histogram:
    """How many observations were at most each of the ascending bounds, and beyond the last."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = self.max = 0.0

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """One more observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self.max = max(self.max, value)


def _seconds() -> Histogram:
    return Histogram(_SECONDS)


@dataclass(frozen=True, slots=True)
class Gauges:
    """How things stand now, to the second.

    queued: messages that wait to be stepped; held: for those before them; uncommitted: messages
    and predictions that wait for a commit; outbox: predictions that have not arrived.
    """

    streams: int = 0
    state_bytes: int = 0
    state_file_bytes: int = 0
    queued: int = 0
    held: int = 0
    uncommitted: int = 0
    outbox: int = 0
    connected: bool = False
    commit_interval: float = 0.0


@dataclass(slots=True)
class Metrics:
    """Counters since the start; reasons are the keys of the nested ones, times in seconds.

    Histograms are of batches: their size; the time to decode and step one, to commit, to hand over
    what is to be sent, and from when a batch was taken to its acknowledgement.
    """

    received: int = 0
    predicted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    gaps: int = 0
    missing: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    evicted: Counter[str] = field(default_factory=Counter)
    publish_errors: int = 0
    connects: int = 0
    disconnects: int = 0
    sessions_lost: int = 0
    saves: int = 0
    save_errors: int = 0
    written_bytes: int = 0
    batch_size: Histogram = field(default_factory=lambda: Histogram(_SIZES))
    step: Histogram = field(default_factory=_seconds)
    commit: Histogram = field(default_factory=_seconds)
    publish: Histogram = field(default_factory=_seconds)
    answer: Histogram = field(default_factory=_seconds)
    now: Gauges = Gauges()

    def drop(self, reason: str, count: int) -> None:
        """So many messages are lost; none leaves no trace."""
        if count:
            self.dropped[reason] += count

    def summary(self) -> dict[str, Any]:
        """Name -> number; the nested counters as name.reason, only those that counted."""
        flat: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Counter):
                flat[name] = value.total()
                flat |= {f"{name}.{reason}": n for reason, n in sorted(value.items())}
            elif isinstance(value, int):
                flat[name] = value
        flat["batches"] = count = self.step.count
        flat["batch_ms_mean"] = round(1e3 * self.step.sum / max(1, count), 3)
        flat["batch_ms_max"] = round(1e3 * self.step.max, 3)
        return flat
