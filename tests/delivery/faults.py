"""Make the network, the disk, the clock and the memory bad, one after the other.

    python -m tests.delivery.faults

Each time the daemon must say in its log what is wrong, and recover by itself or stop cleanly. In
the end every prediction must be there, byte for byte, and every state must have the right bits.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.delivery.bench import Bench, end, run
from tests.delivery.disk_faults import (
    disk_errors,
    disk_turns_read_only,
    full_disk,
    read_only_disk,
)
from tests.delivery.forge import Forge
from tests.delivery.proxy import Proxy
from tests.delivery.rig import CONNECTED, TRANSPORTS, Verdict, brokers, rig


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault did: `said`, whether the log names it; `how` the daemon went on."""

    fault: str
    broker: str
    transport: str
    said: str
    how: str
    verdict: Verdict

    @property
    def good(self) -> bool:
        return bool(self.said) and self.verdict.good


def reset(b: Bench) -> None:
    for _ in range(3):
        b.busy(0.3)
        b.proxy.reset()


def flapping(b: Bench) -> None:
    for _ in range(15):
        b.busy(0.1)
        b.proxy.reset()


def stall(b: Bench) -> None:
    b.busy(0.2)
    b.proxy.stall()
    b.busy(3.0)
    b.proxy.go_on()


def half_open(b: Bench) -> None:
    b.busy(0.2)
    b.proxy.forget()
    b.busy(0.5)


def slow(b: Bench) -> None:
    """1 KB/s: the daemon stays connected, and what it says and hears is late."""
    b.proxy.rate = 1000
    b.busy(4.0, each=1)
    assert not b.daemon.wait(0)
    b.proxy.rate = 0


def disorder(b: Bench) -> None:
    b.proxy.disorder = True
    b.busy(2.0, each=20)
    b.complete()
    b.proxy.disorder = False


def wall_clock(b: Bench) -> None:
    """A day back, then a year ahead, then a day back."""
    offset = b.rig.folder / "offset"
    offset.write_text("0")
    b.start(["wall clock", str(offset)])
    b.subscribed()
    for days in (-1, 365, -1):
        offset.write_text(str(86400 * days))
        b.busy(0.4)
    b.how = "not affected"
    end(b)


def out_of_memory(b: Bench) -> None:
    """In the middle of a batch that is stepped and half answered."""
    run(b)
    assert b.daemon.stop() == 0
    for count in (1, 7, 33):
        b.start(["out of memory", count])
        b.rig.publish(10)
        assert b.daemon.status() == 1
    b.how = "stopped, exit code 1"
    b.start()
    end(b)


def little_memory(b: Bench) -> None:
    """Its address space may hardly grow, and much comes at once. CPython may crash where it has no
    memory for a call's frame: then its fault handler says so, and the exit code is a signal's."""
    run(b)
    pages = int(Path(f"/proc/{b.daemon.pid}/statm").read_text().split()[0])
    b.daemon.limit("RLIMIT_AS", pages * resource.getpagesize() + (1 << 18))
    b.rig.publish(1500)
    b.wait("an end, or all predictions", lambda: b.daemon.wait(0) or b.rig.complete)
    if b.daemon.wait(0):
        status = b.daemon.status()
        b.how = f"stopped, exit code {status}"
        b.start()
    end(b)


def _through(network: Callable[[Bench], None]) -> Callable[[Bench], None]:
    """The daemon runs on throughout."""

    def fault(b: Bench) -> None:
        run(b)
        network(b)
        end(b)

    return fault


FAULTS: dict[str, tuple[Callable[[Bench], None], str]] = {
    "connection reset": (_through(reset), r"connection (lost|reset)|broker closed"),
    "flapping network": (_through(flapping), r"connection (lost|reset)|broker closed"),
    "stalled network": (_through(stall), r"silent|connection lost: (Keep|keep)|does not answer"),
    "half-open connection": (_through(half_open), r"silent|connection lost: (Keep|keep)"),
    "1 KB/s": (_through(slow), CONNECTED),
    "disordered and doubled": (_through(disorder), r'"duplicates":[1-9]'),
    "full disk": (full_disk, r"can't save: .*nothing is acknowledged until it works"),
    "read-only disk": (read_only_disk, r"p\.state.*"),
    "disk turns read-only": (disk_turns_read_only, r"can't save: .*nothing is acknowledged until"),
    "disk errors": (disk_errors, r"can't save: .*nothing is acknowledged until it works"),
    "wall clock off": (wall_clock, CONNECTED),
    "out of memory": (out_of_memory, r"out of memory"),
    "little memory": (little_memory, r"out of memory|Fatal Python error"),
}
"""What is done, and what the log must say."""


def faults(
    names: Iterable[str], transports: Iterable[str] = TRANSPORTS, seed: int = 0
) -> Iterator[Outcome]:
    """Each with each transport, at mosquitto; only it takes acknowledgements in disorder."""
    with tempfile.TemporaryDirectory() as top, Forge() as forge:
        for i, (name, transport) in enumerate((n, t) for n in names for t in transports):
            broker = brokers()["mosquitto"](Path(top) / str(i))
            with rig(broker, transport, seed + i) as site, Proxy(site.port) as p:
                bench = Bench(site, forge, p)
                make, wanted = FAULTS[name]
                make(bench)
                said = re.search(wanted, site.log)
                text = said[0][-100:] if said else ""
                yield Outcome(name, "mosquitto", transport, text, bench.how, site.judge())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="FAULT", help="one of: " + ", ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    options = parser.parse_args()
    outcomes = []
    for o in faults(options.names or FAULTS, seed=options.seed):
        outcomes.append(o)
        if not options.json:
            v = o.verdict
            print(f"| {o.fault} | {o.transport} | {o.said!r} | {o.how} | {v.messages} messages, "
                  f"{v.lost} lost, {v.doubled} doubled, {v.wrong} wrong, {v.wrong_states} wrong "
                  f"states |", flush=True)  # fmt: skip
    if options.json:
        print(json.dumps([asdict(o) for o in outcomes], indent=2))
    sys.exit(not all(o.good for o in outcomes))


if __name__ == "__main__":
    main()
