"""The whole way of a message, beside what a user would write with paho-mqtt and ONNX Runtime.

    python -m benchmarks.delivery            ten minutes; --rounds, --markdown, --json

README.md says what is measured and how.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
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

H = 32
NAMES = ("ax", "ay", "az", "gx", "gy", "gz")
MEASURED_CORE, OTHER_CORE = 0, 1
LATENCY_RATE, LATENCY_COUNT = 100.0, 3000
ALIKE = 0.1
"""Ours, in int8, and the peer's predictions differ by no more."""
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
NUMBERED = 'sequence = "q"'
FULL, NORMAL = 'synchronous = "full"', 'synchronous = "normal"'
MEMORY = 'save_every = "off"'


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


QOS_1 = (Case("edge-rnn, exact", 1, (NUMBERED, FULL)), Case("paho + ONNX Runtime", 1, None))
QOS_0 = (Case("edge-rnn, in memory", 0, ("", MEMORY)), Case("paho + ONNX Runtime", 0, None))


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


def free_port() -> int:
    """That nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def listens(port: int) -> bool:
    """Does somebody?"""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def agree(runs: Sequence[Run]) -> None:
    """Do both compute the same? Else there is nothing to compare."""
    ours, theirs = (np.array([r.last[k] for k in sorted(runs[0].last)]) for r in runs)
    difference = float(np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2)))
    if not difference < ALIKE:
        raise click.ClickException(f"ours and the peer's predictions differ by {difference:.3g}")


def throughput(bench: Bench, pair: tuple[Case, Case], rounds: int, counts: Sequence[int]) -> Any:
    """Both in turn -> rows of the table."""
    runs: list[list[Run]] = [[], []]
    for _ in range(rounds):
        for case, count, found in zip(pair, counts, runs, strict=True):
            found.append(bench.run(case, count))
        agree([found[-1] for found in runs])
    ratio = statistics.median(p.cpu_us / o.cpu_us for o, p in zip(*runs, strict=True))
    for case, found in zip(pair, runs, strict=True):
        rate, cpu = (statistics.median(getattr(r, k) for r in found) for k in ("rate", "cpu_us"))
        broker = [r.broker_us for r in found if r.broker_us is not None]
        yield {
            "what": case.title,
            "QoS": case.qos,
            "messages/s": rate,
            "CPU us a message": cpu,
            "messages per CPU second": 1e6 / cpu,
            "times the peer": ratio if case.daemon else 1.0,
            "broker's CPU us": statistics.median(broker) if broker else None,
        }


def latency(bench: Bench, rounds: int) -> Any:
    """Rows of the second table: with and without waiting for the disk, then the disk alone."""
    for title, state in (("synchronous full", FULL), ("synchronous normal", NORMAL)):
        waits: list[float] = []
        for _ in range(rounds):
            case = Case(title, 1, (NUMBERED, state))
            waits += bench.run(case, LATENCY_COUNT, rate=LATENCY_RATE, warm=1000).waits
        yield percentiles(f"message to prediction, {title}", waits)
    yield percentiles("fdatasync of one page on this disk", sync_times(bench.folder))


def sync_times(folder: Path) -> list[float]:
    """Seconds that the disk takes for a page of a file, at the same pace."""
    found = []
    with (folder / "page").open("wb", buffering=0) as file:
        for i in range(500):
            os.pwrite(file.fileno(), bytes(4096), 4096 * (i % 100))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            found.append(time.perf_counter() - start)
            time.sleep(1 / LATENCY_RATE)
    return found


def percentiles(title: str, seconds: Sequence[float]) -> dict[str, Any]:
    """A row, in milliseconds."""
    p50, p90, p99 = 1e3 * np.percentile(seconds, [50, 90, 99])
    return {"ms": title, "p50": p50, "p90": p90, "p99": p99, "most": 1e3 * max(seconds)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[_shown(v) for v in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--count", default=200_000, show_default=True, help="Messages a run; the peer, half.")
@click.option("--broker/--no-broker", default=True, help="mosquitto between, or none.")
@click.option("--only", type=click.Choice(["qos1", "qos0", "latency"]))
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, count: int, broker: bool, only: str | None, as_json: bool) -> None:
    """Feed the daemon and the peer in turn, and measure what each message costs."""
    tables = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        bench = Bench(Path(folder), broker)
        counts = count, count // 2
        if only in (None, "qos1"):
            tables["QoS 1"] = list(throughput(bench, QOS_1, rounds, counts))
        if only in (None, "qos0"):
            tables["QoS 0"] = list(throughput(bench, QOS_0, rounds, counts))
        if only in (None, "latency"):
            tables["latency"] = list(latency(bench, rounds))
    if as_json:
        click.echo(json.dumps(tables))
    else:
        click.echo("\n\n".join(table(rows) for rows in tables.values()))


if __name__ == "__main__":
    main()
