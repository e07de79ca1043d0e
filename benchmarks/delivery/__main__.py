"""The whole way of a message, beside what a user would write with paho-mqtt and ONNX Runtime.

    python -m benchmarks.delivery            ten minutes; --rounds, --only, --json

README.md says what is measured and how.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.delivery.processes import Bench, Case, Run

LATENCY_RATE, LATENCY_COUNT = 100.0, 3000
ALIKE = 0.1
"""Ours, in int8, and the peer's predictions differ by no more."""
NUMBERED = 'sequence = "q"'
FULL, NORMAL = 'synchronous = "full"', 'synchronous = "normal"'
MEMORY = 'save_every = "off"'

QOS_1 = (Case("edge-rnn, exact", 1, (NUMBERED, FULL)), Case("paho + ONNX Runtime", 1, None))
QOS_0 = (Case("edge-rnn, in memory", 0, ("", MEMORY)), Case("paho + ONNX Runtime", 0, None))


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
    """Rows of the second table: with and without waiting for the disk, then what is not ours: the
    broker alone, and the disk alone. In turn, for other processes use the disk too."""
    waits: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for title, state in (("synchronous full", FULL), ("synchronous normal", NORMAL)):
            case = Case(title, 1, (NUMBERED, state))
            run = bench.run(case, LATENCY_COUNT, rate=LATENCY_RATE, warm=1000)
            waits[f"message to prediction, {title}"] += run.waits
        if bench.broker:
            alone = bench.alone(LATENCY_COUNT, LATENCY_RATE, 1000)
            waits["message through the broker and back, nobody between"] += alone
        waits["fdatasync of one page on this disk"] += sync_times(bench.folder)
    return [percentiles(title, seconds) for title, seconds in waits.items()]


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
