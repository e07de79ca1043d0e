"""A daemon at work, recorded beside it, and replayed: the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

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
