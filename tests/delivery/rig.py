"""A broker, a publisher of numbered messages, a consumer, and what the consumer must have seen.

The publisher is not the best: now and then it sends a message twice, swaps two, or sends one that
can't be used. The oracle is the same pipeline in this process, one message after the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import msgspec
from paho.mqtt.client import MQTTMessageInfo

import edge_rnn
from edge_rnn.journal import Journal
from edge_rnn.messages import Message, Spec
from edge_rnn.pipeline import Pipeline
from tests.daemon.conftest import MOSQUITTO, Broker, Client, IotCore, Mosquitto, make_model

STREAMS = 5
SPEC = Spec(topics=["in/{d}"], output="out/{d}", sequence="q", hold=60.0)
TRANSPORTS = {"batch": "5", "paho": "3.1.1"}
"""The version of MQTT that each client is tried with."""
CONNECTED = "connected, subscribed"
"""What the daemon logs each time it is."""

Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the messages. `repeated` predictions came more than once, the same each time;
    `doubled` are steps that the oracle never made."""

    messages: int
    lost: int
    doubled: int
    wrong: int
    wrong_states: int
    repeated: int

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.wrong_states)


class Rig:
    """One pipeline at one broker, or with its predictions at `output`. `port`: where the daemon
    finds the broker."""

    def __init__(self, broker: Broker, transport: str, seed: int, output: Broker | None) -> None:
        self.broker, self.transport, self.output = broker, transport, output
        self.folder = broker.folder
        self.random = random.Random(seed)
        self.state_file = self.folder / "p.state"
        self.port = broker.port_of(TRANSPORTS[transport])
        model = make_model(0)
        self.oracle = Pipeline(model, SPEC)
        edge_rnn.save(model, self.folder / "m.ernn")
        self.client = Client(broker.port, ["out/#"])
        self.reader = Client(output.port, ["out/#"]) if output else self.client
        self.numbers, self.hold = 0, "60s"
        self.sent: list[Message] = []
        self.wanted: dict[Key, bytes] = {}
        self._seen: dict[Key, set[bytes]] = {}
        self._looked_at = 0

    def config(self, **tables: str) -> Path:
        """The pipeline file, with further lines of some tables by their names."""
        path = self.folder / "p.toml"
        lines = {
            "model": 'file = "m.ernn"',
            "broker": self._broker(self.port),
            "input": f'topic = "in/{{d}}"\nsequence = "q"\nhold = "{self.hold}"',
            "output": 'topic = "out/{d}"',
            "state": f'file = "{self.state_file}"',
            "queue": f"max_batch = {self.random.choice([1, 7, 1000])}",
        }
        if self.output:
            lines["output.broker"] = self._broker(self.output.port_of(TRANSPORTS[self.transport]))
        names = lines | dict.fromkeys(tables)
        parts = (f"[{t}]\n{lines.get(t, '')}\n{tables.get(t, '')}\n" for t in names)
        path.write_text("".join(parts))
        return path

    def _broker(self, port: int) -> str:
        return (
            f'host = "127.0.0.1"\nport = {port}\nclient_id = "killed"\nretry_min = "50ms"\n'
            f'retry_max = "200ms"\nprotocol = "{TRANSPORTS[self.transport]}"\n'
            f'client = "{self.transport}"'
        )

    def publish(self, each: int) -> list[MQTTMessageInfo]:
        """So many messages of every stream, in turn -> which of them the broker has. The first
        time in order: a stream that was never heard of begins at its first message."""
        topics = [f"in/d{d}" for d in range(STREAMS)]
        made = [Message(t, self._payload()) for _ in range(each) for t in topics if self._count(t)]
        self.sent += made
        result = self.oracle.feed(made, 0.0)
        self.wanted |= {(p.stream, p.run, p.n): p.payload for p in result.predictions}
        going = self._disordered(made) if self.numbers > each else made
        return [self.client._client.publish(m.topic, m.payload, 1) for m in going]

    def _count(self, topic: str) -> int:
        self.numbers += topic.endswith("d0")
        return self.numbers

    def _payload(self) -> bytes:
        a, b = self.random.gauss(0, 1), self.random.gauss(0, 1)
        bad = self.random.random() < 0.02
        return msgspec.json.encode({"a": "no number" if bad else a, "b": b, "q": self.numbers})

    def _disordered(self, messages: list[Message]) -> Iterator[Message]:
        """Some of them twice, some later than those behind them."""
        late: list[Message] = []
        for m in messages:
            what = self.random.random()
            if what < 0.02:
                late.append(m)
                continue
            yield m
            if what < 0.04:
                yield m
            if late and self.random.random() < 0.2:
                yield late.pop(0)
        yield from late

    @property
    def log(self) -> str:
        """All that the pipeline's daemons have logged."""
        path = self.folder / "p.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def seen(self) -> dict[Key, set[bytes]]:
        """The predictions that came, by what identifies them."""
        fresh = self.reader.messages[self._looked_at :]
        self._looked_at += len(fresh)
        for _, payload in fresh:
            answer = msgspec.json.decode(payload)
            key = answer["stream"], answer.get("run", 0), answer["n"]
            self._seen.setdefault(key, set()).add(payload)
        return self._seen

    @property
    def complete(self) -> bool:
        return len(self.seen) >= len(self.wanted)

    def judge(self) -> Verdict:
        """Of a daemon that has stopped."""
        seen, oracle = self.seen, self.oracle
        with Journal(self.state_file, model=oracle.digest, pipeline="p") as journal:
            saved = journal.load()
        kept = {s.stream: s for s in saved.states}, {m.stream: m for m in saved.marks}
        changes = oracle.changes()
        wrong = {s.stream for s in changes.states if kept[0].get(s.stream) != s}
        wrong |= {m.stream for m in changes.marks if kept[1].get(m.stream) != m}
        shared = self.wanted.keys() & seen.keys()
        return Verdict(
            messages=self.numbers * STREAMS,
            lost=len(self.wanted.keys() - seen.keys()),
            doubled=len(seen.keys() - self.wanted.keys()),
            wrong=sum(seen[key] != {self.wanted[key]} for key in shared),
            wrong_states=len(wrong) + len(saved.held),
            repeated=self._looked_at - len(seen),
        )

    def close(self) -> None:
        """Disconnect the publisher and the consumer."""
        for client in {self.client, self.reader}:
            client.close()


def brokers() -> dict[str, Callable[[Path], Broker]]:
    """How to make those that are installed, in a folder."""
    found: dict[str, Callable[[Path], Broker]] = {}
    if MOSQUITTO:
        extra = "allow_anonymous true\nmax_inflight_messages 0"
        found["mosquitto"] = partial(Mosquitto, extra=extra)
    if find_spec("iotcore"):
        found["iotcore"] = IotCore
    return found


@contextmanager
def rig(broker: Broker, transport: str, seed: int, output: Broker | None = None) -> Iterator[Rig]:
    """In the broker's folder, with the brokers running."""
    with ExitStack() as stack:
        for b in filter(None, (broker, output)):
            b.folder.mkdir(parents=True)
            b.start()
            stack.callback(b.stop)
        made = Rig(broker, transport, seed, output)
        stack.callback(made.close)
        yield made
