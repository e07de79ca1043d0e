"""Real brokers, a real daemon process, and an MQTT client that remembers what it saw."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

import edge_rnn
from edge_rnn import graph
from edge_rnn.messages import Message, Spec
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt import Inbox, Link, Settings
from edge_rnn.pipeline import Pipeline
from edge_rnn_devices.broker import free_port

PATIENCE = 20.0
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
IOTCORE = """
id = 0
[router]
id = 0
max_connections = 10000
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 10
[v4.1]
name = "v4-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v4.1.connections]
connection_timeout_ms = 5000
max_payload_size = 20480
max_inflight_count = 100
dynamic_filters = true
[v5.1]
name = "v5-1"
listen = "127.0.0.1:{port5}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 20480
max_inflight_count = 100
dynamic_filters = true
"""
RUN_IOTCORE = """
import logging, sys
logging.basicConfig(level=logging.WARNING)
logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
from iotcore.iotcore import IotCoreBroker
IotCoreBroker(config_path=sys.argv[1]).run_forever()
"""


def wait_until(what: str, condition: Callable[[], object]) -> None:
    """Wait until the condition holds; fail naming it."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {PATIENCE} s for {what}")
        time.sleep(0.01)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@dataclass
class Broker:
    """A broker process on a loopback port."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def port_of(self, protocol: str) -> int:
        """Where it speaks this version of MQTT."""
        return self.port

    def start(self) -> Broker:
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until("the broker to listen", lambda: listens(self.port))
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)
            self.process = None


@dataclass
class Mosquitto(Broker):
    """`extra` are lines of its configuration, `{folder}` stands for its folder."""

    extra: str = "allow_anonymous true"

    def command(self) -> list[str]:
        config = self.folder / "mosquitto.conf"
        user = f"user {os.environ.get('USER', 'root')}\n" if os.geteuid() == 0 else ""
        config.write_text(
            f"{user}listener {self.port} 127.0.0.1\nset_tcp_nodelay true\n"
            "max_queued_messages 0\n"
            f"{self.extra.replace('{folder}', str(self.folder))}\n"
        )
        assert MOSQUITTO
        return [MOSQUITTO, "-c", str(config)]


@dataclass
class IotCore(Broker):
    port5: int = field(default_factory=free_port)

    def command(self) -> list[str]:
        config = self.folder / "rumqttd.toml"
        config.write_text(IOTCORE.format(port=self.port, port5=self.port5))
        return [sys.executable, "-c", RUN_IOTCORE, str(config)]

    def port_of(self, protocol: str) -> int:
        return self.port5 if protocol == "5" else self.port


class Client:
    """Publishes, and remembers every message of its subscriptions in order."""

    def __init__(self, port: int, topics: list[str]) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(0)
        self._client.on_message = lambda c, u, m: self.messages.append((m.topic, m.payload))
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_connect = lambda *_: self._client.subscribe([(t, 1) for t in topics])
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE)

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos, retain).wait_for_publish(PATIENCE)

    def wait(self, count: int, topic: str = "") -> list[bytes]:
        """The payloads of the first `count` messages whose topic begins so."""

        def seen() -> list[bytes]:
            return [p for t, p in list(self.messages) if t.startswith(topic)]

        wait_until(f"{count} messages of {topic!r}", lambda: len(seen()) >= count)
        return seen()[:count]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Daemon:
    """`edge-rnn run` as a process, with its log."""

    def __init__(self, config: Path, **environment: str) -> None:
        self.log_path = config.with_suffix(f".{time.monotonic_ns()}.log")
        root = Path(edge_rnn.__file__).parents[1]
        env = {**os.environ, "PYTHONPATH": str(root), **environment}
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge_rnn", "run", "--json", str(config)],
                env=env,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_log(self, pattern: str, count: int = 1) -> None:
        wait_until(
            f"{pattern!r} in the log:\n{self.log}",
            lambda: len(re.findall(pattern, self.log)) >= count or self._process.poll() is not None,
        )
        assert len(re.findall(pattern, self.log)) >= count, self.log

    def wait_ready(self) -> Daemon:
        self.wait_log("connected, subscribed")
        return self

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        return self._process.wait(PATIENCE)

    def stop(self) -> dict[str, int]:
        """SIGTERM, a clean exit, and the final statistics."""
        self.send(signal.SIGTERM)
        assert self.exit_code() == 0, self.log
        lines = [msgspec.json.decode(line) for line in self.log.splitlines()]
        stats: dict[str, int] = next(x["stats"] for x in reversed(lines) if "stats" in x)
        return stats

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as s:
        yield s


@pytest.fixture
def mosquitto(tmp_path: Path, stack: ExitStack) -> Callable[..., Mosquitto]:
    """Starts a mosquitto with extra configuration."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is missing: install it to run the broker tests")

    def start(extra: str = "allow_anonymous true") -> Mosquitto:
        folder = tmp_path / "mosquitto"
        folder.mkdir(exist_ok=True)
        broker = Mosquitto(folder, extra=extra)
        stack.callback(broker.stop)
        broker.start()
        return broker

    return start


@pytest.fixture
def iotcore(tmp_path: Path, stack: ExitStack) -> Callable[[], IotCore]:
    pytest.importorskip("iotcore", reason="iotcore is missing: install the extra 'demo'")

    def start() -> IotCore:
        folder = tmp_path / "iotcore"
        folder.mkdir()
        broker = IotCore(folder)
        stack.callback(broker.stop)
        broker.start()
        return broker

    return start


def open_pipe(stack: ExitStack) -> tuple[int, int]:
    """Where to read and where to write; closed in the end."""
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


@pytest.fixture
def link(stack: ExitStack) -> Callable[..., Link]:
    """Makes connections to a port."""
    read, _ = open_pipe(stack)

    def make(port: int | None = None, inbox: Inbox | None = None, **settings: Any) -> Link:
        options = {"client_id": "c", "filters": ["in/+"], "retry_min": 0.01, "retry_max": 0.02}
        made = Link(
            Settings(**(options | {"host": "127.0.0.1", "port": port} | settings)),
            Inbox(5000, "wait") if inbox is None else inbox,
            Metrics(),
            wakeup=read,
            clock=time.monotonic,
        )
        stack.callback(made.close)
        return made

    return make


def poll_until(link: Link, condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        link.poll(0.02, 100)


@pytest.fixture
def client(stack: ExitStack) -> Callable[..., Client]:
    def connect(port: int, *topics: str) -> Client:
        c = Client(port, list(topics) or ["out/#", "status"])
        stack.callback(c.close)
        return c

    return connect


@pytest.fixture
def daemon(stack: ExitStack) -> Callable[..., Daemon]:
    def start(config: Path, **environment: str) -> Daemon:
        d = Daemon(config, **environment)
        stack.callback(d.kill)
        return d

    return start


@pytest.fixture(scope="session")
def model() -> graph.Model:
    return make_model(0)


@pytest.fixture(scope="session")
def other_model() -> graph.Model:
    return make_model(1)


@pytest.fixture(scope="session")
def vocabulary_model() -> graph.Model:
    """x (1) and an index below 5."""
    r = np.random.default_rng(2)
    return graph.Model(
        (graph.Input("x", 1), graph.Input("i", 1)),
        (
            graph.Embedding("e", "i", graph.Matrix(_floats(r, 5, 3))),
            graph.Gru("g", "e", *_matrices(r, 12, 3, 4), _floats(r, 12), _floats(r, 4)),
            graph.Rnn("r", "x", *_matrices(r, 2, 1, 2), _floats(r, 2)),
        ),
        ("g", "r"),
    )


@pytest.fixture(scope="session")
def diverging_model() -> graph.Model:
    """h' = 4 h + x, y = h h-fold: grows by 4 a step until float32 overflows."""
    one = np.ones((1, 1), np.float32)
    cell = graph.Rnn(
        "r", "x", graph.Matrix(one), graph.Matrix(4 * one), np.zeros(1, np.float32), "linear"
    )
    return graph.Model((graph.Input("x", 1),), (cell,), ("r",))


@pytest.fixture(scope="session")
def strided_model(model: graph.Model) -> graph.Model:
    """The model at steps 3, 6, 9, ... of a stream, counted from 0."""
    r = np.random.default_rng(3)
    thin = graph.Conv1d(
        "c", "x", graph.Matrix(_floats(r, 2, 8)), _floats(r, 2), 4, stride=3, padding="valid"
    )
    lstm, *behind = model.nodes
    return replace(model, nodes=(thin, replace(lstm, input="c"), *behind))


def make_model(seed: int) -> graph.Model:
    r = np.random.default_rng(seed)
    nodes = (
        graph.Lstm("l", "x", *_matrices(r, 32, 2, 8), _floats(r, 32)),
        graph.Dense("d", "l", graph.Matrix(_floats(r, 3, 8)), _floats(r, 3)),
        graph.Softmax("s", "d"),
    )
    features = (graph.Feature("a"), graph.Feature("b"))
    return graph.Model((graph.Input("x", 2),), nodes, ("s",), features, classes=("u", "v", "w"))


def _floats(r: np.random.Generator, *shape: int) -> graph.F32:
    return (0.5 * r.normal(size=shape)).astype(np.float32)


def _matrices(r: np.random.Generator, rows: int, width: int, hidden: int) -> list[graph.Matrix]:
    return [graph.Matrix(_floats(r, rows, width)), graph.Matrix(_floats(r, rows, hidden))]


@pytest.fixture
def model_file(tmp_path: Path, model: graph.Model) -> Path:
    edge_rnn.save(model, tmp_path / "m.ernn")
    return tmp_path / "m.ernn"


SPEC = Spec(topics=["in/{device}"], output="out/{device}", timestamp="t")


@pytest.fixture(scope="session")
def spec() -> Spec:
    return SPEC


@pytest.fixture
def write_config(tmp_path: Path, model_file: Path) -> Callable[..., Path]:
    """Writes p.toml; each table's extra lines by its name."""

    def write(port: int, **extra: str) -> Path:
        tables = {
            "model": f'file = "{model_file.name}"',
            "broker": f'host = "127.0.0.1"\nport = {port}\nretry_min = "50ms"\nretry_max = "200ms"',
            "input": 'topic = "in/{device}"\ntimestamp = "t"',
            "output": "",
            "state": "",
            "status": 'topic = "status"',
            "log": "",
        }
        defaults = {"output": 'topic = "out/{device}"'}
        text = ""
        for name, lines in tables.items():
            text += f"[{name}]\n{lines}\n{extra.get(name, defaults.get(name, ''))}\n\n"
        path = tmp_path / "p.toml"
        path.write_text(text + extra.get("more", ""))
        return path

    return write


@pytest.fixture(scope="session")
def samples() -> Callable[..., list[tuple[str, bytes]]]:
    """Messages (topic, payload) of some devices, taking turns."""

    def make(count: int, devices: int = 3, seed: int = 0) -> list[tuple[str, bytes]]:
        r = np.random.default_rng(seed)
        return [
            (
                f"in/d{i % devices}",
                msgspec.json.encode({"a": a, "b": b, "t": i, "other": [None]}),
            )
            for i, (a, b) in enumerate(r.normal(size=(count, 2)).tolist())
        ]

    return make


@pytest.fixture
def expected(model: graph.Model) -> Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]:
    """What a pipeline answers, one message at a time."""

    def answer(messages: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        pipeline = Pipeline(model, SPEC)
        outgoing = [p for m in messages for p in pipeline.feed([Message(*m)], 0.0).predictions]
        return [(p.topic, p.payload) for p in outgoing]

    return answer
