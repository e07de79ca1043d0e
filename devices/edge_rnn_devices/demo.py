"""`edge-rnn demo`: the whole product on one screen.

An embedded broker, simulated watches that replay real recordings, the daemon with a really trained
network, and a live view that holds its predictions against the truth.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.live import Live

from edge_rnn.errors import EdgeRnnError
from edge_rnn_devices import recordings
from edge_rnn_devices.broker import Address, connect, embedded_broker
from edge_rnn_devices.processes import memory_mb, python, stop
from edge_rnn_devices.scoreboard import Scoreboard
from edge_rnn_devices.screen import Screen

MODEL = Path(__file__).parent / "data" / "activity.ernn"
_START_SECONDS, _DRAIN_SECONDS = 180, 10
_STATUS = "edge-rnn/demo/status"
_PIPELINE = """\
[model]
file = {model}

[broker]
host = {host}
port = {port}
client_id = "edge-rnn-demo-{pid}"

[status]
topic = "{status}"

[input]
topic = "sensors/{{device}}/imu"
qos = 1
fields = {fields}
timestamp = "timestamp"
sequence = "seq"
epoch = "epoch"

[output]
topic = "predictions/{{device}}/activity"
qos = 1

[state]
file = "state.db"
"""


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="Stop after this many; 0: never.")
@click.option("--devices", default=8, show_default=True, type=click.IntRange(1, 1000))
@click.option("--speed", default=1.0, show_default=True, help="Replay at this times real time.")
@click.option("--broker", metavar="HOST:PORT", help="Use this broker instead of starting one.")
@click.option("--workdir", type=click.Path(path_type=Path), help="Keep pipeline, state, log here.")
@click.option("--screenshot", type=click.Path(path_type=Path), help="Save the last picture (SVG).")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON and nothing else.")
@click.pass_context
def demo(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
    """Watch a trained network recognise what eight people do, live, over MQTT.

    Exits with 0 if every message got its prediction, in order, else with 1.

    \b
    Examples:
      edge-rnn demo --speed 5
      edge-rnn demo --seconds 30 --json
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=as_json, quiet=as_json)
    with ExitStack() as stack:
        summary = Demo(console, stack, **options).run()
    if as_json:
        click.echo(json.dumps(summary))
    else:
        console.print(_sentences(summary), highlight=False)
    ctx.exit(1 if summary["lost"] or summary["out_of_order"] else 0)


class Demo:
    """One run: starts everything, watches, stops everything, counts."""

    def __init__(
        self,
        console: Console,
        stack: ExitStack,
        *,
        seconds: float,
        devices: int,
        speed: float,
        broker: str | None,
        workdir: Path | None,
        screenshot: Path | None,
    ) -> None:
        self.console, self.stack = console, stack
        self.seconds, self.devices, self.speed = seconds, devices, speed
        self.folder = workdir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = stack.enter_context((self.folder / "daemon.log").open("wb"))
        self.screenshot = screenshot
        self.console.print("looking for the recordings (fetched once)")
        recordings.load("test")
        self.broker = _address(broker) if broker else stack.enter_context(embedded_broker())
        self.board = Scoreboard(recordings.ACTIVITIES)
        self.memory: list[float] = []

    def run(self) -> dict[str, Any]:
        """The demo from start to end -> its summary."""
        online = threading.Event()
        self._watch_topics(online)
        daemon = self._start_daemon(online)
        simulator = self.stack.enter_context(
            python(*self._simulator_args(), log=self.log, stdout=subprocess.PIPE)
        )
        started = time.monotonic()
        self._show(simulator, daemon)
        took = time.monotonic() - started
        sent = self._stop(simulator)
        self._drain(sent)
        return self._summary(sent, took)

    def _watch_topics(self, online: threading.Event) -> None:
        def predicted(topic: str, payload: bytes) -> None:
            arrived = time.time()
            with self.board.lock:
                device = topic.split("/")[1]
                self.board.prediction(device, msgspec.json.decode(payload), arrived)

        def changed(topic: str, payload: bytes) -> None:
            truth = msgspec.json.decode(payload)
            with self.board.lock:
                self.board.truth(topic.split("/")[1], truth["timestamp"], truth["activity"])

        def status(payload: bytes) -> None:
            if payload == b"online":
                online.set()

        client = connect(self.broker.host, self.broker.port)
        self.stack.callback(client.stop)
        client.subscribe("predictions/+/activity", predicted)
        client.subscribe("truth/+", changed)
        client.subscribe(_STATUS, status)
        client.start()

    def _start_daemon(self, online: threading.Event) -> subprocess.Popen[bytes]:
        pipeline = self.folder / "pipeline.toml"
        pipeline.write_text(
            _PIPELINE.format(
                model=json.dumps(str(MODEL)),
                host=json.dumps(self.broker.host),
                port=self.broker.port5,
                pid=os.getpid(),
                status=_STATUS,
                fields=json.dumps(recordings.FEATURES),
            )
        )
        self.console.print("starting the daemon (the first start compiles the kernels, once)")
        daemon = self.stack.enter_context(
            python("-m", "edge_rnn", "run", str(pipeline), log=self.log)
        )
        end = time.monotonic() + _START_SECONDS
        while not online.wait(0.2):
            if daemon.poll() is not None or time.monotonic() > end:
                raise EdgeRnnError(f"the daemon did not start; its log:\n{self._log_text()}")
        return daemon

    def _simulator_args(self) -> list[str]:
        options = {
            "--host": self.broker.host,
            "--port": self.broker.port5,
            "--devices": self.devices,
            "--speed": self.speed,
            "--seconds": self.seconds,
        }
        pairs = (str(part) for option in options.items() for part in option)
        return ["-m", "edge_rnn_devices.simulator", *pairs]

    def _show(self, simulator: subprocess.Popen[bytes], daemon: subprocess.Popen[bytes]) -> None:
        """Redraw until the simulator is done or Ctrl-C."""
        size = MODEL.stat().st_size / 1e3
        title = f"{self.devices} watches → MQTT → {MODEL.name} ({size:.1f} kB) → MQTT"
        screen = Screen(self.board, title)
        live = Live(console=self.console, auto_refresh=False)
        with suppress(KeyboardInterrupt), live:
            while simulator.poll() is None and daemon.poll() is None:
                self.memory.append(memory_mb(daemon.pid))
                if not self.console.quiet:
                    live.update(screen, refresh=True)
                time.sleep(0.25)
        if not self.console.is_terminal:
            self.console.line()
        if self.screenshot:
            self.screenshot.write_text(screen.picture("make demo"))

    def _stop(self, simulator: subprocess.Popen[bytes]) -> int:
        """How many messages it sent; none if it was stopped before it began."""
        stop(simulator)
        assert simulator.stdout is not None  # noqa: S101 - opened as a pipe by `run`
        report = simulator.stdout.read()
        if simulator.returncode not in (0, -signal.SIGTERM):
            raise EdgeRnnError(f"the simulator failed:\n{self._log_text()}")
        return int(json.loads(report)["sent"]) if report else 0

    def _log_text(self) -> str:
        return (self.folder / "daemon.log").read_text()

    def _drain(self, sent: int) -> None:
        """Wait for the last predictions."""
        end = time.monotonic() + _DRAIN_SECONDS
        while self.board.messages < sent and time.monotonic() < end:
            time.sleep(0.05)

    def _summary(self, sent: int, took: float) -> dict[str, Any]:
        early, late = self.memory[len(self.memory) // 4 :][:1], self.memory[-1:]
        return {
            "devices": self.devices,
            "speed": self.speed,
            "seconds": round(took, 1),
            "sent": sent,
            **self.board.summary(),
            "lost": sent - self.board.messages,
            "messages_per_second": round(sent / took, 1),
            "daemon_memory_mb": {"after_a_quarter": sum(early), "at_the_end": sum(late)},
        }


def _address(broker: str) -> Address:
    host, _, port = broker.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"{broker!r}: expected HOST:PORT", param_hint="--broker")
    return Address(host, int(port), int(port))


def _sentences(s: dict[str, Any]) -> str:
    scores = "\n".join(
        f"  {name:<10} precision {c['precision']:6.1%}  recall {c['recall']:6.1%}"
        for name, c in s["classes"].items()
    )
    lost = "none lost" if not s["lost"] else f"[bold red]{s['lost']} lost[/bold red]"
    return (
        f"{s['sent']:,} messages sent, {s['predictions']:,} predictions received, {lost}; "
        f"[bold]{s['accuracy']:.1%} right[/bold]\n{scores}\n"
        f"sensor to prediction: p50 {s['latency_ms']['p50']:.1f} ms, "
        f"p99 {s['latency_ms']['p99']:.1f} ms; "
        f"daemon {s['daemon_memory_mb']['at_the_end']:.0f} MB\n"
        "Next: edge-rnn convert YOUR_MODEL -o model.ernn"
    )
