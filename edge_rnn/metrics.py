"""What the daemon counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Metrics:
    """Counters since the start; reasons are the keys of the nested ones, times in seconds."""

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
    saves: int = 0
    save_errors: int = 0
    written_bytes: int = 0
    batches: int = 0
    batch_seconds: float = 0.0
    batch_seconds_max: float = 0.0

    def batch(self, seconds: float) -> None:
        """One batch was answered in so many seconds."""
        self.batches += 1
        self.batch_seconds += seconds
        self.batch_seconds_max = max(self.batch_seconds_max, seconds)

    def summary(self) -> dict[str, Any]:
        """Name -> number; the nested counters as name.reason, only those that counted."""
        flat: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Counter):
                flat[name] = value.total()
                flat |= {f"{name}.{reason}": n for reason, n in sorted(value.items())}
            elif not name.startswith("batch_"):
                flat[name] = value
        mean = self.batch_seconds / self.batches if self.batches else 0.0
        flat["batch_ms_mean"] = round(1e3 * mean, 3)
        flat["batch_ms_max"] = round(1e3 * self.batch_seconds_max, 3)
        return flat
