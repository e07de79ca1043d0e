"""The inbox and the connection by themselves, against real brokers."""

import itertools
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from edge_rnn.daemon.wires import ENOUGH, gather
from edge_rnn.errors import BrokerError
from edge_rnn.messages import Message
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt import Inbox, Status
from edge_rnn.mqtt.transport import Publication
from edge_rnn.mqtt.window import Window
from tests.daemon.conftest import open_pipe, poll_until

DYNSEC = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)


def message(n, mid=0):
    return Message("t", b"%d" % n, False, mid)


@pytest.mark.parametrize(
    ("policy", "dropped", "kept"),
    [("drop_oldest", [0, 1, 2], [3, 4]), ("drop_newest", [2, 3, 4], [0, 1])],
)
def test_a_full_inbox_drops_by_its_policy(policy, dropped, kept):
    inbox = Inbox(2, policy)
    gone = [m for n in range(5) for m in inbox.put([message(n)])]
    assert [g.payload for g in gone] == [b"%d" % n for n in dropped]
    assert [m.payload for m in inbox.take(9)] == [b"%d" % n for n in kept]


def test_after_a_reconnect_a_message_is_neither_lost_nor_doubled():
    inbox = Inbox(9, "drop_oldest")
    inbox.put([message(0), message(1, mid=7)])
    inbox.reconnected(session_present=False)
    assert inbox.take(9) == [message(0), message(1)]
    inbox.put([message(0), message(1, mid=7)])
    inbox.reconnected(session_present=True)
    assert inbox.take(9) == [message(0)]


@pytest.mark.parametrize(
    ("unread", "looks"),
    [
        ([0], 1),  # idle: nothing has come
        ([9, 9], 2),  # nothing more
        ([9, 10, 11, 11, 12], 4),
        ([9, 10, ENOUGH, 99], 3),
        (range(1, 99), 6),  # more and more: until the time is over
    ],
)
def test_messages_wait_as_long_as_more_keep_coming(unread, looks, stack):
    now, source = itertools.count(), Arriving(unread)
    gather(source, open_pipe(stack)[0], 4.5, lambda: next(now))
    assert source.looks == looks


def test_a_signal_ends_the_wait_for_more(stack):
    read, write = open_pipe(stack)
    os.write(write, b"\0")
    source = Arriving(range(1, 9))
    gather(source, read, 60.0, time.monotonic)
    assert source.looks == 1


def test_a_window_is_full_until_the_broker_confirms():
    window = Window(Metrics())
    window.limit = 1
    window.put(Publication("t", b"1", 1, False))
    window.put(Publication("t", b"2", 1, False))
    (sent,) = window.take()
    assert window.full
    window.confirm([sent.mid], [])
    window.take()
    assert not window.full and len(window) == 1


class Arriving:
    """A connection where so many bytes wait at each look."""

    def __init__(self, unread):
        self.looks, self._unread = 0, unread

    @property
    def unread(self):
        self.looks += 1
        return self._unread[self.looks - 1]


def ready(link):
    poll_until(link, lambda: link.ready)
    return link


CLIENTS = {
    "3.1.1": {"protocol": "3.1.1", "client": "paho"},
    "5": {"protocol": "5", "client": "paho"},
    "batch": {"protocol": "5", "client": "batch"},
}
every_client = pytest.mark.parametrize("settings", CLIENTS.values(), ids=CLIENTS)


@pytest.fixture(params=["mosquitto 3.1.1", "mosquitto 5", "mosquitto batch", "iotcore batch"])
def broker(request):
    """A broker, and how to speak with it."""
    kind, name = request.param.split()
    broker, settings = request.getfixturevalue(kind)(), CLIENTS[name]
    return broker, settings | {"port": broker.port_of(settings["protocol"])}


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_stalled_pipeline_drops_and_counts_and_keeps_acknowledgements_in_order(
    broker, link, client, policy
):
    broker, settings = broker
    inbox = Inbox(5, policy)
    reader = ready(link(inbox=inbox, **settings))
    publisher = client(broker.port)
    for n in range(15):
        publisher.publish("in/a", b"%d" % n)
        poll_until(reader, lambda: reader._metrics.received == n + 1)  # noqa: B023
    assert reader._metrics.dropped == {policy: 10}
    left = inbox.take(100)
    assert [int(m.payload) for m in left] == list(
        range(10, 15) if policy == "drop_oldest" else range(5)
    )
    reader.ack(left)
    publisher.publish("in/a", b"last")
    poll_until(reader, lambda: len(inbox))
    assert [m.payload for m in inbox.take(9)] == [b"last"]
    assert reader._metrics.disconnects == 0


def test_what_was_not_acknowledged_comes_again(broker, link, client):
    broker, settings = broker
    inbox = Inbox(100, "drop_oldest")
    first = ready(link(inbox=inbox, **settings))
    publisher = client(broker.port)
    for n in range(6):
        publisher.publish("in/a", b"%d" % n)
    poll_until(first, lambda: len(inbox) == 6)
    first.ack(inbox.take(2))
    first.flush()
    publisher.publish("in/a", b"6")
    poll_until(first, lambda: len(inbox) == 5)  # so the broker has read the acknowledgements
    first.close()

    again = Inbox(100, "drop_oldest")
    second = ready(link(inbox=again, **settings))
    poll_until(second, lambda: len(again) >= 5)
    assert [m.payload for m in again.take(9)] == [b"2", b"3", b"4", b"5", b"6"]


def test_publishes_are_bounded_and_confirmed(broker, link, client):
    broker, settings = broker
    publisher = ready(link(**settings))
    reader = client(broker.port)
    sent = 0
    while sent < 3000:
        for _ in range(min(publisher.room, 3000 - sent)):
            publisher.publish("out/a", b"%d" % sent, 1, False)
            sent += 1
        publisher.poll(0.05, 100)
    poll_until(publisher, lambda: not publisher.busy)
    assert [int(p) for p in reader.wait(3000, "out/a")] == list(range(3000))
    assert publisher._metrics.publish_errors == 0


def test_an_answer_leaves_with_its_acknowledgement(broker, link, client):
    """Nothing has to come first for it to be sent."""
    broker, settings = broker
    inbox = Inbox(5, "wait")
    answering = ready(link(inbox=inbox, **settings))
    user = client(broker.port)
    user.publish("in/a", b"question")
    poll_until(answering, lambda: len(inbox))
    answering.ack(inbox.take(1))
    answering.publish("out/a", b"answer", 1, False)
    answering.flush()
    assert user.wait(1, "out/") == [b"answer"]


def test_a_refused_subscription_says_so(mosquitto, link, tmp_path):
    if DYNSEC is None or shutil.which("mosquitto_ctrl") is None:
        pytest.skip("mosquitto's dynamic security plugin or mosquitto_ctrl is missing")
    rules = tmp_path / "rules.json"
    subprocess.run(
        ["mosquitto_ctrl", "dynsec", "init", str(rules), "admin", "pw"],
        check=True,
        capture_output=True,
    )
    content = msgspec.json.decode(rules.read_bytes())
    content["roles"][0]["acls"] = []
    rules.write_bytes(msgspec.json.encode(content))
    rules.chmod(0o666)
    broker = mosquitto(f"allow_anonymous false\nplugin {DYNSEC}\nplugin_opt_config_file {rules}")
    for settings in CLIENTS.values():
        refused = link(broker.port, username="admin", password="pw", **settings)
        with pytest.raises(BrokerError, match=r"refused the subscription to 'in/\+'.*ACL.*'admin'"):
            poll_until(refused, lambda: False)


def test_filters_of_an_earlier_configuration_are_unsubscribed(mosquitto, link, client):
    broker = mosquitto()
    ready(link(broker.port, filters=["old/+", "in/+"])).close()
    inbox = Inbox(9, "drop_oldest")
    now = ready(link(broker.port, inbox, known=["old/+", "in/+"]))
    publisher = client(broker.port)
    publisher.publish("old/a", b"old")
    publisher.publish("in/a", b"new")
    poll_until(now, lambda: len(inbox))
    assert [m.payload for m in inbox.take(9)] == [b"new"]


@every_client
def test_retained_messages_asked_for_come_once(mosquitto, link, client, settings):
    broker = mosquitto()
    publisher = client(broker.port)
    publisher.publish("in/a", b"kept", retain=True)
    for expected in ([b"kept", b"fresh"], [b"fresh"]):
        inbox = Inbox(9, "drop_oldest")
        reader = ready(link(broker.port, inbox, retained=True, **settings))
        publisher.publish("in/b", b"fresh")
        poll_until(reader, lambda: len(inbox) == len(expected))  # noqa: B023
        batch = inbox.take(9)
        assert [m.payload for m in batch] == expected
        reader.ack(batch)
        reader.flush()
        publisher.publish("in/b", b"done")
        poll_until(reader, lambda: len(inbox))  # noqa: B023
        reader.ack(inbox.take(9))
        reader.close()


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", "connection refused"), ("no-such-host.invalid", "name is not known")],
)
def test_an_unreachable_broker_is_tried_again_with_growing_waits(link, caplog, host, reason):
    with socket.socket() as taken:  # bound but not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        waiting = link(port, host=host, retry_min=0.01, retry_max=0.04)
        poll_until(waiting, lambda: len(caplog.records) >= 5)
    waits = [r.args[-1] for r in caplog.records]
    assert all(
        reason in r.getMessage() and f"{host}:{port}" in r.getMessage() for r in caplog.records
    )
    for wait, longest in zip(waits, (0.01, 0.02, 0.04, 0.04, 0.04), strict=False):
        assert longest / 2 <= wait <= longest


def test_a_broker_that_never_answers_is_given_up(link, caplog, monkeypatch):
    monkeypatch.setattr("edge_rnn.mqtt.link.HANDSHAKE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        waiting = link(deaf.getsockname()[1])
        poll_until(waiting, lambda: caplog.records)
    assert "the broker does not answer" in caplog.text


def test_a_status_tells_that_we_are_there(broker, link, client):
    broker, settings = broker
    reader = client(broker.port, "status")
    told = ready(link(**settings, status=Status("status", "up", "down")))
    assert reader.wait(1) == [b"up"]
    told.offline()
    poll_until(told, lambda: not told.busy)
    told.close()
    assert reader.wait(2) == [b"up", b"down"]
