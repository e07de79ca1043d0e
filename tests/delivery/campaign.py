"""Kill the daemon over and over, and hold what came of it against a run that nothing disturbed.

    python -m tests.delivery.campaign --kills 60

A broker, a publisher of numbered messages, and a consumer go on all the while. Each time the daemon
is started it is killed with SIGKILL: at one of the named write boundaries, or at a random moment.
In the end every prediction must be there, byte for byte what it is without kills, and the states
must have the same bits. Each broker is tried with each transport; every boundary must be reached.
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
from tests.delivery.forge import Forge
from tests.delivery.hobbles import BOUNDARIES
from tests.delivery.rig import CONNECTED, TRANSPORTS, Rig, Verdict, brokers, rig

ANY = "any moment"
MOMENTS = (*BOUNDARIES, ANY)
BURSTS = (1, 1, 5, 5, 20, 40, 250)  # messages of each stream
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A campaign: how often the daemon died at each moment, how often it did not come to it, and
    what came of the messages."""

    broker: str
    transport: str
    kills: dict[str, int]
    missed: dict[str, int]
    verdict: Verdict


class Campaign:
    """One broker, one transport, one pipeline, many deaths."""

    def __init__(self, site: Rig, forge: Forge) -> None:
        self.rig, self.forge, self.random = site, forge, site.random
        self.kills: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()

    def run(self, moments: list[str]) -> Outcome:
        self._live(lambda: True)  # from here on the broker has a session
        for moment in moments:
            self.rig.publish(self.random.choice(BURSTS))
            reached = self._at_any_moment() if moment == ANY else self._at_boundary(moment)
            (self.kills if reached else self.missed)[moment] += 1
        self._live(lambda: self.rig.complete)
        broker = type(self.rig.broker).__name__.lower()
        counts = dict(self.kills), dict(self.missed)
        return Outcome(broker, self.rig.transport, *counts, self.rig.judge())

    def _at_any_moment(self) -> bool:
        daemon, before = self.forge.start(self.rig.config()), len(self.rig.seen)
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
        daemon = self.forge.start(self.rig.config(), order)
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
        daemon = self.forge.start(self.rig.config())
        seen, end = 0, time.monotonic() + PATIENCE
        while not (self.rig.log.count(CONNECTED) > connects and done()) and time.monotonic() < end:
            assert not daemon.wait(0.05), daemon.log[-3000:]
            if len(self.rig.seen) > seen:
                seen, end = len(self.rig.seen), time.monotonic() + PATIENCE
        assert daemon.stop() == 0, daemon.log[-3000:]


def campaign(kills: int, seed: int = 0, only: str = "") -> Iterator[Outcome]:
    """`kills` deaths, shared between brokers, or only one, and transports, of every moment as
    many."""
    with tempfile.TemporaryDirectory() as top, Forge() as forge:
        found = [b for b in brokers(Path(top)) if only in type(b).__name__.lower()]
        sites = [(b, t) for b in found for t in TRANSPORTS]
        moments = [MOMENTS[i % len(MOMENTS)] for i in range(kills)]
        for i, (broker, transport) in enumerate(sites):
            share = moments[i :: len(sites)]
            random.Random(seed + i).shuffle(share)
            with rig(broker, transport, Path(top) / str(i), seed + i) as site:
                yield Campaign(site, forge).run(share)


def table(outcomes: list[Outcome]) -> str:
    """A row for each moment and each count, a column for each broker and transport."""
    rows = [["", *(f"{o.broker}, {o.transport}" for o in outcomes), "all"]]
    rows += [_row(f"killed: {m}", [o.kills.get(m, 0) for o in outcomes]) for m in MOMENTS]
    rows.append(_row("kills", [sum(o.kills.values()) for o in outcomes]))
    rows.append(_row("boundary not reached", [sum(o.missed.values()) for o in outcomes]))
    names = ("messages", "lost", "doubled", "wrong", "wrong_states", "repeated")
    rows += [_row(n.replace("_", " "), [getattr(o.verdict, n) for o in outcomes]) for n in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
    return "\n".join(f"| {line} |" for line in (lines[0], _rule(widths), *lines[1:]))


def _row(name: str, counts: list[int]) -> list[str]:
    return [name, *map(str, counts), str(sum(counts))]


def _rule(widths: list[int]) -> str:
    return " | ".join("-" * w for w in widths)


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
        print(f"{o.broker}, {o.transport}: {sum(o.kills.values())} kills, {o.verdict}",
              file=sys.stderr, flush=True)  # fmt: skip
    print(json.dumps([asdict(o) for o in outcomes], indent=2) if options.json else table(outcomes))
    sys.exit(not good(outcomes))


if __name__ == "__main__":
    main()
