"""The demo as its user starts it: a real broker, real recordings, the real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edge_rnn
from edge_rnn_devices.demo import MODEL
from edge_rnn_devices.recordings import ACTIVITIES, FEATURES, RATE_HZ, day, load

COMMAND = [sys.executable, "-m", "edge_rnn", "demo"]


def children(pid: int) -> set[int]:
    """Processes below this one, however deep."""
    below: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(stat.parent.name)
            below |= {child} | children(child)
    return below


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_every_message_is_answered_in_order_and_mostly_right(tmp_path: Path) -> None:
    options = ["--seconds", "8", "--speed", "10", "--devices", "4", "--json"]
    picture = tmp_path / "demo.svg"
    done = subprocess.run(
        [*COMMAND, *options, "--workdir", str(tmp_path), "--screenshot", str(picture)],
        stdout=subprocess.PIPE,
        check=True,
    )
    summary = json.loads(done.stdout)
    assert summary["sent"] == summary["predictions"] == 4 * 8 * 10 * RATE_HZ
    assert summary["lost"] == summary["out_of_order"] == 0
    assert summary["accuracy"] > 0.85
    assert picture.read_text().startswith("<svg")
    assert "watch-4" in picture.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(number: signal.Signals) -> None:
    # A shell starts what it runs in the background with SIGINT ignored, and that is inherited.
    heard = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from edge_rnn.cli import main; main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", heard, "demo", "--seconds", "0", "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started: set[int] = set()
    while len(started) < 3 and process.poll() is None:  # broker, daemon, simulator
        started = children(process.pid)
        time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(number)
    code = process.wait(30)
    end = time.monotonic() + 20
    while any(alive(pid) for pid in started) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in started if alive(pid)]
    assert number == signal.SIGKILL or code in (0, 130)


def test_a_daemon_that_can_not_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("not a database, but long enough to be looked at as one")
    done = subprocess.run(
        [*COMMAND, "--json", "--workdir", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "the daemon did not start" in done.stderr
    assert "state.db" in done.stderr


@pytest.mark.parametrize("broker", ["nowhere", "127.0.0.1:x", "127.0.0.1:1"])
def test_a_wrong_broker_is_named(broker: str) -> None:
    done = subprocess.run([*COMMAND, "--broker", broker], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert broker in done.stderr


def test_the_shipped_model_is_as_good_as_its_metrics_say() -> None:
    model = edge_rnn.load(MODEL)
    figures = json.loads(MODEL.with_suffix(".metrics.json").read_text())
    assert [f.name for f in model.features] == list(FEATURES)
    assert model.classes == ACTIVITIES
    assert model.rate_hz == RATE_HZ
    session, right, total = edge_rnn.Session(model), 0, 0
    for seed in range(8):
        x, labels = day(load("test"), seed)
        right += int((session.run(str(seed), x).argmax(axis=1) == labels).sum())
        total += len(labels)
    assert right / total == pytest.approx(figures["held_out"]["accuracy"], abs=0.01)
