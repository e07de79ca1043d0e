"""Kill the broker itself, over and over: nothing may be doubled, and every loss be told as a gap.

    python -m tests.delivery.outages --kills 20

mosquitto with persistence writes its store after some changes: what it acknowledged since is lost
with it. Each third time the daemon is away, and the broker holds what comes. In the end the
journal's gaps must name each message that was not stepped: the oracle, fed with all the others,
must come to the same predictions and states, bit for bit.
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
from tests.daemon.conftest import Mosquitto, wait_until
from tests.delivery.forge import Forge
from tests.delivery.rig import CONNECTED, SPEC, STREAMS, TRANSPORTS, Rig, Verdict, rig

PERSISTENT = (
    "allow_anonymous true\nmax_inflight_messages 0\npersistence true\n"
    "persistence_location {folder}/\nautosave_on_changes true"
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


def _outages(site: Rig, forge: Forge, kills: int) -> Outcome:
    site.hold = "1s"
    daemon = forge.start(site.config())
    while CONNECTED not in site.log:  # a stream begins at its first message that the broker has
        assert not daemon.wait(0.05), daemon.log
    _answered(site)
    site.client._client.reconnect_delay_set(1, 1)
    for i in range(kills):
        away = i % 3 == 2  # the broker then holds what comes
        if away:
            assert daemon.stop() == 0, daemon.log[-3000:]
            _hold(site)
        _busy(site)
        assert site.broker.process
        site.broker.process.kill()
        site.broker.process.wait()
        site.broker.start()
        if away:
            daemon = forge.start(site.config())
    while CONNECTED not in site.log:  # a stream begins at its first message that the broker has
        assert not daemon.wait(0.05), daemon.log
    _answered(site)
    assert daemon.stop() == 0, daemon.log[-3000:]
    missing = _replay_without_gaps(site)
    return Outcome(site.transport, kills, missing, site.judge())


def _hold(site: Rig) -> None:
    """Have the broker acknowledge a message of each stream, as soon as the publisher is back."""
    wait_until("the publisher to be back", site.client._client.is_connected)
    for message in site.publish(1):
        message.wait_for_publish(PATIENCE)
        assert message.is_published()


def _busy(site: Rig) -> None:
    end = time.monotonic() + site.random.uniform(0.3, 1.5)
    while time.monotonic() < end:
        site.publish(2)
        time.sleep(0.02)


def _answered(site: Rig) -> None:
    """Publish until each stream answers its newest message: what it missed before is a gap now."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        site.publish(1)
        soon = time.monotonic() + 2.5  # longer than a gap is waited for
        while time.monotonic() < soon:
            if list(_newest(site).values()) == [site.numbers] * STREAMS:
                return
            time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE} s for all streams:\n{site.log[-3000:]}")


def _newest(site: Rig) -> dict[str, int]:
    """The highest number that each stream has answered."""
    newest: dict[str, int] = {}
    for payloads in site.seen.values():
        answer = msgspec.json.decode(next(iter(payloads)))
        newest[answer["stream"]] = max(answer["sequence"], newest.get(answer["stream"], 0))
    return newest


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


def outages(kills: int, transport: str, autosave: int, seed: int = 0) -> Outcome:
    """So many kills of a mosquitto that writes its store after more than `autosave` changes."""
    with tempfile.TemporaryDirectory() as top, Forge() as forge:
        broker = Mosquitto(Path(top) / "site", extra=f"{PERSISTENT}\nautosave_interval {autosave}")
        with rig(broker, transport, seed) as site:
            return _outages(site, forge, kills)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each transport")
    parser.add_argument("--autosave", type=int, default=1, help="mosquitto's autosave_interval")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    options = parser.parse_args()
    kills, autosave, seed = options.kills, options.autosave, options.seed
    outcomes = [outages(kills, t, autosave, seed) for t in TRANSPORTS]
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
