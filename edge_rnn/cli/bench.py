"""`edge-rnn bench`: how fast a model steps on this machine, alone or beside other runtimes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from edge_rnn.cli import peers
from edge_rnn.cli.measure import Compared, Timing
from edge_rnn.cli.peers import Bench
from edge_rnn.graph import Model
from edge_rnn.modelfile import load


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--batch", "batches", default="1,8,64,256", show_default=True, help="Batch sizes, by commas."
)
@click.option(
    "--seconds", default=1.0, show_default=True, help="Time for each runtime and batch size."
)
@click.option(
    "--against", default="", help="Other runtimes, by commas: litert, onnxruntime, torch."
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(path_type=Path),
    help="Draw latency and throughput: a .png or .svg file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
def bench(
    file: Path, batches: str, seconds: float, against: str, picture: Path | None, as_json: bool
) -> None:
    """Time the steps of FILE on one core, through the call that a daemon makes.

    With --against, other runtimes run the same model in turn, in each of their exports; one whose
    outputs differ from ours is named and not timed.

    \b
    Examples:
      edge-rnn bench activity.ernn --batch 1,256
      edge-rnn bench activity.ernn --against onnxruntime,litert --plot bench.svg
    """
    sizes = _sizes(batches)
    rivals = peers.load([n.strip() for n in against.split(",") if n.strip()])
    if picture is not None:
        from edge_rnn.cli import plot  # matplotlib takes its time, or isn't there

        plot.check(picture)
    model = load(file)
    with Console(stderr=True).status("measuring"):
        result = peers.run(model, sizes, rivals, seconds)
    if picture is not None:
        plot.draw(result, file.name, picture)
    if as_json:
        click.echo(msgspec.json.encode(_report(file, result)).decode())
    else:
        _show(result, model)


def _sizes(batches: str) -> list[int]:
    sizes = [int(b) if b.strip().isdigit() else 0 for b in batches.split(",")]
    if not all(sizes):
        raise click.BadParameter(
            f"{batches!r}: expected sizes such as 1,8,64", param_hint="--batch"
        )
    return sizes


def _report(file: Path, result: Bench) -> dict[str, object]:
    compared = [{**asdict(c), "agrees": c.agrees} for c in result.compared]
    return {
        "file": str(file),
        "timings": [asdict(t) for t in result.timings],
        "compared": compared,
        "absent": [asdict(a) for a in result.absent],
    }


def _show(result: Bench, model: Model) -> None:
    console = Console()
    console.print(_table(result, model))
    for c in result.compared:
        if not c.agrees:
            console.print(
                f"{c.variant}, batch {c.batch}: its outputs differ from ours by "
                f"{c.difference:.2g}, more than {c.tolerance:.2g}: not timed",
                highlight=False,
            )
    for a in result.absent:
        console.print(f"{a.peer}: not measured: {a.reason}", highlight=False, markup=False)


def _table(result: Bench, model: Model) -> Table:
    table = Table(caption=_real_time(result.timings[0], model))
    table.add_column("batch", justify="right")
    if result.compared:
        table.add_column("runtime")
    for title in ("p50 µs/call", "p99 µs/call", "µs/step", "steps/s", "multiply-adds/s"):
        table.add_column(title, justify="right")
    if result.compared:
        table.add_column("edge-rnn is", justify="right")
    for t in result.timings:
        beside = [c for c in result.compared if c.batch == t.batch]
        table.add_row(*_cells(t, "edge-rnn" if result.compared else None))
        for c in beside:
            if c.timing is not None:
                table.add_row(*_cells(c.timing, c.variant), _times(c))
        table.add_section()
    return table


def _cells(t: Timing, runtime: str | None) -> list[str]:
    return [
        *(str(t.batch), *([runtime] if runtime else [])),
        *(f"{t.p50_us:.1f}", f"{t.p99_us:.1f}", f"{t.p50_us / t.batch:.2f}"),
        *(f"{t.steps_per_second:,.0f}", f"{t.multiply_adds_per_second:.2e}"),
    ]


def _times(c: Compared) -> str:
    return f"{c.ratio:.2f} x as fast"


def _real_time(first: Timing, model: Model) -> str:
    if not model.rate_hz:
        return ""
    times = first.steps_per_second / model.rate_hz
    return f"batch {first.batch}: {times:,.0f} x real-time at {model.rate_hz:g} Hz"
