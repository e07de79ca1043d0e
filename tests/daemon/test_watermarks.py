"""Publishers are told up to where their streams are on disk, by a broker that forgets it too."""

from __future__ import annotations

import time

import msgspec
import pytest

from edge_rnn.config import load_config
from edge_rnn.errors import ConfigError
from edge_rnn_devices.publisher import Publisher
from edge_rnn_devices.spool import Spool
from tests.daemon.conftest import wait_until

OUTPUT = 'topic = "out/{device}"\nwatermark = "marks/{stream}"\nwatermark_every = "100ms"'
INPUT = 'sequence = "seq"\nhold = "100s"'


def told(user):
    """The last watermark of each topic."""
    got = [(t, msgspec.json.decode(p)) for t, p in list(user.messages) if t.startswith("marks/")]
    return {topic: (mark["epoch"], mark["sequence"]) for topic, mark in got}


def message(sequence):
    return msgspec.json.encode({"a": 0.5, "b": -0.5, "t": sequence, "seq": sequence})


def test_what_is_on_disk_is_told_and_told_again_to_a_broker_that_forgot(
    mosquitto, client, daemon, write_config
):
    broker = mosquitto()
    config = write_config(broker.port, input=INPUT, output=OUTPUT)
    d = daemon(config).wait_ready()
    user = client(broker.port, "marks/#", "out/#")
    for sequence in (1, 2, 3):
        user.publish("in/d0", message(sequence))
    for sequence in (1, 2, 4):  # the fourth waits for the third
        user.publish("in/d1", message(sequence))
    expected = {"marks/d0": (0, 3), "marks/d1": (0, 2)}
    wait_until("both watermarks", lambda: told(user) == expected)
    later = client(broker.port, "marks/#")
    wait_until("retained ones", lambda: told(later) == expected)

    user.close()
    later.close()
    broker.stop()
    broker.start()  # without persistence: session and retained messages are gone
    d.wait_log("connected, subscribed", count=2)
    user = client(broker.port, "marks/#", "out/#")
    wait_until("them anew", lambda: told(user) == expected)
    user.publish("in/d0", message(4))
    user.wait(1, "out/")
    assert d.stop()["sessions_lost"] == 1
    wait_until("the last one", lambda: told(user) == expected | {"marks/d0": (0, 4)})

    d = daemon(config).wait_ready()
    fresh = client(broker.port, "marks/#")
    wait_until("them after a restart", lambda: told(fresh) == expected | {"marks/d0": (0, 4)})
    d.stop()


@pytest.mark.parametrize(
    ("input_", "watermark", "why"),
    [
        ("", "marks/{stream}", "needs input.sequence"),
        ('sequence = "seq"', "marks", "one topic for each"),
        ('sequence = "seq"', "marks/{stream}/{stream}", "one topic for each"),
        ('sequence = "seq"', "marks/{device}", "one topic for each"),
        ('sequence = "seq"', "marks/+/{stream}", "one topic for each"),
        ('sequence = "seq"', "in/{stream}", "matches an input topic"),
        ('sequence = "seq"', "{stream}/mark", "matches an input topic"),
    ],
)
def test_topics_that_can_not_be(write_config, input_, watermark, why):
    output = f'topic = "out/{{device}}"\nwatermark = "{watermark}"'
    path = write_config(1, input=input_, output=output)
    with pytest.raises(ConfigError, match=why):
        load_config(path)


PERSISTENT = """allow_anonymous true
max_inflight_messages 0
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1"""


@pytest.mark.parametrize("client", ["batch", "paho"])
def test_numbers_beside_the_payload(tmp_path, mosquitto, daemon, write_config, client):
    broker = mosquitto()
    numbered = 'sequence = "property:seq"\nepoch = "property:epoch"'
    d = daemon(write_config(broker.port, input=numbered, output=OUTPUT)).wait_ready()
    options = {"topic": "in/{stream}", "client_id": "sensor", "client": client}
    spool = tmp_path / "spool"
    with Publisher(
        spool, "127.0.0.1", broker.port, stamped=True, watermark="marks/{stream}", **options
    ) as p:
        send(p, 20)
        assert p.drain(20)
        assert p.refused == 0
    stats = d.stop()
    assert (stats["predicted"], stats["gaps"]) == (20, 0)


@pytest.mark.parametrize("retry", [0.02, 0.5], ids=["publisher first", "daemon first"])
def test_a_broker_that_loses_its_disk_loses_nothing_that_is_above_the_watermark(
    tmp_path, mosquitto, daemon, write_config, retry
):
    broker = mosquitto(PERSISTENT)
    numbered = 'sequence = "seq"\nepoch = "epoch"'
    told = 'topic = "out/{device}"\nwatermark = "marks/{stream}"\nwatermark_every = "300ms"'
    d = daemon(write_config(broker.port, input=numbered, output=told)).wait_ready()
    spool = tmp_path / "spool"
    options = {"host": "127.0.0.1", "topic": "in/{stream}", "client_id": "sensor"}
    options |= {"watermark": "marks/{stream}", "retry_min": retry, "retry_max": retry}
    with Publisher(spool, port=broker.port, **options) as p:
        send(p, 100)
        assert p.drain(20)
        for connects in (2, 3):
            send(p, 200)
            broker.process.kill()
            broker.process.wait()
            (broker.folder / "mosquitto.db").unlink(missing_ok=True)
            send(p, 100)
            broker.start()
            send(p, 100)
            d.wait_log("connected, subscribed", count=connects)
        assert p.drain(20)
        last = dict(p._numbers)
    stats = d.stop()
    assert last == {"x": 450, "y": 450}
    assert stats["gaps"] == 0
    assert stats["sessions_lost"] == 2
    assert stats["predicted"] == 900
    assert not Spool(spool).messages()


def send(p, count):
    for i in range(count):
        p.send("xy"[i % 2], {"a": i, "b": 0.5, "t": i})
        time.sleep(0.001)
