"""The whole daemon as a process, between real brokers' topics."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trustme

import edge_rnn
from edge_rnn.journal import Journal
from edge_rnn.messages import Message
from edge_rnn.pipeline import Pipeline
from edge_rnn.session import Session
from tests.daemon.conftest import wait_until


@pytest.fixture(params=["mosquitto 5", "mosquitto 3.1.1", "iotcore 5"])
def spoken(request):
    """A broker, and how the daemon speaks with it: its port and further keys."""
    kind, protocol = request.param.split()
    broker = request.getfixturevalue(kind)()
    return broker, broker.port_of(protocol), f'protocol = "{protocol}"'


def send(client, messages):
    for topic, payload in messages:
        client.publish(topic, payload)


def states(tmp_path, model):
    digest = Session(model).digest
    with Journal(tmp_path / "p.state", model=digest, pipeline="p") as j:
        return j.load().states


def test_predictions_come_in_order_and_a_restart_continues_bit_for_bit(
    spoken, client, daemon, write_config, samples, expected
):
    broker, port, protocol = spoken
    config = write_config(port, broker=protocol, more='[rejects]\nfile = "rejects.jsonl"\n')
    messages = samples(60)
    answers = expected(messages)
    user = client(broker.port)

    d = daemon(config).wait_ready()
    send(user, messages[:30])
    user.publish("in/d0", b"nonsense")
    user.publish("in/d1", b'{"a": 1, "b": null}')
    send(user, messages[30:40])
    user.wait(40, "out/")
    stats = d.stop()
    assert (stats["predicted"], stats["rejected"]) == (40, 2)
    assert (stats["rejected.not_json"], stats["rejected.wrong_type"]) == (1, 1)
    assert d.log.count("set aside") == 2
    lines = config.with_name("rejects.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(x)["reason"] for x in lines] == ["not_json", "wrong_type"]

    send(user, messages[40:50])  # while nobody is there: the broker keeps them
    d = daemon(config).wait_ready()
    send(user, messages[50:])
    user.wait(60, "out/")
    d.stop()
    got = [(t, p) for t, p in user.messages if t.startswith("out/")]
    assert {t: [p for u, p in got if u == t] for t, _ in answers} == {
        t: [p for u, p in answers if u == t] for t, _ in answers
    }
    assert user.wait(4, "status") == [b"online", b"offline"] * 2


def test_more_messages_wait_than_the_broker_sends_unacknowledged(
    spoken, client, daemon, write_config, samples, expected
):
    """Some brokers confirm the subscription behind the messages that they may send so."""
    broker, port, protocol = spoken
    config = write_config(port, broker=protocol)
    daemon(config).wait_ready().stop()
    user = client(broker.port)
    messages = samples(300)
    send(user, messages)
    d = daemon(config)
    assert user.wait(300, "out/") == [p for _, p in expected(messages)]
    d.stop()


def test_messages_that_may_wait_are_stepped_together(
    mosquitto, client, daemon, write_config, samples, expected
):
    broker = mosquitto()
    user = client(broker.port)
    config = write_config(broker.port, more='[queue]\nmax_delay = "500ms"\nmax_batch = 10\n')
    d = daemon(config).wait_ready()
    messages = samples(24)
    for topic, payload in messages:
        user._client.publish(topic, payload, 1)
    user.wait(24, "out/")
    stats = d.stop()
    assert [m for m in user.messages if m[0].startswith("out/")] == expected(messages)
    assert stats["saves"] < 24


def test_retained_messages_are_ignored_and_counted(
    mosquitto, client, daemon, write_config, samples, expected
):
    broker = mosquitto()
    user = client(broker.port)
    user.publish("in/d0", b'{"a": 9, "b": 9}', retain=True)
    # With MQTT 5 they are not asked for, and do not come.
    config = write_config(broker.port, broker='protocol = "3.1.1"')
    d = daemon(config).wait_ready()
    messages = samples(3)
    send(user, messages)
    user.wait(3, "out/")
    assert d.stop()["rejected.retained"] == 1
    assert [m for m in user.messages if m[0].startswith("out/")] == expected(messages)


def test_a_kill_leaves_a_whole_state_and_the_last_will(
    mosquitto, client, daemon, write_config, samples, model, tmp_path
):
    broker = mosquitto()
    user = client(broker.port)
    config = write_config(broker.port, state='save_every = "20ms"')
    d = daemon(config).wait_ready()
    user.wait(1, "status")
    messages = samples(90)
    send(user, messages)
    user.wait(30, "out/")
    d.kill()
    assert user.wait(2, "status") == [b"online", b"offline"]

    for s in states(tmp_path, model):
        own = [Message(*m) for m in messages if m[0] == f"in/{s.stream}"]
        pipeline = Pipeline(model, _spec())
        pipeline.feed(own[: s.steps], 0.0)
        assert pipeline.changes().states == [s]
    again = daemon(config).wait_ready()
    again.stop()


def test_states_in_memory_are_saved_at_a_clean_stop_only(
    mosquitto, client, daemon, write_config, samples, model, tmp_path
):
    broker = mosquitto()
    user = client(broker.port)
    config = write_config(broker.port, state='save_every = "off"')
    steps = []
    for end in ("kill", "stop"):
        d = daemon(config).wait_ready()
        send(user, samples(6))
        user.wait(6 * (len(steps) + 1), "out/")
        getattr(d, end)()
        steps.append([s.steps for s in states(tmp_path, model)])
    assert steps == [[], [2, 2, 2]]


def test_the_daemon_outlives_its_broker(mosquitto, client, daemon, write_config, samples, expected):
    broker = mosquitto()
    messages = samples(40)
    first = client(broker.port)
    d = daemon(write_config(broker.port)).wait_ready()
    send(first, messages[:20])
    first.wait(20, "out/")
    first.close()
    broker.stop()
    d.wait_log("next try in")
    broker.start()
    d.wait_log("connected, subscribed", count=2)
    second = client(broker.port)
    send(second, messages[20:])
    second.wait(20, "out/")
    stats = d.stop()
    assert (stats["connects"], stats["disconnects"], stats["predicted"]) == (2, 1, 40)
    got = [m for c in (first, second) for m in c.messages if m[0].startswith("out/")]
    assert got == expected(messages)


def test_it_waits_for_a_broker_that_is_not_there_yet(
    mosquitto, client, daemon, write_config, samples, expected
):
    broker = mosquitto()
    broker.stop()
    d = daemon(write_config(broker.port))
    d.wait_log("connection refused; next try in")
    broker.start()
    d.wait_ready()
    user = client(broker.port)
    send(user, samples(3))
    user.wait(3, "out/")
    d.stop()


def test_predictions_go_to_another_broker_and_messages_wait_for_it(
    mosquitto, client, daemon, write_config, samples, expected
):
    source, sink = mosquitto(), mosquitto()
    messages = samples(60)
    sink.stop()
    more = f'[output.broker]\nhost = "127.0.0.1"\nport = {sink.port}\nretry_max = "1s"\n'
    d = daemon(write_config(source.port, more=more)).wait_ready()
    user = client(source.port, "out/#", "status")
    send(user, messages[:30])
    d.wait_log(f"messages wait until 127.0.0.1:{sink.port} takes predictions again")
    sink.start()
    d.wait_log("connected, publishing")
    reader = client(sink.port)  # some came before it: it sees what comes from now on
    send(user, messages[30:])
    d.wait_log("connected, publishing")
    last = expected(messages)[-1]
    wait_until("the last prediction", lambda: last in reader.messages)
    assert not user.messages  # none here
    stats = d.stop()
    assert (stats["predicted"], stats["publish_errors"]) == (60, 0)
    assert d.log.count("messages wait until") == 1
    got = [m for m in reader.messages if m[0] != "status"]
    assert got == expected(messages)[-len(got) :]
    wait_until("the status", lambda: reader.messages[-1] == ("status", b"offline"))


def test_sighup_reads_the_configuration_again(
    mosquitto, client, daemon, write_config, samples, expected
):
    broker = mosquitto()
    user = client(broker.port, "out/#", "new/#")
    messages = samples(12)
    d = daemon(write_config(broker.port)).wait_ready()
    send(user, messages[:4])
    user.wait(4, "out/")

    config = write_config(broker.port, output='topc = "out/{device}"')
    d.send(signal.SIGHUP)
    d.wait_log(r"going on as before: .*p.toml:\d+: \[output\] topc: unknown")
    send(user, messages[4:8])
    user.wait(8, "out/")

    config.write_text(config.read_text().replace('topc = "out/', 'topic = "new/'))
    d.send(signal.SIGHUP)
    d.wait_log("connected, subscribed", count=2)
    send(user, messages[8:])
    user.wait(4, "new/")
    d.stop()
    got = [(t.replace("new/", "out/"), p) for t, p in user.messages]
    assert got == expected(messages)


def test_sighup_to_a_model_whose_states_do_not_fit_goes_back(
    mosquitto, client, daemon, write_config, samples, expected, other_model, tmp_path
):
    broker = mosquitto()
    user = client(broker.port)
    messages = samples(8)
    config = write_config(broker.port)
    d = daemon(config).wait_ready()
    send(user, messages[:4])
    user.wait(4, "out/")
    edge_rnn.save(other_model, tmp_path / "other.ernn")
    config.write_text(config.read_text().replace("m.ernn", "other.ernn"))
    d.send(signal.SIGHUP)
    d.wait_log("going back: .*on_model_change")
    d.wait_log("connected, subscribed", count=2)
    send(user, messages[4:])
    user.wait(8, "out/")
    d.stop()
    assert [m for m in user.messages if m[0] != "status"] == expected(messages)


STOPPED_AT = """
import os, signal, sys

class Stop:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Stop())
from edge_rnn.cli import main
main(["run", sys.argv[2]])
"""


@pytest.mark.parametrize("loading", ["numpy", "edge_rnn.pipeline", "llvmlite"])
def test_told_to_stop_while_it_starts_it_stops_cleanly(write_config, tmp_path, loading):
    """It loads that for the first time then; the broker does not exist."""
    command = [sys.executable, "-c", STOPPED_AT, loading, str(write_config(1))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "p.state").exists()


@pytest.fixture
def authority():
    return trustme.CA()


def secured(mosquitto, authority, folder):
    """A broker with TLS and one user, `me` with password `s3cret`."""
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(folder / "users"), "me", "s3cret"],
        check=True,
        capture_output=True,
    )
    for name in ("key.pem", "users"):
        (folder / name).chmod(0o644)
    (folder / "secret").write_text("s3cret\n")
    (folder / "wrong").write_text("guess-0815\n")
    return mosquitto(
        f"allow_anonymous false\npassword_file {folder}/users\n"
        f"cafile {folder}/ca.pem\ncertfile {folder}/cert.pem\nkeyfile {folder}/key.pem"
    )


LOGIN = 'username = "me"\npassword_file = "{}"\ntls.ca_file = "{}"'


def test_tls_and_password(mosquitto, authority, daemon, write_config, tmp_path):
    broker = secured(mosquitto, authority, tmp_path)
    d = daemon(write_config(broker.port, broker=LOGIN.format("secret", "ca.pem"))).wait_ready()
    d.stop()
    assert "s3cret" not in d.log

    refused = daemon(write_config(broker.port, broker=LOGIN.format("wrong", "ca.pem")))
    assert refused.exit_code() == 1
    assert "refused the connection: Not authorized" in refused.log
    assert "user 'me'" in refused.log
    assert "guess-0815" not in refused.log

    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    stranger = daemon(write_config(broker.port, broker=LOGIN.format("secret", "other.pem")))
    stranger.wait_log("TLS certificate is not accepted: .*; next try in")
    stranger.send(signal.SIGTERM)
    assert stranger.exit_code() == 0

    name = write_config(broker.port, broker=LOGIN.format("secret", "ca.pem"))
    name.write_text(name.read_text().replace('"127.0.0.1"', '"localhost"'))
    other_name = daemon(name)
    other_name.wait_log("not accepted: Hostname mismatch")
    other_name.stop()


def test_exit_codes_and_check(daemon, write_config, tmp_path, model_file, other_model):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "edge_rnn", "run", *arguments],
            env={**os.environ, "PYTHONPATH": str(Path(edge_rnn.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=60,
        )

    config = write_config(1)
    checked = run(str(config), "--check")
    assert checked.returncode == 0, checked.stderr
    assert "in/+ (QoS 1)" in checked.stdout
    assert "out/{device}" in checked.stdout
    assert not (tmp_path / "p.state").exists()

    fields = write_config(1, more="").read_text().replace("timestamp", 'fields = ["a"]\ntimestamp')
    config.write_text(fields)
    wrong = run(str(config), "--check")
    assert wrong.returncode == 2
    assert "[input] fields: 1 fields for a model of 2 features" in wrong.stderr

    config = write_config(1)
    with Journal(tmp_path / "p.state", model=Session(other_model).digest, pipeline="p") as held:
        in_use = run(str(config))
        assert in_use.returncode == 1
        assert f"in use by process {os.getpid()}" in in_use.stderr
        held.commit(_some_state())
    other = run(str(config))
    assert other.returncode == 1
    assert "on_model_change" in other.stderr

    model_file.write_bytes(b"not a model")
    assert run(str(config)).returncode == 1
    model_file.unlink()
    assert run(str(config)).returncode == 1


def test_systemd_hears_that_it_is_ready(daemon, write_config, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        d = daemon(write_config(1), **environment)
        assert [manager.recv(99) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1"]
        d.send(signal.SIGINT)
        assert d.exit_code() == 0
    assert stat.S_IMODE((tmp_path / "p.state").stat().st_mode) == 0o600


def _spec():
    from edge_rnn.messages import Spec

    return Spec(topics=["in/{device}"], output="out/{device}", timestamp="t")


def _some_state():
    from edge_rnn.journal import Commit
    from edge_rnn.state import StreamState

    return Commit(states=[StreamState("a", 1, b"")])
