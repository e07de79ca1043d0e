"""Kill the broker itself, over and over: nothing may be doubled, and every loss be told as a gap.

    python -m tests.delivery.outages --kills 20

mosquitto with persistence writes its store after each change, in memory first: what it acknowledged
last is lost with it. In the end the journal's gaps must name each message that was not stepped: the
oracle, fed with all the others, must come to the same predictions and states, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from edge_rnn.pipeline import Pipeline
from tests.daemon.conftest import Mosquitto
from tests.delivery.forge import Forge
from tests.delivery.rig import CONNECTED, SPEC, STREAMS, TRANSPORTS, Rig, Verdict, rig

PERSISTENT = (
    "allow_anonymous true\nmax_inflight_messages 0\npersistence true\n"
    "persistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1"
)
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """missing: messages that the gaps name; verdict: of all others. Its `lost` predictions were
    made and stepped, but the broker lost them on their way to the consumer."""

    transport: str
    kills: int
    missing: int
    verdict: Verdict

    @property
    def good(self) -> bool:
        v = self.verdict
        return not (v.doubled or v.wrong or v.wrong_states)


def outages(site: Rig, forge: Forge, kills: int) -> Outcome:
    site.hold = "1s"
    daemon = forge.start(site.config())
    while CONNECTED not in site.log:
        assert not daemon.wait(0.05), daemon.log
    site.client._client.reconnect_delay_set(1, 1)
    for _ in range(kills):
        end = time.monotonic() + site.random.uniform(0.3, 1.5)
        while time.monotonic() < end:
            site.publish(2)
            time.sleep(0.02)
        assert site.broker.process
        site.broker.process.kill()
        site.broker.process.wait()
        site.broker.start()
    _catch_up(site)
    assert daemon.stop() == 0, daemon.log[-3000:]
    missing = _replay_without_gaps(site)
    return Outcome(site.transport, kills, missing, site.judge())


def _catch_up(site: Rig) -> None:
    """Until a message of each stream is answered that was published after the last kill."""
    mark, end = site.numbers, time.monotonic() + PATIENCE
    newest: dict[str, int] = {}
    while len(newest) < STREAMS or min(newest.values()) <= mark:
        assert time.monotonic() < end, f"waited {PATIENCE} s for all streams to go on"
        site.publish(1)
        time.sleep(0.1)
        for payloads in site.seen.values():
            answer = msgspec.json.decode(next(iter(payloads)))
            stream, sequence = answer["stream"], answer["sequence"]
            newest[stream] = max(sequence, newest.get(stream, 0))
    time.sleep(2.5)  # what is on its way, and what waits for its turn


def _replay_without_gaps(site: Rig) -> int:
    """Have the oracle see what the journal does not call missing -> how many it does."""
    with closing(sqlite3.connect(site.state_file)) as db:
        gaps = db.execute("SELECT stream, first, last FROM gaps").fetchall()
    missing = {(f"in/{s}", n) for s, first, last in gaps for n in range(first, last + 1)}
    number = msgspec.json.Decoder(dict[str, Any]).decode
    left = [m for m in site.sent if (m.topic, number(m.payload)["q"]) not in missing]
    site.oracle = Pipeline(site.oracle.model, replace(SPEC, sequence=None, increasing="q"))
    predictions = site.oracle.feed(left, 0.0).predictions
    site.wanted = {(p.stream, p.run, p.n): p.payload for p in predictions}
    return len(missing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each transport")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as top, Forge() as forge:
        for i, transport in enumerate(TRANSPORTS):
            broker = Mosquitto(Path(top), extra=PERSISTENT)
            with rig(broker, transport, Path(top) / str(i), options.seed + i) as site:
                outcomes.append(outages(site, forge, options.kills))
    if options.json:
        print(json.dumps([asdict(o) for o in outcomes], indent=2))
    for o in outcomes if not options.json else ():
        v = o.verdict
        print(
            f"mosquitto, {o.transport}: killed {o.kills} times; {v.messages} messages, "
            f"{o.missing} told as missing; of the others {v.doubled} doubled, {v.wrong} wrong, "
            f"{v.wrong_states} wrong states; {v.lost} predictions were lost on their way out"
        )
    sys.exit(not all(o.good for o in outcomes))


if __name__ == "__main__":
    main()
