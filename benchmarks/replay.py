"""Many streams for hours of event time, replayed at full speed: memory, and each stream alone.

    python -m benchmarks.replay                          # 100,000 streams, two hours: 12 million
    python -m benchmarks.replay --streams 2000 --hours 0.2

Messages are numbered, so that ordering, holds and marks are at work, and streams may go idle
(ttl). Memory is looked at when a quarter, a half, ... of the messages are through: all streams are
open from the first minute on. Sampled streams are stepped again, each alone in a session of its
own, and must have the same bits. Exits with 1 if memory grows or a bit differs.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import click
import msgspec
import numpy as np

from edge_rnn.graph import F32, Dense, Feature, Gru, Input, Matrix, Model
from edge_rnn.messages import Spec
from edge_rnn.payload import Prediction
from edge_rnn.pipeline import Pipeline
from edge_rnn.replay import Event, Player
from edge_rnn.session import Session

FEATURES = ("ax", "ay", "az", "gx", "gy", "gz")
GROWTH = 0.02
"""What memory may grow by from the first quarter to the end, as a share."""
_PATTERNS = 4096
_START = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams, each with a message every so many seconds, for so many messages."""

    streams: int
    every: float
    messages: int

    def events(self, bodies: list[bytes]) -> Iterator[Event]:
        """All messages in the order they come."""
        gap = self.every / self.streams
        topics = [f"sensors/d{s}/imu" for s in range(self.streams)]
        for n in range(self.messages):
            at = _START + n * self.every
            for s, topic in enumerate(topics):
                payload = bodies[pattern(s, n)] % (n + 1)
                yield Event("in", at + s * gap, topic, payload)


def pattern(stream: int, n: int) -> int:
    """Which features a stream's message has."""
    return (stream * 7919 + n * 104_729 + n * n * 31) % _PATTERNS


def make_model(width: int) -> Model:
    """A random GRU of six features with two outputs."""
    r = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Matrix:
        return Matrix((r.normal(size=(rows, columns)) / columns**0.5).astype(np.float32))

    def vector(rows: int) -> F32:
        return (0.1 * r.normal(size=rows)).astype(np.float32)

    H, I = width, len(FEATURES)
    gru = Gru("g", "x", matrix(3 * H, I), matrix(3 * H, H), vector(3 * H), vector(H))
    dense = Dense("y", "g", matrix(2, H), vector(2))
    named = tuple(Feature(f) for f in FEATURES)
    return Model((Input("x", I),), (gru, dense), ("y",), named)


def resident() -> float:
    """MB of memory that the process holds by itself."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


@click.command()
@click.option("--streams", default=100_000, show_default=True)
@click.option("--hours", default=2.0, show_default=True, help="Event time.")
@click.option("--every", default=60.0, show_default=True, help="Seconds between two of a stream.")
@click.option("--width", default=32, show_default=True, help="Of the GRU.")
@click.option("--check", default=200, show_default=True, help="Streams to step again alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
def main(streams: int, hours: float, every: float, width: int, check: int, as_json: bool) -> None:
    """Replay it, measure, and compare."""
    r = np.random.default_rng(1)
    x = r.normal(size=(_PATTERNS, len(FEATURES))).round(3).astype(np.float32)
    bodies = [_body(row) for row in x]
    load = Load(streams, every, max(4, round(3600 * hours / every)))
    model = make_model(width)
    spec = Spec(["sensors/{device}/imu"], "out/{device}", sequence="n", ttl=3600, capacity=streams)
    player = Player(Pipeline(model, spec))
    sampled = r.choice(streams, min(check, streams), replace=False).tolist()
    shape = (load.messages, model.output_width)
    mine = {f"d{s}": np.full(shape, np.nan, np.float32) for s in sampled}  # now, not as it fills
    decode, memory = msgspec.json.Decoder(Prediction).decode, [resident()]
    events, started = load.events(bodies), time.process_time()
    for share in range(4):
        count = streams * (load.messages * (share + 1) // 4 - load.messages * share // 4)
        for predictions in player.play(islice(events, count)):
            for p in predictions:
                if p.stream in mine:
                    mine[p.stream][p.n - 1] = decode(p.payload).values
        gc.collect()
        memory.append(resident())
        if not as_json:
            print(f"{share + 1}/4: {player.summary.messages} messages, {memory[-1]:.1f} MB")
    took = time.process_time() - started
    wrong = [s for s in sampled if not alone(model, mine[f"d{s}"], x, load, s)]
    growth = memory[-1] / memory[1] - 1
    found = {
        "streams": streams,
        "summary": asdict(player.summary),
        "cpu_microseconds_a_message": 1e6 * took / player.summary.messages,
        "megabytes": memory,
        "growth": growth,
        "compared_streams": len(sampled),
        "different_streams": len(wrong),
    }
    print(msgspec.json.encode(found).decode() if as_json else _text(found))
    sys.exit(bool(wrong) or growth > GROWTH or player.summary.predictions < streams * load.messages)


def alone(model: Model, found: F32, x: F32, load: Load, stream: int) -> bool:
    """Has a session with this stream alone the same bits, at each of its messages?"""
    rows = x[[pattern(stream, n) for n in range(load.messages)]]
    y = Session(model, capacity=1).run("alone", rows)
    return bool(np.array_equal(found.view(np.int32), y.view(np.int32)))


def _body(row: F32) -> bytes:
    values = dict(zip(FEATURES, row.tolist(), strict=True))
    return msgspec.json.encode(values)[:-1].replace(b"%", b"%%") + b',"n":%d}'


def _text(found: dict[str, object]) -> str:
    return "\n".join(f"{key:<28} {value}" for key, value in found.items())


if __name__ == "__main__":
    main()
