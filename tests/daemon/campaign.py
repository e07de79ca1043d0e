"""Kill the daemon over and over, and hold what came of it against a run that nothing disturbed.

    python -m tests.daemon.campaign --kills 60

A broker, a publisher of numbered messages, and a consumer go on all the while. Each time the daemon
is started it is killed with SIGKILL: at one of the named write boundaries, or at a random moment.
In the end every prediction must be there, byte for byte what it is without kills, and the states
must have the same bits. Prints a row for each broker.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

import edge_rnn
from edge_rnn.journal import Journal
from edge_rnn.messages import Message, Spec
from edge_rnn.pipeline import Pipeline
from tests.daemon.conftest import MOSQUITTO, Broker, Client, IotCore, Mosquitto, make_model
from tests.daemon.killable import POINTS

ROOT = Path(__file__).parents[2]
MOMENTS = (*POINTS, "any moment", "a torn write")
STREAMS, EACH_ROUND = 5, 60
SPEC = Spec(topics=["in/{d}"], output="out/{d}", sequence="q", hold=60.0)


@dataclass
class Outcome:
    """What a campaign found. `repeated` predictions came more than once, the same each time."""

    broker: str
    kills: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    lost: int = 0
    wrong: int = 0
    wrong_states: int = 0
    repeated: int = 0

    @property
    def good(self) -> bool:
        return not (self.lost or self.wrong or self.wrong_states)


class Campaign:
    """One broker, one pipeline, many deaths."""

    def __init__(self, broker: Broker, folder: Path, seed: int) -> None:
        self.broker, self.folder, self.random = broker, folder, random.Random(seed)
        self.outcome = Outcome(type(broker).__name__.lower())
        self.model = make_model(seed)
        self.oracle = Pipeline(self.model, SPEC)  # compiles, so that no daemon has to
        edge_rnn.save(self.model, folder / "m.ernn")
        self.client = Client(broker.port, ["out/#"])
        self.sent: list[tuple[str, bytes]] = []

    def run(self, kills: int) -> Outcome:
        log = self.folder / "daemon.log"
        self._live(lambda: "subscribed" in log.read_text())  # from here on the broker has a session
        self._publish(1)
        moments = [MOMENTS[i % len(MOMENTS)] for i in range(kills)]
        self.random.shuffle(moments)
        for moment in moments:
            self._publish(self.random.randint(1, EACH_ROUND))
            self._die(moment)
            self.outcome.kills[moment] += 1
        self._live(lambda: len(self._seen()) >= len(self.sent))
        self.client.close()
        self._judge()
        return self.outcome

    def _publish(self, each: int) -> None:
        """So many messages of every stream."""
        for _ in range(each):
            n = len(self.sent) // STREAMS + 1
            for d in range(STREAMS):
                a, b = self.random.gauss(0, 1), self.random.gauss(0, 1)
                payload = msgspec.json.encode({"a": a, "b": b, "q": n})
                self.sent.append((f"in/d{d}", payload))
                self.client._client.publish(f"in/d{d}", payload, 1)

    def _config(self) -> Path:
        """Batches of another size at each start."""
        path = self.folder / "p.toml"
        path.write_text(
            f'[model]\nfile = "m.ernn"\n[broker]\nhost = "127.0.0.1"\nport = {self.broker.port}\n'
            'client_id = "killed"\nretry_min = "50ms"\nretry_max = "200ms"\n'
            '[input]\ntopic = "in/{d}"\nsequence = "q"\nhold = "60s"\n[output]\ntopic = "out/{d}"\n'
            f"[queue]\nmax_batch = {self.random.choice([1, 7, 256])}\n"
        )
        return path

    @contextmanager
    def _daemon(self, point: str = "", count: int = 0) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "tests.daemon.killable", point, str(count)]
        with (self.folder / "daemon.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, str(self._config())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _die(self, moment: str) -> None:
        point = moment if moment in POINTS else ""
        before = len(self._seen())
        with self._daemon(point, self.random.randint(1, 4)) as process:
            wait = 6.0 if point else self._until_busy(before)
            with suppress(subprocess.TimeoutExpired):
                process.wait(wait)
        if moment == "a torn write":
            self._tear()

    def _until_busy(self, before: int) -> float:
        """Wait for the first answers; then how long it may still live."""
        end = time.monotonic() + 30
        while len(self._seen()) == before and time.monotonic() < end:
            time.sleep(0.005)
        return self.random.uniform(0, 0.2)

    def _tear(self) -> None:
        """Half a frame that a lost power supply leaves at the end of the write-ahead log."""
        log = self.folder / "p.state-wal"
        if log.exists():
            with log.open("ab") as file:
                file.write(self.random.randbytes(self.random.randint(1, 6000)))

    def _live(self, done: Callable[[], bool]) -> None:
        """Leave the daemon alone until this is so."""
        with self._daemon() as process:
            end = time.monotonic() + 120
            while not done() and time.monotonic() < end:
                assert process.poll() is None, (self.folder / "daemon.log").read_text()[-3000:]
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def _seen(self) -> dict[tuple[str, int, int], set[bytes]]:
        seen: dict[tuple[str, int, int], set[bytes]] = {}
        for _, payload in list(self.client.messages):
            answer = msgspec.json.decode(payload)
            key = answer["stream"], answer.get("run", 0), answer["n"]
            seen.setdefault(key, set()).add(payload)
        return seen

    def _judge(self) -> None:
        """Against the same pipeline in this process, one message after the other."""
        oracle, o = self.oracle, self.outcome
        wanted = {
            (p.stream, p.run, p.n): p.payload
            for m in self.sent
            for p in oracle.feed([Message(*m)], 0.0).predictions
        }
        seen = self._seen()
        o.messages = len(self.sent)
        o.lost = len(wanted.keys() - seen.keys())
        o.wrong = sum(payloads != {wanted.get(key)} for key, payloads in seen.items())
        o.repeated = len(self.client.messages) - len(seen)
        with Journal(self.folder / "p.state", model=oracle.digest, pipeline="p") as journal:
            kept = {s.stream: s for s in journal.load().states}
        o.wrong_states = sum(kept.get(s.stream) != s for s in oracle.changes().states)


def brokers(folder: Path) -> Iterator[Broker]:
    """Those that are installed."""
    if MOSQUITTO:
        yield Mosquitto(folder, extra="allow_anonymous true\nmax_inflight_messages 0")
    with suppress(ImportError):
        import iotcore  # noqa: F401

        yield IotCore(folder)


def campaign(kills: int, seed: int = 0) -> Iterator[Outcome]:
    """`kills` deaths, shared between the brokers."""
    with tempfile.TemporaryDirectory() as top:
        found = list(brokers(Path(top)))
        for i, broker in enumerate(found):
            folder = Path(top) / str(i)
            folder.mkdir()
            broker.folder = folder
            broker.start()
            try:
                share = kills // len(found) + (i < kills % len(found))
                yield Campaign(broker, folder, seed + i).run(share)
            finally:
                broker.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    outcomes = []
    for o in campaign(options.kills, options.seed):
        outcomes.append(o)
        if not options.json:
            deaths = ", ".join(f"{n} {moment}" for moment, n in sorted(o.kills.items()))
            print(f"{o.broker}: {o.kills.total()} kills ({deaths}); {o.messages} messages, "
                  f"{o.lost} lost, {o.wrong} wrong, {o.wrong_states} wrong states, "
                  f"{o.repeated} repeated the same", flush=True)  # fmt: skip
    if options.json:
        print(json.dumps([asdict(o) for o in outcomes], indent=2))
    sys.exit(not all(o.good for o in outcomes))


if __name__ == "__main__":
    main()
