"""The processes of a run: the broker, what is measured, and the feeder, each on its core."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

import edge_rnn
from edge_rnn.graph import Dense, Feature, Gru, Input, Matrix, Model
from edge_rnn_converters.peers.onnx_graph import StepGraph
from edge_rnn_converters.quantize import quantize
from edge_rnn_devices.broker import free_port

H = 32
NAMES = ("ax", "ay", "az", "gx", "gy", "gz")
MEASURED_CORE, OTHER_CORE = 0, 1
PIPELINE = """
[model]
file = "model.ernn"
[broker]
host = "127.0.0.1"
port = {port}
protocol = "5"
[input]
topic = "sensors/{{device}}/imu"
qos = {qos}
{numbered}
[output]
topic = "predictions/{{device}}"
qos = {qos}
[state]
{state}
"""
MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
"""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured; `daemon` are lines of the pipeline file, none for the peer."""

    title: str
    qos: int
    daemon: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Run:
    """cpu_us: of the measured process for each message; broker_us: of the broker, if there is
    one; waits: seconds from a message to its answer, where these are paced."""

    rate: float
    cpu_us: float
    broker_us: float | None
    waits: Sequence[float]
    last: dict[str, list[float]]


class Bench:
    """Starts and stops the processes; those not measured share the other core."""

    def __init__(self, folder: Path, broker: bool) -> None:
        self.folder, self.broker = folder, broker
        model = gru()
        edge_rnn.save(quantize(model, "w8a8"), folder / "model.ernn")
        (folder / "model.onnx").write_bytes(StepGraph(model, 1, quantized=False).blob)

    def run(self, case: Case, count: int, *, rate: float = 0.0, warm: int = 10_000) -> Run:
        """One run of new processes with empty state files."""
        port = free_port()
        for left in self.folder.glob("p.*"):
            left.unlink()
        with ExitStack() as stack:
            broker: subprocess.Popen[str] | None = None
            options = ["--qos", case.qos, "--count", count, "--warm", warm, "--rate", rate]
            if self.broker:
                broker = stack.enter_context(self._mosquitto(port))
                measured = stack.enter_context(self._measured(case, port))
                pids = ["--pid", measured.pid, "--pid", broker.pid]
                feeder = stack.enter_context(self._feeder(port, *options, *pids))
            else:
                pid_file = self.folder / "p.pid"
                options += ["--listen", "--pid-file", pid_file]
                feeder = stack.enter_context(self._feeder(port, *options))
                expect(feeder, "up")
                measured = stack.enter_context(self._measured(case, port, pid_file))
            try:
                told = json.loads(expect(feeder, '{"seconds'))
            except click.ClickException as e:
                measured.kill()
                assert measured.stdout is not None
                raise click.ClickException(f"{e}\n{measured.stdout.read()[-3000:]}") from e
        cpu = [1e6 * s / count for s in told["cpu"]]
        return Run(
            count / told["seconds"], cpu[0], cpu[1] if self.broker else None,
            told["waits"], told["last"],
        )  # fmt: skip

    def alone(self, count: int, rate: float, warm: int) -> Sequence[float]:
        """Seconds from a message to its return from the broker, where nobody answers it."""
        port = free_port()
        options = ["--alone", "--count", count, "--warm", warm, "--rate", rate]
        with self._mosquitto(port), self._feeder(port, *options) as feeder:
            waits: Sequence[float] = json.loads(expect(feeder, '{"seconds'))["waits"]
        return waits

    @contextmanager
    def _mosquitto(self, port: int) -> Iterator[subprocess.Popen[str]]:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise click.ClickException("mosquitto is missing: install it, or use --no-broker")
        config = self.folder / "mosquitto.conf"
        config.write_text(MOSQUITTO.format(port=port))
        with process([program, "-c", config], OTHER_CORE) as p:
            while not listens(port):
                time.sleep(0.01)
            yield p

    @contextmanager
    def _measured(
        self, case: Case, port: int, pid_file: Path | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        command: list[Any]
        if case.daemon is None:
            command = ["benchmarks.delivery.peer", self.folder / "model.onnx", port, case.qos]
        else:
            numbered, state = case.daemon
            path = self.folder / "p.toml"
            path.write_text(
                PIPELINE.format(port=port, qos=case.qos, numbered=numbered, state=state)
            )
            command = ["edge_rnn", "run", path]
        with process([sys.executable, "-m", *command], MEASURED_CORE) as p:
            if pid_file:
                pid_file.write_text(str(p.pid))
            expect(p, "subscribed")
            yield p

    @contextmanager
    def _feeder(self, port: int, *options: Any) -> Iterator[subprocess.Popen[str]]:
        feeder = [sys.executable, "-m", "benchmarks.delivery.feeder", "--port", port, *options]
        with process(feeder, OTHER_CORE) as p:
            yield p


def gru() -> Model:
    """Six signals, a GRU of 32 units, two outputs; random weights."""
    r = np.random.default_rng(0)

    def w(rows: int, columns: int) -> Matrix:
        return Matrix(r.normal(0, columns**-0.5, (rows, columns)).astype(np.float32))

    def b(n: int) -> Any:
        return r.normal(0, 0.1, n).astype(np.float32)

    width = len(NAMES)
    nodes = (
        Gru("g", "x", w(3 * H, width), w(3 * H, H), b(3 * H), b(H)),
        Dense("y", "g", w(2, H), b(2)),
    )
    features = tuple(Feature(n) for n in NAMES)
    return Model((Input("x", width),), nodes, ("y",), features)


@contextmanager
def process(command: Sequence[Any], core: int) -> Iterator[subprocess.Popen[str]]:
    """On one core, killed in the end."""
    p = subprocess.Popen(
        ["taskset", "-c", str(core), *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield p
    finally:
        p.kill()
        p.wait()


def expect(p: subprocess.Popen[str], text: str) -> str:
    """Read what the process prints up to a line that has the text in it."""
    assert p.stdout is not None
    seen = []
    for line in p.stdout:
        seen.append(line)
        if text in line:
            return line
    raise click.ClickException(f"a process has ended without {text!r}:\n{''.join(seen[-20:])}")


def listens(port: int) -> bool:
    """Does somebody?"""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
