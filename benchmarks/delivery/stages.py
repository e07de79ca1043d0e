"""What each stage between the broker's bytes costs, in this process alone: no socket, no broker.

    python -m benchmarks.delivery.stages

CPU us a message, the lowest twentieth of the batches: other processes on the machine make the rest
dearer.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.delivery.__main__ import table
from benchmarks.delivery.feeder import STREAMS, readings
from benchmarks.delivery.processes import gru
from edge_rnn.journal import Journal
from edge_rnn.messages import Message, Spec
from edge_rnn.pipeline import Pipeline
from edge_rnn_converters.quantize import quantize

BATCHES = {1: 300, 30: 200, 256: 100, 1000: 30}
"""Messages in a batch -> batches."""
MODEL = quantize(gru(), "w8a8")
clock = time.process_time


def measure(batch: int, batches: int, folder: Path, *, exact: bool) -> dict[str, float | int | str]:
    """A row of the table."""
    sequence = "q" if exact else None
    spec = Spec(["sensors/{d}/imu"], "predictions/{d}", sequence=sequence, capacity=STREAMS)
    pipeline = Pipeline(MODEL, spec)
    fed = [Message(t.decode(), p) for t, p in readings(STREAMS + batch * batches)]
    found: list[list[float]] = []
    with Journal(folder / f"{batch}.state", model=pipeline.digest, pipeline="p") as journal:
        pipeline.feed(fed[:STREAMS], 0.0)
        box = 0
        for at in range(STREAMS, len(fed), batch):
            times = [clock()]
            result = pipeline.feed(fed[at : at + batch], 0.0)
            times.append(clock())
            if exact:
                letters = [(p.topic, p.payload) for p in result.predictions]
                changes = pipeline.changes()
                times.append(clock())
                box = journal.commit(changes, letters, [box] if box else [])
                pipeline.saved()
                times.append(clock())
            found.append([1e6 * (b - a) / batch for a, b in pairwise(times)])
    stages = [statistics.quantiles(column, n=20)[0] for column in zip(*found, strict=True)]
    names = ("feed", "changes", "commit") if exact else ("feed",)
    kind = "numbered, journal" if exact else "neither"
    named = dict(zip(names, stages, strict=True))
    empty = dict.fromkeys(("feed", "changes", "commit"), 0.0)
    return {"messages": kind, "batch": batch} | empty | named | {"all": sum(stages)}


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        rows = []
        for exact in (True, False):
            place = Path(folder) / str(exact)
            place.mkdir()
            rows += [measure(b, n, place, exact=exact) for b, n in BATCHES.items()]
    print(table(rows))


if __name__ == "__main__":
    main()
