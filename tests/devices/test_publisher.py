"""The publisher is killed over and over; a real broker, and a pipeline that reads its numbers."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing

import msgspec
import pytest

from edge_rnn.messages import Message, Spec
from edge_rnn.pipeline import Pipeline
from edge_rnn_devices.broker import free_port
from edge_rnn_devices.publisher import Publisher, SpoolFullError
from tests.daemon.conftest import MOSQUITTO, Client, Mosquitto, make_model, wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is missing"),
]
SPEC = Spec(["in/{d}"], "out/{d}", sequence="seq", epoch="epoch")
SENDING = """
import random, sys, time
from edge_rnn_devices.publisher import Publisher
p = Publisher(sys.argv[1], "127.0.0.1", int(sys.argv[2]), topic="in/{stream}", client_id="sensor")
r = random.Random()
while True:
    sent = [(s, p.send(s, {"a": r.random(), "b": 0.5})) for s in ("x", "y") for _ in range(9)]
    p.flush()
    print(*(f"{s}{n}" for s, n in sent), flush=True)
    time.sleep(0.002)
"""


@pytest.fixture
def broker(tmp_path):
    broker = Mosquitto(tmp_path, extra="allow_anonymous true\nmax_inflight_messages 0")
    yield broker.start()
    broker.stop()


@pytest.fixture
def consumer(broker):
    with closing(Client(broker.port, ["in/#"])) as client:
        yield client


def publisher(tmp_path, port, **options):
    return Publisher(
        tmp_path / "spool", "127.0.0.1", port, topic="in/{stream}", client_id="sensor", **options
    )


def steps(messages):
    """What a pipeline makes of them."""
    pipeline = Pipeline(make_model(0), SPEC)
    results = [pipeline.feed([Message(*m)], 0.0) for m in messages]
    return [p for r in results for p in r.predictions], [g for r in results for g in r.gaps]


def test_a_killed_publisher_loses_and_doubles_nothing(tmp_path, broker, consumer):
    r, durable = random.Random(3), []
    for _ in range(5):
        command = [sys.executable, "-c", SENDING, str(tmp_path / "spool"), str(broker.port)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            time.sleep(r.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            durable += process.stdout.read().split()
    with publisher(tmp_path, broker.port) as p:
        assert p.drain(20)
    last = p._numbers.items()
    wait_until("the last messages", lambda: last <= numbers(consumer.messages).keys())
    contents = numbers(consumer.messages)
    assert all(len(payloads) == 1 for payloads in contents.values())
    assert {f"{s}{n}" for s, n in contents} >= set(durable)
    predictions, gaps = steps(consumer.messages)
    assert len(predictions) == len(contents)
    assert not gaps
    for stream in "xy":
        numbered = sorted(n for s, n in contents if s == stream)
        assert numbered == list(range(1, p._numbers[stream] + 1))


def numbers(messages):
    """(stream, number) -> the payloads that came under it."""
    found = {}
    for topic, payload in list(messages):
        key = topic.removeprefix("in/"), msgspec.json.decode(payload)["seq"]
        found.setdefault(key, set()).add(payload)
    return found


@pytest.mark.parametrize("client", [{}, {"protocol": "3.1.1", "client": "paho"}])
def test_what_waits_for_the_broker_is_sent_in_order_when_it_is_there(tmp_path, client):
    port = free_port()
    with publisher(tmp_path, port, **client) as p:
        assert [p.send("x", {"a": i, "b": 0}) for i in range(50)] == list(range(1, 51))
        p.flush()
        assert not p.drain(0.1)
    broker = Mosquitto(tmp_path, port=port)
    broker.start()
    with closing(Client(port, ["in/#"])) as consumer, publisher(tmp_path, port, **client) as p:
        p.send("x", {"a": 50, "b": 0})
        payloads = [msgspec.json.decode(m) for m in consumer.wait(51)]
        assert p.drain(20)
    broker.stop()
    assert [(m["a"], m["seq"]) for m in payloads] == [(i, i + 1) for i in range(51)]
    assert len({m["epoch"] for m in payloads}) == 1


def test_a_lost_spool_begins_another_epoch_and_a_full_one_says_so(tmp_path):
    with publisher(tmp_path, free_port(), size=2) as p:
        first = p.epoch
        p.send("x", {})
        p.send("x", {})
        with pytest.raises(SpoolFullError, match="2 messages wait"):
            p.send("x", {})
        assert p.waiting == 2
    for file in tmp_path.glob("spool*"):
        file.unlink()
    with publisher(tmp_path, free_port()) as p:
        assert p.epoch > first
        assert p.send("x", {}) == 1
