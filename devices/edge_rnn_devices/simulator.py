"""Simulated devices: real recordings replayed over MQTT at their true rate, or faster.

Each device publishes `{"timestamp": s, "ax": ..., ..., "seq": n, "epoch": e}` to
`sensors/NAME/imu`, and, when its wearer changes activity, `{"timestamp": s, "activity": ...}` to
`truth/NAME`.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click
import msgspec

from edge_rnn_devices.publisher import Publisher
from edge_rnn_devices.recordings import ACTIVITIES, FEATURES, RATE_HZ, Recordings, day, load

_PATIENCE = 10.0
_GROUP = 0.005  # seconds: the demo shows how soon predictions come


def device_names(count: int) -> list[str]:
    """`watch-1` and on."""
    return [f"watch-{i + 1}" for i in range(count)]


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading: features in the order of `FEATURES`, and what the wearer really does."""

    features: list[float]
    activity: str


def endless_day(recordings: Recordings, seed: int) -> Iterator[Sample]:
    """One wearer's day: all recordings in random order, then in another, and so on.

    It begins inside its first recording, so that wearers don't change activity all at once.
    """
    start = 37 * seed % recordings.samples.shape[1]
    while True:
        samples, labels = day(recordings, seed)
        for features, label in zip(samples[start:].tolist(), labels[start:].tolist(), strict=True):
            yield Sample(features, ACTIVITIES[label])
        seed, start = seed + 1_000_003, 0


class Simulator:
    """Publishes the samples of several devices, numbered, through one publisher."""

    def __init__(self, publisher: Publisher, days: dict[str, Iterator[Sample]]) -> None:
        self.days = days
        self.sent = 0
        self._doing: dict[str, str] = {}
        self._publisher = publisher

    def replay(self, rate: float, seconds: float) -> None:
        """A sample of every device `rate` times a second for `seconds` (0: without end)."""
        start, ticks = time.monotonic(), 0
        while not seconds or ticks < rate * seconds:
            wait = start + ticks / rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            self._tick()
            ticks += 1

    def _tick(self) -> None:
        for device, samples in self.days.items():
            sample, now = next(samples), time.time()
            if self._doing.get(device) != sample.activity:
                self._doing[device] = sample.activity
                truth = {"timestamp": now, "activity": sample.activity}
                self._publisher.send(f"truth/{device}", truth)
            reading = {"timestamp": now, **dict(zip(FEATURES, sample.features, strict=True))}
            self._publisher.send(f"sensors/{device}/imu", reading)
            self.sent += 1


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=1883, show_default=True)
@click.option("--devices", default=8, show_default=True)
@click.option("--speed", default=1.0, show_default=True, help="Times real time.")
@click.option("--seconds", default=0.0, help="Stop after this many; 0: on SIGTERM.")
def main(host: str, port: int, devices: int, speed: float, seconds: float) -> None:
    """Replay held-out recordings as devices on an MQTT 5 broker."""
    recordings = load("test")
    days = {n: endless_day(recordings, seed) for seed, n in enumerate(device_names(devices))}
    name = f"watches-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / "spool"
        publisher = Publisher(spool, host, port, topic="{stream}", client_id=name, group=_GROUP)
        signal.signal(signal.SIGTERM, _stop)
        simulator = Simulator(publisher, days)
        with suppress(KeyboardInterrupt):
            simulator.replay(RATE_HZ * speed, seconds)
        publisher.drain(_PATIENCE)
        publisher.close()
    click.echo(msgspec.json.encode({"sent": simulator.sent}).decode())


def _stop(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
