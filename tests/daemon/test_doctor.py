"""`edge-rnn doctor` against real brokers and bad surroundings."""

import os
import re
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import trustme
from click.testing import CliRunner

from edge_rnn.cli.checks import broker, disk, files, machine
from edge_rnn.cli.doctor import doctor
from edge_rnn.config import load_config
from edge_rnn.journal import Journal
from edge_rnn_devices.broker import free_port
from tests.daemon.test_mqtt import DYNSEC

LOGIN = 'username = "me"\npassword_file = "secret"\ntls.ca_file = "ca.pem"'


def visited(path, probe=False):
    return list(broker.broker(load_config(path), probe=probe))


def bad(found):
    return [(f.level, f.text) for f in found if f.level in ("warning", "error")]


def only(found):
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_good_broker_is_left_as_it_was(mosquitto, client, daemon, write_config, protocol):
    there = mosquitto("allow_anonymous true\nmax_inflight_messages 0")
    everything = client(there.port, "#")
    config = write_config(there.port, broker=f'protocol = "{protocol}"\nclient_id = "us"')
    d = daemon(config).wait_ready()
    found = visited(config, probe=True)
    assert bad(found) == []
    text = "\n".join(f.text for f in found)
    assert f"accepts us by MQTT {protocol}" in text
    assert "it is mosquitto version" in text
    assert "keeps our session while we are away" in text
    assert f"the daemon runs (process {d.pid}) as 'us'" in text
    assert "all of 1200 messages were kept" in text
    assert d.stop()["disconnects"] == 0
    assert {t for t, _ in everything.messages} == {"us-doctor/probe", "status"}


def test_a_brokers_limits_are_measured(mosquitto, write_config):
    """By MQTT 5 the broker takes our window (receive maximum) in place of its own."""
    there = mosquitto("allow_anonymous true\nmax_queued_messages 300\nmax_inflight_messages 15")
    every = 'commit_every = "500ms"'
    old = write_config(there.port, state=every, broker='protocol = "3.1.1"')
    kept, window = (t for _, t in bad(visited(old, probe=True)))
    assert re.match(r"3\d\d of 1200 messages were kept for a client that was away", kept), kept
    assert window == "15 messages are on the way at once: 30 a second with state.commit_every"
    new = write_config(there.port, state=every, broker='protocol = "5"')
    (kept,) = (t for _, t in bad(visited(new, probe=True)))
    assert re.match(r"3\d\d of 1200 messages", kept), kept


def test_a_broker_that_grants_less(mosquitto, write_config):
    there = mosquitto("allow_anonymous true\nmax_qos 0")
    found = bad(visited(write_config(there.port, broker='protocol = "5"')))
    assert ("warning", "'in/+': it grants QoS 0 only") in found
    assert any(level == "error" and "takes QoS 0 only" in text for level, text in found)


def test_a_subscription_that_the_access_rules_refuse(mosquitto, write_config, tmp_path):
    if DYNSEC is None:
        pytest.skip("mosquitto's dynamic security plugin is missing")
    rules = tmp_path / "rules.json"
    made = ["mosquitto_ctrl", "dynsec", "init", str(rules), "me", "pw"]
    subprocess.run(made, check=True, capture_output=True)
    content = msgspec.json.decode(rules.read_bytes())
    content["roles"][0]["acls"] = []
    rules.write_bytes(msgspec.json.encode(content))
    rules.chmod(0o666)
    there = mosquitto(f"allow_anonymous false\nplugin {DYNSEC}\nplugin_opt_config_file {rules}")
    (tmp_path / "secret").write_text("pw")
    login = 'username = "me"\npassword_file = "secret"'
    (level, text), *_ = bad(visited(write_config(there.port, broker=login)))
    assert (level, "refuses the subscription to 'in/+'" in text) == ("error", True)


def secured(mosquitto, authority, folder, **options):
    certificate = authority.issue_cert("127.0.0.1", **options)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    users = ["mosquitto_passwd", "-b", "-c", str(folder / "users"), "me", "s3cret"]
    subprocess.run(users, check=True, capture_output=True)
    (folder / "users").chmod(0o644)
    return mosquitto(
        f"allow_anonymous false\npassword_file {folder}/users\ncafile {folder}/ca.pem\n"
        f"certfile {folder}/server.pem\nkeyfile {folder}/server.pem"
    )


def test_tls_and_passwords(mosquitto, write_config, tmp_path):
    authority = trustme.CA()
    soon = datetime.now(UTC) + timedelta(days=9)
    there = secured(mosquitto, authority, tmp_path, not_after=soon)
    config = write_config(there.port, broker=LOGIN)
    (tmp_path / "secret").write_text("s3cret")
    found = bad(visited(config))
    assert found == [
        ("warning", f"the broker's certificate is trusted and expires on {soon.date()}")
    ]
    (tmp_path / "secret").write_text("guess-0815")
    refused = [f for f in visited(config) if f.level == "error"]
    assert "refused the connection: Not authorized" in only(refused).text
    assert "guess-0815" not in str(refused)
    assert "password" in only(refused).fix

    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger = only(visited(config))
    assert (stranger.level, "certificate is not accepted" in stranger.text) == ("error", True)
    assert "ca_file" in stranger.fix


def test_a_broker_that_is_not_there(write_config):
    found = only(visited(write_config(free_port())))
    assert (found.level, "connection refused" in found.text) == ("error", True)
    assert "broker.host and broker.port" in found.fix


def test_somebody_else_who_says_to_be_us(mosquitto, client, write_config):
    there = mosquitto()
    client(there.port).publish("status", b"online", retain=True)
    (level, text), *_ = bad(visited(write_config(there.port)))
    assert (level, "another machine may run this pipeline" in text) == ("warning", True)


def test_files_that_others_can_read(write_config, tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o640)
    config = load_config(write_config(1, broker='username = "u"\npassword_file = "secret"'))
    found = only(list(files.secrets(config)))
    assert (found.level, found.fix) == ("warning", f"chmod 600 {tmp_path}/secret")
    (tmp_path / "secret").chmod(0o600)
    assert bad(files.secrets(config)) == []


@pytest.mark.parametrize(
    ("days", "level", "text"),
    [(-1, "error", "has expired"), (20, "warning", "expires on"), (300, "ok", "is valid until"),
     (40 * 365, "ok", "is valid until 206")],
)  # fmt: skip
def test_when_a_certificate_ends(write_config, tmp_path, days, level, text):
    ends = datetime.now(UTC) + timedelta(days=days)
    begins = datetime.now(UTC) - timedelta(days=99)
    own = trustme.CA().issue_cert("us", not_after=ends, not_before=begins)
    own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    config = load_config(write_config(1, broker='tls.cert_file = "own.pem"'))
    found = only(list(files.certificates(config)))
    assert (found.level, text in found.text) == (level, True)
    der = files._certificates(tmp_path / "own.pem")[0]
    assert abs(files.not_after(der) - ends.timestamp()) <= 1


def test_a_file_that_is_no_certificate(write_config, tmp_path):
    for content in (b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nMAMC\n-----END CERTIFICATE-----"):
        (tmp_path / "own.pem").write_bytes(content)
        config = load_config(write_config(1, broker='tls.cert_file = "own.pem"'))
        assert only(list(files.certificates(config))).level == "error"


def test_what_is_promised(write_config):
    def levels(**tables):
        return [f.level for f in files.promise(load_config(write_config(1, **tables)))]

    assert levels(input='sequence = "q"') == ["ok"]
    assert levels(input='increasing = "t"') == ["warning"]
    assert levels() == ["warning"]
    assert levels(input="qos = 0", state="save_every = 5") == ["warning"] * 3


MOUNTS = """\
22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:25 / /dev/shm rw shared:1 - tmpfs tmpfs rw
31 22 0:26 / /var/lib/my\\040states rw - nfs4 host:/x rw
32 22 0:27 / /var/lib/mystery rw - overlay overlay rw
"""


def test_file_systems():
    for folder, kind in {
        "/": "ext4", "/dev/shm/x": "tmpfs", "/dev/shmx": "ext4", "/var/lib/my states/a": "nfs4",
        "/var/lib/mystery": "overlay",
    }.items():  # fmt: skip
        assert disk.file_system(Path(folder), MOUNTS) == kind


def test_a_disk_that_keeps_nothing_or_takes_nothing(write_config, tmp_path):
    found = list(disk.disk(load_config(write_config(1))))
    assert all(f.level != "error" for f in found)
    assert any(re.search(r"a commit takes [\d.]+ ms \(median\)", f.text) for f in found)
    assert not list(tmp_path.glob(".edge-rnn-doctor-*"))
    missing = load_config(write_config(1, state='file = "none/p.state"'))
    assert only(list(disk.disk(missing))).level == "error"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        config = load_config(write_config(1, state=f'file = "{memory}/p.state"'))
        assert any("a reboot forgets" in t for level, t in bad(disk.disk(config)))


def test_memory_cards_are_known(tmp_path):
    device = tmp_path.stat().st_dev
    assert not disk.memory_card(tmp_path, sys=tmp_path)
    block = tmp_path / "dev/block"
    block.mkdir(parents=True)
    (tmp_path / "devices/mmcblk0/mmcblk0p2").mkdir(parents=True)
    link = block / f"{os.major(device)}:{os.minor(device)}"
    link.symlink_to(tmp_path / "devices/mmcblk0/mmcblk0p2")
    assert disk.memory_card(tmp_path, sys=tmp_path)


def test_wear(write_config):
    def found(state, on_card=True):
        config = load_config(write_config(1, state=state))
        return disk._wear(config, 28_000.0, on_card=on_card)

    assert found("").level == "warning"
    assert "write_budget" in found("").fix
    assert "2.4 GB/day at one batch a second" in found("", on_card=False).text
    assert found("", on_card=False).level == "ok"
    assert "up to 12 GB/day" in found('commit_every = "200ms"').text
    assert "there is one about every 4.8 s" in found('write_budget = "500 MB/day"').text
    assert "0.5 MB/day can't be kept" in found('write_budget = "0.0005 GB/day"').text
    assert found('write_budget = "0.5 MB/day"\nsave_every = "1m"').level == "ok"


def test_the_clock(tmp_path):
    synchronised = tmp_path / "synchronized"
    synchronised.touch()
    assert only(list(machine.clock(synchronised))).level == "ok"
    assert machine._adjtimex() in range(-1, 6)


def test_a_damaged_model_and_one_without_a_run(write_config, model_file):
    config = load_config(write_config(1))
    assert [f.level for f in machine.model(config)] == ["note", "ok", "ok"]
    model_file.write_bytes(model_file.read_bytes()[:-1])
    assert only(list(machine.model(config))).level == "error"


def test_a_held_state_file_tells_who_holds_it(tmp_path):
    path = tmp_path / "p.state"
    assert broker._owner(path) == ""
    with Journal(path, model="m", pipeline="p"):
        assert int(broker._owner(path)) > 0
    assert broker._owner(path) == ""


def test_the_command(mosquitto, write_config, tmp_path):
    there = mosquitto()
    run = CliRunner().invoke
    started = time.monotonic()
    config = write_config(there.port, input='sequence = "q"')
    result = run(doctor, [str(config), "--json"])
    found = msgspec.json.decode(result.stdout)
    assert {f["area"] for f in found} >= {"configuration", "model", "cpu", "disk", "broker"}
    levels = {f["level"] for f in found}
    assert result.exit_code == (2 if "error" in levels else 1 if "warning" in levels else 0)
    assert all(f["fix"] for f in found if f["level"] != "ok")
    assert "error" not in levels, found

    config.write_text(config.read_text().replace("[input]", "[inptu]"))
    result = run(doctor, [str(config)])
    assert result.exit_code == 2
    assert "inptu: unknown" in result.stdout.replace("\n", " ")
    assert "1 errors, 0 warnings" in result.stdout
    assert time.monotonic() - started < 60
