"""A daemon at work, recorded beside it, and replayed: the same bytes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import paho.mqtt.client as paho
import pytest
from click.testing import CliRunner
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import edge_rnn
from edge_rnn.cli import cli
from edge_rnn.replay import Reader
from tests.daemon.conftest import wait_until

PROTOCOLS = ["3.1.1", "5"]


def start(*args, **options):
    env = {**os.environ, "PYTHONPATH": str(Path(edge_rnn.__file__).parents[1])}
    command = [sys.executable, "-m", "edge_rnn", *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(process, timeout=60):
    text = process.communicate(timeout=timeout)[0].decode()
    return process.returncode, text


@pytest.fixture
def recorder(stack):
    def begin(*args):
        process = start("record", *args)
        stack.callback(process.communicate)
        stack.callback(process.kill)
        return process

    return begin


def records(sender, recording):
    """Does it hold a message, such as this one that has no prediction?"""
    sender.publish("in/first", b'{"t": 1, "a": 0, "b": 1e39}')
    return recording.exists() and recording.stat().st_size and any(Reader(recording))


def holds(recording, predictions):
    """The recorder is another client than the one that has seen them."""
    wait_until(
        f"{predictions} recorded predictions",
        lambda: sum(e.kind == "out" for e in Reader(recording)) == predictions,
    )


@pytest.mark.process
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_replay_gives_the_daemons_bytes(
    protocol, mosquitto, client, daemon, recorder, write_config, samples, tmp_path
):
    port = mosquitto().port
    config = write_config(port, broker=f'protocol = "{protocol}"', input='increasing = "t"')
    sender = client(port)
    recording = tmp_path / "r.rec"
    process = recorder(config, "-o", recording, "--output", "--json")
    d = daemon(config).wait_ready()
    wait_until("the recorder", lambda: records(sender, recording))
    for topic, payload in samples(299):
        sender.publish(topic, payload)
    live = sender.wait(299, "out/")
    holds(recording, 299)
    process.send_signal(signal.SIGINT)
    code, text = finished(process)
    d.stop()
    assert code == 0, text
    found = msgspec.json.decode(text.splitlines()[-1])
    assert found["messages"] > 299 and found["predictions"] == 299 and not found["breaks"], text
    out = tmp_path / "o.ndjson"
    for batch in ("1", "17", "1024"):
        options = ["--pipeline", str(config), "--verify", "-o", str(out), "--max-batch", batch]
        result = CliRunner().invoke(cli, ["replay", str(recording), *options])
        assert result.exit_code == 0 and "bit-identical: 299" in result.output, result.output
        assert out.read_bytes().splitlines() == live
    assert "rejected: not_finite" in result.output


@pytest.mark.process
def test_a_daemon_is_verified_from_the_middle(
    mosquitto, client, daemon, recorder, write_config, samples, tmp_path
):
    port = mosquitto().port
    config = write_config(port, input='increasing = "t"', state='ttl = "1h"')
    sender, d = client(port, "out/#"), daemon(config).wait_ready()
    recording, states = tmp_path / "r.rec", tmp_path / "s.states"
    sent = samples(90)

    def send(messages):
        for topic, payload in messages:
            sender.publish(topic, payload)

    send(sent[:30])
    sender.wait(30)
    process = recorder(config, "-o", recording, "--output")
    wait_until("the recorder", lambda: records(sender, recording))
    send(sent[30:60])
    sender.wait(60)
    exported = CliRunner().invoke(cli, ["state", "export", str(config), str(states)])
    assert exported.exit_code == 0, exported.output
    send(sent[60:])
    sender.wait(90)
    holds(recording, 60)
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 0
    d.stop()
    options = ["replay", str(recording), "--pipeline", str(config), "--verify"]
    cold = CliRunner().invoke(cli, options)
    assert cold.exit_code == 3, cold.output
    result = CliRunner().invoke(cli, [*options, "--state", str(states), "--json"])
    assert result.exit_code == 0, result.output
    verdict = msgspec.json.decode(result.output)["verdict"]
    assert (verdict["compared"], verdict["earlier"], verdict["unrecorded"]) == (30, 30, 0)


@pytest.mark.process
def test_a_killed_recorder_keeps_what_it_had(
    mosquitto, client, recorder, write_config, samples, tmp_path
):
    port = mosquitto().port
    config, sender, recording = write_config(port), client(port), tmp_path / "r.rec"
    process = recorder(config, "-o", recording)
    wait_until("the recorder", lambda: records(sender, recording))
    for topic, payload in samples(20):
        sender.publish(topic, payload)
    wait_until("all", lambda: sum(e.topic != "in/first" for e in Reader(recording)) == 20)
    process.kill()
    process.wait(20)
    with recording.open("r+b") as f:
        f.truncate(recording.stat().st_size - 3)
    result = CliRunner().invoke(cli, ["replay", str(recording), "--pipeline", str(config)])
    assert result.exit_code == 0 and "bytes torn off" in result.output, result.output
    assert re.search(r"predictions +19\b", result.output), result.output


@pytest.mark.process
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_recorder_tells_of_lost_connections_and_takes_nothing_away(
    protocol, mosquitto, client, recorder, write_config, tmp_path
):
    broker = mosquitto("allow_anonymous true\nlog_type all")
    config, recording = write_config(broker.port, broker=f'protocol = "{protocol}"'), tmp_path / "r"
    text = config.read_text().replace("in/{device}", "$share/g/in/{device}")
    config.write_text(text)
    sender = client(broker.port, "in/#")
    process = recorder(config, "-o", recording, "--seconds", "60")
    wait_until("the recorder", lambda: records(sender, recording))
    broker.stop()
    broker.start()
    sender = client(broker.port, "#")
    before = len(list(Reader(recording)))
    wait_until("more", lambda: records(sender, recording) and len(list(Reader(recording))) > before)
    wait_until("more", lambda: records(sender, recording) and [*Reader(recording)][-1].kind == "in")
    process.send_signal(signal.SIGINT)
    code, text = finished(process)
    assert code == 0 and "connection lost 1 times" in text, text
    assert [e.kind for e in Reader(recording)].count("break") == 1
    assert "$share" not in (tmp_path / "mosquitto" / "broker.log").read_text()
    assert {t for t, _ in sender.messages} == {"in/first"}


def test_a_recording_is_a_new_file(write_config, tmp_path):
    (tmp_path / "r.rec").write_bytes(b"mine")
    result = CliRunner().invoke(
        cli, ["record", str(write_config(1)), "-o", str(tmp_path / "r.rec")]
    )
    assert result.exit_code == 1 and "is there already" in result.output
    assert (tmp_path / "r.rec").read_bytes() == b"mine"


@pytest.mark.process
def test_user_properties_are_recorded(mosquitto, recorder, write_config, tmp_path, stack):
    port = mosquitto().port
    config, recording = write_config(port, broker='protocol = "5"'), tmp_path / "r.rec"
    process = recorder(config, "-o", recording, "--messages", "1")
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("seq", "7")

    sender = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    sender.connect("127.0.0.1", port)
    sender.loop_start()
    stack.callback(sender.loop_stop)
    stack.callback(sender.disconnect)

    def published():
        sender.publish("in/a", b"{}", properties=properties)
        return process.poll() is not None

    wait_until("the end", published)
    event = next(iter(Reader(recording)))
    assert event.properties == (("seq", "7"),)
