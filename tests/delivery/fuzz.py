"""Feed the pipeline and the packet reader what nobody should send, among what is good.

    python -m tests.delivery.fuzz -n 1000000

Half of it are mutated payloads and topics, half are mutated MQTT 5 packets. Nothing may crash; each
must be accounted for, under a reason where it has no prediction; and a second pipeline, which sees
only what is left without the rejected, must give the same predictions and end in the same states,
bit for bit: what is rejected changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from mqtt5 import (
    ConnAckPacket,
    DisconnectPacket,
    PubAckPacket,
    PubAckReasonCode,
    PublishPacket,
    QoS,
    SubAckPacket,
    SubAckReasonCode,
)

from edge_rnn.messages import Message, Result, Spec
from edge_rnn.mqtt.codec import PacketReader
from edge_rnn.mqtt.transport import Arrivals
from edge_rnn.pipeline import Pipeline
from tests.daemon.conftest import make_model

BATCH = 100
MAX_PACKET = 1 << 16
ODD = [
    b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1e400", b"3.5e38", b"1e-999", b"-0",
    b'"1"', b"[]", b"{}", b"[" * 3000, b'{"a":' * 3000, b"9" * 400, b"0." + b"1" * 400,
    b'"\\ud800"', b'"\\u0000"', b"\xff\xfe", b"\xc0\x80", b"18446744073709551616", b"-1", b"0.5",
    b"9223372036854775807", b"1 2", b"01", b"", b" " * 70_000,
]  # fmt: skip
TOPICS = [
    "", "in", "in/", "in//", "/in/d0", "in/d0/x", "in/#", "in/+", "in/\0", "out/d0", "$SYS/d0",
    "in/é", "in/\U0010ffff", "in/" + "d" * 60_000,
]  # fmt: skip
SPECS = {
    "fields": Spec(["in/{d}"], "out/{d}", timestamp="t", capacity=50),
    "array": Spec(["in/{d}"], "out/{d}", array="v.x[1]", capacity=50),
    "numbered": Spec(["in/{d}"], "out/{d}", sequence="q", epoch="e", capacity=50, hold_size=99),
}
_VALUE = re.compile(rb'-?\d+(?:\.\d+)?(?:e-?\d+)?|\[|"\w*"')


@dataclass
class Tally:
    """What came of the fuzzed, by reason. unaccounted: neither used nor under a reason;
    differing: batches whose good messages had other predictions, and states, than without them."""

    fuzzed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    unaccounted: int = 0
    differing: int = 0


def mutate(data: bytes, r: random.Random) -> bytes:
    """Some bytes changed, lost, doubled, put in or overwritten."""
    out = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 5))):
        at, n = r.randrange(len(out) + 1), r.choice((1, 1, 2, 8))
        what = r.randrange(6)
        if what == 0 and at < len(out):
            out[at] ^= 1 << r.randrange(8)
        elif what == 1:
            del out[at : at + n]
        elif what == 2:
            out[at:at] = out[at : at + n]
        elif what == 3:
            out[at:at] = r.randbytes(n)
        elif what == 4:
            del out[at:]
        else:
            out[at : at + n] = r.choice((b"\0", b"\xff", b'"', b"}", b"\x80\x80", b"\\"))
    return bytes(out)


def oddity(data: bytes, r: random.Random) -> bytes:
    """With an odd value in place of one of a document's own."""
    place = r.choice(list(_VALUE.finditer(data)))
    return data[: place.start()] + r.choice(ODD) + data[place.end() :]


class Twins:
    """One pipeline that sees everything, and one that never sees what the first rejected."""

    def __init__(self, spec: Spec) -> None:
        model = make_model(0)
        self.all, self.clean = Pipeline(model, spec), Pipeline(model, spec)
        self.tally, self.open = Tally(), 0

    def feed(self, batch: list[Message], good: list[Message], *, apart: bool = False) -> None:
        """good: those of the batch that nothing was done to. apart: only they have twins."""
        t, result = self.tally, self.all.feed(batch, 0.0)
        t.outcomes.update(f"rejected: {r.reason}" for r in result.rejected)
        t.outcomes["duplicate"] += len(result.duplicates)
        t.outcomes["predicted"] += len(result.predictions)
        self.open += len(batch) - _count(result)
        rejected = {id(r.message) for r in result.rejected}
        t.differing += sum(id(m) in rejected for m in good)
        left = good if apart else [m for m in batch if id(m) not in rejected]
        twins = {m.topic.replace("in/", "out/") for m in left}
        own = [p for p in result.predictions if p.topic in twins]
        t.differing += self.clean.feed(left, 0.0).predictions != own

    def finish(self) -> Tally:
        """Compares the states of the streams that both have."""
        a, b = self.all.changes(), self.clean.changes()
        kept = {s.stream: s for s in a.states}
        self.tally.differing += sum(kept.get(s.stream) != s for s in b.states)
        self.tally.unaccounted += abs(self.open - len(a.held))
        self.tally.outcomes["waiting for its turn"] += len(a.held)
        return self.tally


def _count(result: Result) -> int:
    return len(result.predictions) + len(result.rejected) + len(result.duplicates)


def fuzz_payloads(n: int, kind: str, seed: int) -> Tally:
    """With numbers, bad messages have streams of their own: where one is rejected that tells its
    number, it has had its turn."""
    r, twins = random.Random(seed), Twins(SPECS[kind])
    numbered, counts = kind == "numbered", Counter[bool]()
    while twins.tally.fuzzed < n:
        batch, good = [], []
        for _ in range(BATCH):
            bad = r.random() < 0.8
            counts[bad] += 1
            topic = f"in/d{r.randrange(3)}" if not numbered else "in/z" if bad else "in/d"
            payload = _payload(kind, counts[bad], r)
            if bad:
                payload = r.choice((mutate, mutate, oddity))(payload, r)
                topic = r.choice(TOPICS) if r.random() < 0.05 else topic
            batch.append(Message(topic, payload))
            if not bad:
                good.append(batch[-1])
        twins.tally.fuzzed += len(batch) - len(good)
        twins.feed(batch, good, apart=numbered)
    return twins.finish()


def _payload(kind: str, count: int, r: random.Random) -> bytes:
    a, b = r.gauss(0, 1), r.gauss(0, 1)
    if kind == "array":
        return json.dumps({"v": {"x": [count, [a, b]]}, "more": "text"}).encode()
    return json.dumps({"a": a, "b": b, "t": count, "q": count, "e": 0}).encode()


def fuzz_packets(n: int, seed: int) -> Tally:
    """Each between two good ones, through a reader of its own, and what it gives to a pipeline."""
    r, twins = random.Random(seed), Twins(SPECS["fields"])
    batch: list[Message] = []
    first: list[Message] = []
    for i in range(n):
        before, after = _publish(2 * i, r), _publish(2 * i + 1, r)
        arrivals, left = _read(before + mutate(_packet(i, r), r) + after)
        _account(arrivals, left, twins.tally)
        batch += [m for m in arrivals.messages if m.topic]
        first.append(arrivals.messages[0])
        if len(batch) > BATCH or i == n - 1:
            twins.feed(batch, first)
            batch, first = [], []
    twins.tally.fuzzed = n
    return twins.finish()


def _read(data: bytes) -> tuple[Arrivals, int]:
    """What the bytes say, and how many are left that are no whole packet yet."""
    reader = PacketReader(0, MAX_PACKET)
    reader.feed(data)
    arrivals = reader.read(99)
    return arrivals, len(reader)


def _account(a: Arrivals, left: int, t: Tally) -> None:
    """Every mutated packet is something, or cost nothing: both good ones are there."""
    extra = len(a.messages) - len(a.malformed) - 2
    found = {
        "packet: ends the connection": a.ended is not None,
        "packet: malformed, acknowledged": bool(a.malformed),
        "packet: still a message": extra > 0,
        "packet: announces more than came": left > 0,
        "packet: still another packet": bool(a.confirmed or a.answer or a.granted),
    }
    outcome = next((name for name, true in found.items() if true), "packet: says nothing")
    t.outcomes[outcome] += 1
    t.unaccounted += outcome == "packet: says nothing" and extra < 0
    t.unaccounted += not a.messages or a.messages[0].topic != "in/d0"  # the first good one


def _publish(i: int, r: random.Random) -> bytes:
    mid = i % 65535 + 1
    payload = _payload("fields", i, r)
    return PublishPacket("in/d0", payload, qos=QoS.AT_LEAST_ONCE, packet_id=mid).write()


def _packet(i: int, r: random.Random) -> bytes:
    """One of those that a broker sends, most of them messages."""
    mid = i % 65535 + 1
    if r.random() < 0.7:
        qos = r.choice((QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE))
        extra = {"packet_id": mid} if qos == QoS.AT_LEAST_ONCE else {}
        properties = [("key", "value")] if r.random() < 0.3 else []
        return PublishPacket(
            "in/d1", _payload("fields", i, r), qos=qos, user_properties=properties, **extra
        ).write()
    others = (
        PubAckPacket(mid),
        PubAckPacket(mid, reason_code=PubAckReasonCode.QUOTA_EXCEEDED, reason_str="enough"),
        SubAckPacket(mid, [SubAckReasonCode(1)]),
        ConnAckPacket(session_present=True, receive_max=9),
        DisconnectPacket(reason_str="bye"),
    )
    choice = r.randrange(len(others) + 1)
    return others[choice].write() if choice < len(others) else b"\xd0\x00"  # a ping's answer


@contextmanager
def _quiet() -> Iterator[None]:
    """The codec's panics write to stderr themselves."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def fuzz(n: int, seed: int = 0) -> dict[str, Tally]:
    """n in all: half of them packets."""
    each = n // 2 // len(SPECS)
    tallies = {kind: fuzz_payloads(each, kind, seed + i) for i, kind in enumerate(SPECS)}
    with _quiet():
        tallies["packets"] = fuzz_packets(n - n // 2, seed + 9)
    return tallies


def good(tallies: dict[str, Tally]) -> bool:
    """All accounted for, and nothing changed by them."""
    return not any(t.unaccounted or t.differing for t in tallies.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the tallies as JSON")
    options = parser.parse_args()
    tallies = fuzz(options.n, options.seed)
    if options.json:
        print(json.dumps({k: asdict(t) for k, t in tallies.items()}, indent=2))
    else:
        for kind, t in tallies.items():
            print(
                f"{kind}: {t.fuzzed} fuzzed, {t.unaccounted} unaccounted, {t.differing} differing"
            )
            print("".join(f"  {c:>9} {o}\n" for o, c in t.outcomes.most_common() if c), end="")
    sys.exit(not good(tallies))


if __name__ == "__main__":
    main()
