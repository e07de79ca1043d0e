"""Predictions held against the truth: who said what, how often it was right, how late it came.

Memory does not grow with the number of messages.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_BINS_PER_DECADE = 100
_FASTEST = 1e-6
BAR, BARS = 10, 30
"""Predictions to a bar of the history, and bars kept."""


class Latencies:
    """A histogram of seconds on a logarithmic scale, exact to 2.4 %."""

    def __init__(self) -> None:
        self.counts = np.zeros(8 * _BINS_PER_DECADE, np.int64)
        self.max = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency; anything outside 1 us to 100 s counts as the nearest of these."""
        place = int(_BINS_PER_DECADE * math.log10(max(seconds, _FASTEST) / _FASTEST))
        self.counts[min(place, len(self.counts) - 1)] += 1
        self.max = max(self.max, seconds)

    def percentile(self, q: float) -> float:
        """The latency in seconds that q percent do not exceed; 0 when there is none."""
        total = int(self.counts.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.counts), max(1, math.ceil(total * q / 100))))
        return min(_FASTEST * float(10 ** ((place + 1) / _BINS_PER_DECADE)), self.max)


@dataclass(slots=True)
class Device:
    """What is known of one device: the latest prediction and the running counts.

    `bars` is its history: the mean confidence and the share of right ones of BAR predictions each.
    """

    name: str
    label: str = ""
    truth: str = ""
    confidence: float = 0.0
    messages: int = 0
    right: int = 0
    last_n: int = 0
    missing: int = 0
    repeated: int = 0
    recent: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=BAR))
    bars: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=BARS))
    latencies: Latencies = field(default_factory=Latencies)
    truths: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=1024))

    @property
    def accuracy(self) -> float:
        """Share of right predictions so far."""
        return self.right / self.messages if self.messages else 0.0


class Scoreboard:
    """Counts predictions per device and class, from the MQTT messages as they arrive.

    Hold `lock` while you add or read, where different threads do.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.lock = threading.Lock()
        self.classes = list(classes)
        self.devices: dict[str, Device] = {}
        self.latencies = Latencies()
        self.confusion = np.zeros((len(classes), len(classes)), np.int64)

    def truth(self, device: str, since: float, activity: str) -> None:
        """From the time `since` on the device's wearer does `activity`."""
        self._device(device).truths.append((since, activity))

    def prediction(self, device: str, message: dict[str, Any], arrived: float) -> None:
        """Count a prediction as published by the daemon; `arrived` in seconds since the epoch."""
        d = self._device(device)
        if not d.messages:  # a stream kept from an earlier run goes on counting
            d.last_n = message["n"] - 1
        d.missing += max(0, message["n"] - d.last_n - 1)
        d.repeated += message["n"] <= d.last_n
        d.last_n = max(d.last_n, message["n"])
        d.messages += 1
        d.label, d.confidence = message["label"], message["probabilities"][message["label"]]
        d.truth = self._truth_at(d, message["timestamp"])
        right = d.label == d.truth
        d.right += right
        d.recent.append((d.confidence, right))
        if d.messages % BAR == 0:
            confidence, rights = zip(*d.recent, strict=True)
            d.bars.append((sum(confidence) / BAR, sum(rights) / BAR))
        if d.truth:
            self.confusion[self.classes.index(d.truth), self.classes.index(d.label)] += 1
        for latencies in (d.latencies, self.latencies):
            latencies.add(arrived - message["timestamp"])

    @property
    def messages(self) -> int:
        """Predictions so far."""
        return sum(d.messages for d in self.devices.values())

    @property
    def accuracy(self) -> float:
        """Share of right predictions over all devices, changes of activity included."""
        return sum(d.right for d in self.devices.values()) / max(1, self.messages)

    def summary(self) -> dict[str, Any]:
        """Everything counted, for a program to read; latencies in milliseconds."""
        percentiles = {f"p{q}": 1e3 * self.latencies.percentile(q) for q in (50, 95, 99)}
        return {
            "predictions": self.messages,
            "out_of_order": sum(d.missing + d.repeated for d in self.devices.values()),
            "accuracy": self.accuracy,
            "classes": {c: self._class_scores(i) for i, c in enumerate(self.classes)},
            "latency_ms": {**percentiles, "max": 1e3 * self.latencies.max},
        }

    def _class_scores(self, i: int) -> dict[str, float]:
        hits = int(self.confusion[i, i])
        said, true = int(self.confusion[:, i].sum()), int(self.confusion[i].sum())
        return {"precision": hits / max(1, said), "recall": hits / max(1, true), "support": true}

    def _device(self, name: str) -> Device:
        return self.devices.setdefault(name, Device(name))

    @staticmethod
    def _truth_at(d: Device, when: float) -> str:
        return next((activity for since, activity in reversed(d.truths) if since <= when), "")
