"""One step of an LSTM and of a GRU beside LiteRT, ONNX Runtime and, where installed, PyTorch, then
beside what the core can do at most (limits.py).

All that `edge-rnn bench --against` can measure, over the sizes and with the bars of README.md: a
bar is how many times faster than the fastest of a peer's exports we have to be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import limits
from edge_rnn.cli import peers
from edge_rnn.cli.measure import ROUNDS, compare
from edge_rnn.graph import F32, Gru, Input, Lstm, Matrix, Model
from edge_rnn_converters.quantize import Precision, quantize

I = 8
SLICE = 0.015
"""Seconds for each runtime in a round."""
Bars: TypeAlias = dict[int, float]
"""By hidden size."""

ONE_LITERT: Bars = {32: 4, 128: 3.5, 256: 2.3, 512: 1.3}
ONE_ONNX: Bars = {32: 9, 128: 8, 256: 5, 512: 2}
MANY: Bars = {64: 2.5, 128: 2.2, 256: 1.9, 512: 1.7}
FLOAT: Bars = {32: 4, 128: 4, 512: 1}


@dataclass(frozen=True, slots=True)
class Group:
    """One cell in one precision and batch size; a bar for each peer, by a pattern of its names."""

    cell: str
    precision: Precision
    batch: int
    sizes: tuple[int, ...]
    bars: dict[str, Bars]


ONE, ALL = (32, 128, 256, 512), (64, 128, 256, 512)
GROUPS = (
    Group("lstm", "w8a8", 1, ONE, {"LiteRT .*int8": ONE_LITERT, "ONNX .*int8": ONE_ONNX}),
    Group("lstm", "w8a8", 256, ALL, {"ONNX .*int8": MANY}),
    Group("gru", "w8a8", 1, ONE, {"LiteRT": ONE_LITERT, "ONNX": ONE_ONNX}),
    Group("gru", "w8a8", 256, ALL, {"LiteRT": MANY, "ONNX": MANY}),
    Group("lstm", "float32", 1, ONE, {"ONNX .*float32": FLOAT}),
    Group("gru", "float32", 1, ONE, {"ONNX .*float32": FLOAT}),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Medians in microseconds a call; `ratio` is the peer's time over ours.

    fastest: of the peer's exports that agree and that the bar is about; `bar` is what its ratio
        must be, if there is a bar for this size.
    `difference` as in `edge_rnn.cli.measure.Compared`; a peer that computes something else has no
    time and no ratio.
    """

    cell: str
    precision: str
    batch: int
    hidden: int
    peer: str
    runtime: str
    ours_us: float
    difference: float
    peer_us: float | None
    ratio: float | None
    fastest: bool = False
    bar: float | None = None


def our_model(cell: str, H: int, precision: Precision) -> Model:
    """What we run: the cell with random weights, in the format that a user would choose."""
    return quantize(Model((Input("x", I),), (random_cell(cell, H),), ("cell",)), precision)


def random_cell(cell: str, H: int) -> Lstm | Gru:
    """A cell with random weights, I features wide."""
    rng = np.random.default_rng(0)

    def w(rows: int, columns: int) -> Matrix:
        return Matrix(rng.normal(0, columns**-0.5, (rows, columns)).astype(np.float32))

    def b(n: int) -> F32:
        return rng.normal(0, 0.1, n).astype(np.float32)

    if cell == "lstm":
        return Lstm("cell", "x", w(4 * H, I), w(4 * H, H), b(4 * H))
    return Gru("cell", "x", w(3 * H, I), w(3 * H, H), b(3 * H), b(H))


def measure(group: Group, H: int, known: dict[str, peers.Peer], rounds: int) -> list[Row]:
    """Every export of every peer that is installed, beside us."""
    model = our_model(group.cell, H, group.precision)
    variants, _ = peers.variants(model, group.batch, known)
    ours, compared = compare(model, group.batch, variants, seconds=rounds * SLICE, rounds=rounds)
    rows = [
        Row(
            *(group.cell, group.precision, group.batch, H, c.variant, c.runtime),
            *(ours.p50_us, c.difference),
            c.timing.p50_us if c.timing else None,
            c.ratio,
        )
        for c in compared
    ]
    return _judged(rows, group, H)


def _judged(rows: list[Row], group: Group, H: int) -> list[Row]:
    for pattern, bars in group.bars.items():
        timed = [r for r in rows if r.ratio is not None and re.match(pattern, r.peer)]
        if timed:
            best = min(timed, key=lambda r: r.ratio or 0)
            rows[rows.index(best)] = replace(best, fastest=True, bar=bars.get(H))
    return rows


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    figures, bar = ("disagrees", ""), ("", "")
    if row.ratio is not None:
        figures = (f"{row.peer_us:.1f}", f"{row.ratio:.2f}")
        if row.bar is not None:
            bar = (f"{row.bar:g}", "yes" if row.ratio >= row.bar else "no")
    return (
        *(row.cell.upper(), row.precision, str(row.batch), str(row.hidden), row.peer),
        *(f"{row.difference:.0e}", f"{row.ours_us:.1f}", *figures, *bar),
    )


TITLES = (
    *("cell", "ours", "batch", "H", "peer", "differs", "edge-rnn µs", "peer µs", "times faster"),
    *("bar", "reached"),
)


def chosen(only: str) -> Iterator[tuple[Group, int]]:
    """The groups and hidden sizes whose title matches."""
    for group in GROUPS:
        for H in group.sizes:
            title = f"{group.cell} {group.precision} batch {group.batch} H={H}"
            if re.search(only, title, re.IGNORECASE):
                yield group, H


LIMIT_TITLES = ("figure", "is", "bar", "reached")


def limit_cells(figure: limits.Figure, value: float) -> tuple[str, ...]:
    """A row of the second table."""
    bar = reached = ""
    if figure.bar is not None:
        bar = f"{'>=' if figure.least else '<='} {figure.bar:g} {figure.unit}".rstrip()
        reached = "yes" if figure.reached(value) else "no"
    return (figure.title, f"{value:.2f} {figure.unit}".rstrip(), bar, reached)


def markdown_table(titles: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """The table for a Markdown file."""
    rows = [titles, ("---",) * len(titles), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@click.command()
@click.option("--rounds", default=ROUNDS, show_default=True, help="Of 15 ms a runtime.")
@click.option("--only", default="", help='A regular expression, such as "gru w8a8 batch 1 ".')
@click.option("--all", "every", is_flag=True, help="Every export, not a peer's fastest only.")
@click.option("--json", "as_json", is_flag=True, help="Every export and figure, as JSON.")
@click.option("--markdown", is_flag=True)
def main(rounds: int, only: str, every: bool, as_json: bool, markdown: bool) -> None:
    """Time one step of LSTM and GRU layers beside the peers that are installed, and beside the
    limits of this core."""
    known = peers.load(peers.names())
    figures = [f for f in limits.FIGURES if re.search(only, f.title, re.IGNORECASE)]
    progress = track(
        [*chosen(only), *figures], "measuring", console=Console(stderr=True), transient=True
    )
    rows: list[Row] = []
    values: list[float] = []
    for item in progress:
        if isinstance(item, limits.Figure):
            values.append(item.measure(rounds))
        else:
            rows += measure(*item, known, rounds)
    versions = ", ".join(sorted({row.runtime for row in rows}))
    tables = {
        TITLES: [cells(row) for row in rows if row.fastest or every],
        LIMIT_TITLES: [limit_cells(f, v) for f, v in zip(figures, values, strict=True)],
    }
    if as_json:
        click.echo(json.dumps(report(rows, figures, values)))
    elif markdown:
        shown = [markdown_table(titles, lines) for titles, lines in tables.items() if lines]
        click.echo("\n\n".join([*shown, versions]))
    else:
        for titles, lines in tables.items():
            table = Table(*titles, caption=versions if titles is TITLES else None)
            for line in lines:
                table.add_row(*line)
            if lines:
                Console().print(table)


def report(
    rows: list[Row], figures: list[limits.Figure], values: list[float]
) -> dict[str, list[dict[str, object]]]:
    """What --json prints."""
    found: list[dict[str, object]] = [
        {"title": f.title, "unit": f.unit, "value": v, "bar": f.bar, "reached": f.reached(v)}
        for f, v in zip(figures, values, strict=True)
    ]
    return {"matrix": [asdict(r) for r in rows], "limits": found}


if __name__ == "__main__":
    main()
