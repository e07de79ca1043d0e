"""What a message costs where a thousand streams are open, and a million: a GRU of 32 units in w8a8,
streams in random order. An id is a str that a message brings, or the one that its stream was opened
with, kept by the caller.

    python -m benchmarks.streams               # a minute, 600 MB; --json
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import click
import numpy as np

from edge_rnn import Session
from edge_rnn.graph import F32, Gru, Input, Matrix, Model
from edge_rnn_converters.quantize import quantize

FEW, MANY, H, I = 1000, 1_000_000, 32, 6
BATCHES, ROUNDS, MESSAGES = (1, 16, 256), 7, 20_000
SLOT, ID, KEPT = "slot", "id", "kept id"
OPENED = 10_000
"""Streams that are opened together."""

Call: TypeAlias = Callable[[Any], object]


def make_model() -> Model:
    """A random one."""
    rng = np.random.default_rng(0)
    w, u = (Matrix(rng.normal(0, 0.3, (3 * H, k)).astype(np.float32)) for k in (I, H))
    gru = Gru("gru", "x", w, u, np.zeros(3 * H, np.float32), np.zeros(H, np.float32))
    return quantize(Model((Input("x", I),), (gru,), ("gru",)), "w8a8")


def sensor(k: int) -> str:
    """A stream's id, a new str each time."""
    return f"site/sensor-{k:07d}"


class Site:
    """A session in which all streams are open."""

    def __init__(self, streams: int) -> None:
        self.ids = [sensor(k) for k in range(streams)]
        self.session = Session(make_model(), streams)
        opened = range(0, streams, OPENED)
        self.handles = np.concatenate(
            [self.session.slots(self.ids[first : first + OPENED]) for first in opened]
        )

    def nanoseconds(self, batch: int, by: str, rng: np.random.Generator) -> float:
        """A message in calls of so many, each stream named in one of the ways."""
        chosen = rng.integers(0, len(self.ids), (MESSAGES // batch, batch))
        x = rng.normal(size=(batch, I)).astype(np.float32)
        if by == SLOT:
            y = np.empty((batch, H), np.float32)
            return _timed(partial(self._by_slots, x, y), self.handles[chosen]) / chosen.size
        name = self.ids.__getitem__ if by == KEPT else sensor
        ids = [[name(k) for k in row] for row in chosen.tolist()]
        return _timed(lambda streams: self.session.step(streams, x), ids) / chosen.size

    def _by_slots(self, x: F32, y: F32, slots: Any) -> None:
        self.session.step_slots(slots, x, y)


def _timed(call: Call, work: Any) -> float:
    begun = time.perf_counter_ns()
    for one in work:
        call(one)
    return time.perf_counter_ns() - begun


def measure() -> list[dict[str, Any]]:
    """A row for each size of a call and way to name streams: medians of rounds in turn."""
    few, many, rng = Site(FEW), Site(MANY), np.random.default_rng(0)
    rows = []
    for by in (SLOT, ID, KEPT):
        for batch in BATCHES:
            rounds = [[s.nanoseconds(batch, by, rng) for s in (few, many)] for _ in range(ROUNDS)]
            one, other = np.median(rounds, axis=0)
            row = {"streams by": by, "in a call": batch, f"ns at {FEW:,}": round(one)}
            rows.append(row | {f"ns at {MANY:,}": round(other), "times": round(other / one, 2)})
    return rows


@click.command(help="Time a message among a thousand streams and among a million.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(as_json: bool) -> None:
    """Print the table."""
    rows = measure()
    if as_json:
        return click.echo(json.dumps(rows))
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return click.echo("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))


if __name__ == "__main__":
    main()
