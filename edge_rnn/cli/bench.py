"""`edge-rnn bench`: how fast a model steps on this machine."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edge_rnn.graph import Embedding, Model, multiply_adds
from edge_rnn.modelfile import load
from edge_rnn.session import Session


@dataclass(frozen=True, slots=True)
class Timing:
    """Steps of one batch size: microseconds a call (median, 99th percentile), steps a second."""

    batch: int
    calls: int
    p50_us: float
    p99_us: float
    steps_per_second: float
    multiply_adds_per_second: float


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--batch", "batches", default="1,8,64,256", show_default=True, help="Batch sizes, by commas."
)
@click.option("--seconds", default=1.0, show_default=True, help="Time spent on each batch size.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
def bench(file: Path, batches: str, seconds: float, as_json: bool) -> None:
    """Time the steps of FILE on one core, through the call that a daemon makes.

    \b
    Example:
      edge-rnn bench activity.ernn --batch 1,256
    """
    sizes = _sizes(batches)
    model = load(file)
    timings = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for size in progress.track(sizes, description="measuring"):
            timings.append(measure(model, size, seconds))
    if as_json:
        rows = [asdict(t) for t in timings]
        click.echo(msgspec.json.encode({"file": str(file), "timings": rows}).decode())
    else:
        Console().print(_table(timings, model))


def measure(model: Model, batch: int, seconds: float) -> Timing:
    """Step `batch` streams again and again with fresh inputs for about `seconds`."""
    session = Session(model, capacity=batch)
    slots = session.slots([str(i) for i in range(batch)])
    x = _inputs(model, batch)
    y = np.empty((batch, model.output_width), np.float32)
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while not spent or time.perf_counter() < end:
        rows = x[len(spent) % len(x)]
        start = time.perf_counter()
        session.step_slots(slots, rows, y)
        spent.append(time.perf_counter() - start)
    p50, p99 = np.percentile(spent, [50, 99])
    work = sum(multiply_adds(n) for n in model.nodes)
    rate = batch / float(p50)
    return Timing(batch, len(spent), float(p50) * 1e6, float(p99) * 1e6, rate, rate * work)


def _inputs(model: Model, batch: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, batch, model.input_width), np.float32)
    column = 0
    for i in model.inputs:
        for n in model.nodes:
            if isinstance(n, Embedding) and n.input == i.name:
                x[..., column] = rng.integers(0, len(n.table.data), x.shape[:2])
        column += i.width
    return x


def _sizes(batches: str) -> list[int]:
    sizes = [int(b) if b.strip().isdigit() else 0 for b in batches.split(",")]
    if not all(sizes):
        raise click.BadParameter(
            f"{batches!r}: expected sizes such as 1,8,64", param_hint="--batch"
        )
    return sizes


def _table(timings: list[Timing], model: Model) -> Table:
    table = Table(caption=_real_time(timings[0], model))
    for title in ("batch", "p50 µs/call", "p99 µs/call", "µs/step", "steps/s", "multiply-adds/s"):
        table.add_column(title, justify="right")
    for t in timings:
        table.add_row(
            *(str(t.batch), f"{t.p50_us:.1f}", f"{t.p99_us:.1f}", f"{t.p50_us / t.batch:.2f}"),
            *(f"{t.steps_per_second:,.0f}", f"{t.multiply_adds_per_second:.2e}"),
        )
    return table


def _real_time(first: Timing, model: Model) -> str:
    if not model.rate_hz:
        return ""
    times = first.steps_per_second / model.rate_hz
    return f"batch {first.batch}: {times:,.0f} x real-time at {model.rate_hz:g} Hz"
