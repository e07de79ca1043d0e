"""`edge-rnn bench`: how fast a model steps on this machine, alone or beside other runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edge_rnn.cli import layers, peers
from edge_rnn.cli.layers import Layer
from edge_rnn.cli.measure import Timing
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
    "--layers", "each_layer", is_flag=True, help="Each layer beside the limits of this machine."
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(path_type=Path),
    help="Draw latency and throughput: a .png or .svg file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
def bench(
    file: Path,
    batches: str,
    seconds: float,
    against: str,
    each_layer: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Time the steps of FILE on one core, through the call that a daemon makes.

    With --against, other runtimes run the same model in turn, in each of their exports; one whose
    outputs differ from ours is named and not timed. With --layers, each layer is measured alone,
    beside how fast this machine reads its weights and multiplies.

    \b
    Examples:
      edge-rnn bench activity.ernn --batch 1,256
      edge-rnn bench activity.ernn --layers
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
        found = layers.measure(model, max(sizes), seconds) if each_layer else []
    if picture is not None:
        plot.draw(result, file.name, picture, found)
    if as_json:
        click.echo(msgspec.json.encode(_report(file, result, found)).decode())
    else:
        _show(result, model)
        if each_layer:
            Console().print(_table_of_layers(found) if found else "no layer has a matrix")


def _sizes(batches: str) -> list[int]:
    sizes = [int(b) if b.strip().isdigit() else 0 for b in batches.split(",")]
    if not all(sizes):
        raise click.BadParameter(
            f"{batches!r}: expected sizes such as 1,8,64", param_hint="--batch"
        )
    return sizes


def _report(file: Path, result: Bench, found: Sequence[Layer]) -> dict[str, object]:
    compared = [{**asdict(c), "agrees": c.agrees} for c in result.compared]
    return {
        "file": str(file),
        "timings": [asdict(t) for t in result.timings],
        "compared": compared,
        "absent": [asdict(a) for a in result.absent],
        "layers": [asdict(layer) for layer in found],
    }


def _show(result: Bench, model: Model) -> None:
    console = Console()
    console.print(_table(result, model))
    for c in result.compared:
        if not c.agrees:
            console.print(
                f"{c.variant}, batch {c.batch}: its outputs differ from ours by "
                f"{c.difference:.2g} of their size, more than {c.tolerance:.2g}: not timed",
                highlight=False,
            )
    for a in result.absent:
        console.print(f"{a.peer}: not measured: {a.reason}", highlight=False, markup=False)


def _table(result: Bench, model: Model) -> Table:
    if result.compared:
        return _table_beside(result)
    table = Table(caption=_real_time(result.timings[0], model))
    for title in ("batch", "p50 µs/call", "p99 µs/call", "µs/step", "steps/s", "multiply-adds/s"):
        table.add_column(title, justify="right")
    for t in result.timings:
        p50, p99, rate = _figures(t)
        work = f"{t.multiply_adds_per_second:.2e}"
        table.add_row(str(t.batch), p50, p99, f"{t.p50_us / t.batch:.2f}", rate, work)
    return table


def _table_beside(result: Bench) -> Table:
    runtimes = ", ".join(dict.fromkeys(c.runtime for c in result.compared))
    caption = f"{runtimes}; differs: of the outputs' size; ratio: its time over ours"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=caption)
    for title in ("batch", "runtime", "p50 µs", "p99 µs", "steps/s", "differs", "ratio"):
        table.add_column(title, justify="left" if title == "runtime" else "right", no_wrap=True)
    for t in result.timings:
        table.add_row(str(t.batch), "edge-rnn", *_figures(t))
        for c in result.compared:
            if c.batch == t.batch and c.timing is not None:
                figures = (f"{c.difference:.1g}", f"{c.ratio:.2f}")
                table.add_row("", c.variant, *_figures(c.timing), *figures)
        table.add_section()
    return table


def _table_of_layers(found: Sequence[Layer]) -> Table:
    caption = (
        "1 stream: µs a step, and µs to read the layer's weights; "
        f"batch {found[0].batch}: billions of multiply-adds a second, and the most of the core"
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=caption)
    table.add_column("layer", overflow="fold")
    for title in ("kB", "µs/step", "reading", "reached", "G/s", "most", "reached"):
        table.add_column(title, justify="right", no_wrap=True)
    for f in found:
        one = (f"{f.step_us:.2f}", f"{f.stream_us:.2f}", f"{f.of_stream:.0%}")
        rates = (f"{r / 1e9:.2f}" for r in (f.multiply_adds_per_second, f.peak))
        table.add_row(f.name, f"{f.weight_bytes / 1e3:.1f}", *one, *rates, f"{f.of_peak:.0%}")
    return table


def _figures(t: Timing) -> tuple[str, str, str]:
    return f"{t.p50_us:.1f}", f"{t.p99_us:.1f}", f"{t.steps_per_second:,.0f}"


def _real_time(first: Timing, model: Model) -> str:
    if not model.rate_hz:
        return ""
    times = first.steps_per_second / model.rate_hz
    return f"batch {first.batch}: {times:,.0f} x real-time at {model.rate_hz:g} Hz"
