"""Kill the daemon over and over, and hold what came of it against a run that nothing disturbed.

    python -m tests.delivery.campaign --kills 60

A broker, a publisher of numbered messages, and a consumer go on all the while. Each time the daemon
is started it is killed with SIGKILL: at one of the named write boundaries, or at a random moment.
In the end every prediction must be there, byte for byte what it is without kills, and the states
must have the same bits. Each broker is tried with each transport, then with fewer commits, and with
the predictions at another broker; every boundary must be reached.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.delivery import power
from tests.delivery.forge import Forge, Forked
from tests.delivery.hobbles import BOUNDARIES
from tests.delivery.rig import CONNECTED, TRANSPORTS, Rig, Verdict, brokers, rig

ANY = "any moment"
MOMENTS = (*BOUNDARIES, ANY)
BURSTS = (1, 1, 5, 5, 20, 40, 250)  # messages of each stream
INTERVALS = ("20ms", "200ms")  # of commits, where they are fewer
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Setup:
    """A broker, a transport; `commit_every`: whether commits are fewer, and answers wait for them;
    the predictions' broker, if it is another."""

    broker: str
    transport: str
    commit_every: bool = False
    output: str = ""

    def __str__(self) -> str:
        where = f"{self.broker} to {self.output}" if self.output else self.broker
        return f"{where}, {self.transport}{', commit_every' * self.commit_every}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A campaign: how often the daemon died at each moment, how often it did not come to it, and
    what came of the messages."""

    setup: Setup
    kills: dict[str, int]
    missed: dict[str, int]
    verdict: Verdict


class Campaign:
    """One setup, one pipeline, many deaths."""

    def __init__(self, site: Rig, forge: Forge, setup: Setup) -> None:
        self.rig, self.forge, self.setup, self.random = site, forge, setup, site.random
        self.kills: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()

    def run(self, moments: list[str]) -> Outcome:
        self._live(lambda: True)  # from here on the broker has a session
        for moment in moments:
            self.rig.publish(self.random.choice(BURSTS))
            reached = self._at_any_moment() if moment == ANY else self._at_boundary(moment)
            (self.kills if reached else self.missed)[moment] += 1
        self._live(lambda: self.rig.complete)
        return Outcome(self.setup, dict(self.kills), dict(self.missed), self.rig.judge())

    def _start(self, *preparations: list[object]) -> Forked:
        every = f'commit_every = "{self.random.choice(INTERVALS)}"' * self.setup.commit_every
        return self.forge.start(self.rig.config(state=every), *preparations)

    def _at_any_moment(self) -> bool:
        daemon, before = self._start(), len(self.rig.seen)
        end = time.monotonic() + PATIENCE
        while len(self.rig.seen) == before and time.monotonic() < end:
            self.rig.publish(1)
            time.sleep(0.005)
        daemon.wait(self.random.uniform(0, 0.2))
        return daemon.kill() == -9

    def _at_boundary(self, name: str) -> bool:
        """The daemon kills itself; it is given work until it does."""
        count = 1 if name == "opening the state file" else self.random.randint(1, 4)
        order = ["die", name, count, self.random.randrange(2**32)]
        daemon = self._start(order)
        end = time.monotonic() + PATIENCE
        while not daemon.wait(0.05) and time.monotonic() < end:
            self.rig.publish(1)
        reached = daemon.wait(0) and daemon.status() == -9
        daemon.kill()
        self._lose_power(name)
        return reached

    def _lose_power(self, name: str) -> None:
        file = self.rig.folder / "p.state"
        log = file.with_name("p.state-wal")
        if name == "power loss":
            power.tear(log, self.random)
        elif name == "power loss in a checkpoint":
            power.tear_checkpoint(file, log, self.random)

    def _live(self, done: Callable[[], bool]) -> None:
        """Leave the daemon alone until it is connected and this is so, or nothing happens any
        more."""
        connects = self.rig.log.count(CONNECTED)
        daemon = self._start()
        seen, end = 0, time.monotonic() + PATIENCE
        while not (self.rig.log.count(CONNECTED) > connects and done()) and time.monotonic() < end:
            assert not daemon.wait(0.05), daemon.log[-3000:]
            if len(self.rig.seen) > seen:
                seen, end = len(self.rig.seen), time.monotonic() + PATIENCE
        assert daemon.stop() == 0, daemon.log[-3000:]


def setups(found: list[str]) -> list[Setup]:
    """Each broker with each transport; then what else there is, each with each transport."""
    first, second = found[0], found[-1]
    pairs = [(first, "batch"), (second, "paho")]
    return [
        *(Setup(b, t) for b in found for t in TRANSPORTS),
        *(Setup(b, t, commit_every=True) for b, t in pairs),
        Setup(first, "batch", output=second),
        Setup(second, "paho", output=first),
    ]


def campaign(kills: int, seed: int = 0, only: str = "") -> Iterator[Outcome]:
    """`kills` deaths, shared between the setups of all brokers, or of only one, of every moment as
    many."""
    known = brokers()
    tried = setups([b for b in known if only in b])
    moments = [MOMENTS[i % len(MOMENTS)] for i in range(kills)]
    with tempfile.TemporaryDirectory() as top, Forge() as forge:
        for i, setup in enumerate(tried):
            share = moments[i :: len(tried)]
            random.Random(seed + i).shuffle(share)
            broker = known[setup.broker](Path(top) / str(i))
            output = known[setup.output](broker.folder / "output") if setup.output else None
            with rig(broker, setup.transport, seed + i, output) as site:
                yield Campaign(site, forge, setup).run(share)


def tables(outcomes: list[Outcome]) -> str:
    """How often the daemon was killed at each moment, and what came of it with each setup."""
    kills = sum((Counter(o.kills) for o in outcomes), Counter())
    counts = ("messages", "lost", "doubled", "wrong", "wrong_states", "repeated")
    rows = [(str(o.setup), sum(o.kills.values()), sum(o.missed.values()),
             *(getattr(o.verdict, c) for c in counts)) for o in outcomes]  # fmt: skip
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    head = ("setup", "kills", "not reached", *(c.replace("_", " ") for c in counts))
    moments = [(m, kills[m]) for m in MOMENTS]
    return f"{_table([('killed', 'times'), *moments])}\n\n{_table([head, *rows])}"


def _table(rows: list[tuple[object, ...]]) -> str:
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * w for w in widths])
    lines = (" | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in cells)
    return "\n".join(f"| {line} |" for line in lines)


def good(outcomes: list[Outcome]) -> bool:
    """Nothing lost, doubled or wrong, every death where it was meant, every boundary reached."""
    reached = {moment for o in outcomes for moment in o.kills}
    asked = sum(sum(o.kills.values()) for o in outcomes)
    all_reached = len(reached) == len(MOMENTS) or asked < len(MOMENTS)
    return all_reached and all(o.verdict.good and not o.missed for o in outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--broker", default="", choices=["mosquitto", "iotcore"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    options = parser.parse_args()
    outcomes = []
    for o in campaign(options.kills, options.seed, options.broker):
        outcomes.append(o)
        print(f"{o.setup}: {sum(o.kills.values())} kills, {o.verdict}",
              file=sys.stderr, flush=True)  # fmt: skip
    found = [asdict(o) for o in outcomes]
    print(json.dumps(found, indent=2) if options.json else tables(outcomes))
    sys.exit(not good(outcomes))


if __name__ == "__main__":
    main()
