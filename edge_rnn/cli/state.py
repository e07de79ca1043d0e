"""`edge-rnn state`: the streams of a pipeline, of its state file or of the daemon that uses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.table import Table

from edge_rnn.config import Config, load_config
from edge_rnn.config.schema import Seconds
from edge_rnn.errors import EdgeRnnError, StateError
from edge_rnn.graph import Model, state_tensors, state_width
from edge_rnn.journal import Journal, Mark
from edge_rnn.keeper import Done, Fetch, Keeper, Kept, Put, Query, Reset, Row, Rows, Streams, ask
from edge_rnn.keeper import file as portable
from edge_rnn.modelfile import load

PAGE = 2000
_COMPLETED = 50

Ask = Callable[[Query | Fetch | Put | Reset], Any]


@contextmanager
def desk(config: Config) -> Iterator[Ask]:
    """Where to ask: the daemon if one runs, else the state file itself, closed to daemons
    meanwhile. Raises JournalError, or StateError for a pipeline that has no state yet."""
    path = config.state_file
    try:
        ask(path, Query(limit=0))
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    else:
        yield lambda request: ask(path, request)
        return
    if not path.exists():
        raise StateError(f"{path}: no such file: the pipeline has no streams yet")
    with Journal(path, model=None, pipeline=config.name) as journal:
        keeper = Keeper(journal, 4 * state_width(load(config.model_file)))
        yield keeper.answer


def _complete(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Ids of streams that begin so; none where that can't be found out."""
    try:
        with desk(load_config(ctx.params["file"])) as there:
            quoted = "".join(f"[{c}]" if c in "*?[" else c for c in begun)
            rows: Rows = there(Query(match=f"{quoted}*", limit=_COMPLETED))
    except (EdgeRnnError, OSError, KeyError):
        return []
    return [CompletionItem(r.mark.stream) for r in rows.rows]


_PATH = click.Path(path_type=Path)
_pipeline = click.argument("file", metavar="PIPELINE", type=_PATH)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")


@click.group()
def state() -> None:
    """Look at a pipeline's streams and change them, while its daemon runs or is stopped.

    \b
    Examples:
      edge-rnn state list pipeline.toml --stopped
      edge-rnn state show pipeline.toml pump-7
      edge-rnn state export pipeline.toml pumps.states pump-7 pump-8
      edge-rnn state import pipeline.toml pumps.states --replace
      edge-rnn state reset pipeline.toml pump-7
    """


@state.command("list")
@_pipeline
@click.option("--match", default="*", help="Ids by a pattern of * and ?.")
@click.option("--stopped", is_flag=True, help="Those that stopped at a gap.")
@click.option("--held", is_flag=True, help="Those with messages that wait for others.")
@click.option("--gaps", is_flag=True, help="Those that lack messages for good.")
@click.option("--idle", default="0", help='Those that were saved so long ago: seconds, "2h".')
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="0: all.")
@_json
def list_(
    file: Path, match: str, stopped: bool, held: bool, gaps: bool, idle: str, limit: int,
    as_json: bool,
) -> None:  # fmt: skip
    """List the streams in the order of their ids."""
    query = Query(match, stopped, held, gaps, _duration(idle))
    with _told(), desk(load_config(file)) as there:
        rows, total = _rows(there, query, limit or 2**62)
    now = time.time()
    if as_json:
        found = {"total": total, "streams": [_facts(r, now) for r in rows]}
        click.echo(msgspec.json.encode(found).decode())
    else:
        _show(rows, total, now)


@state.command()
@_pipeline
@click.argument("stream", shell_complete=_complete)
@_json
def show(file: Path, stream: str, as_json: bool) -> None:
    """Show one stream and what is in its state."""
    config = load_config(file)
    with _told(), desk(config) as there:
        kept: Kept = there(Fetch([stream])).streams[0]
        rows: Rows = there(Query(match="".join(f"[{c}]" if c in "*?[" else c for c in stream)))
    facts: dict[str, Any] = _facts(rows.rows[0], time.time())
    facts["state"] = _contents(load(config.model_file), kept.state)
    if as_json:
        click.echo(msgspec.json.encode(facts).decode())
        return
    for key, value in facts.items():
        if key != "state":
            click.echo(f"{key:<12} {'none' if value is None else value}")
    for part in facts["state"]:
        text = "{numbers} numbers, norm {norm:.6g}, largest {largest:.6g}".format(**part)
        click.echo(f"{part['name']:<12} {text}")


@state.command()
@_pipeline
@click.argument("path", metavar="FILE", type=_PATH)
@click.argument("streams", nargs=-1, shell_complete=_complete)
@_json
def export(file: Path, path: Path, streams: tuple[str, ...], as_json: bool) -> None:
    """Write the streams' states and positions, all or those named, to FILE."""
    with _told(), desk(load_config(file)) as there:
        found = there(Fetch(list(streams))) if streams else _all(there)
    if not found.streams:
        raise StateError(f"{file}: there are no streams")
    with _told():
        portable.write(path, found)
    _done("exported", len(found.streams), as_json)


@state.command("import")
@_pipeline
@click.argument("path", metavar="FILE", type=_PATH)
@click.option("--replace", is_flag=True, help="Put them in the place of streams that are there.")
@_json
def import_(file: Path, path: Path, replace: bool, as_json: bool) -> None:
    """Take over the streams in FILE, all or none, if they are of this pipeline's model.

    A stream that takes the place of another goes on under a new run.
    """
    s = portable.read(path)
    with _told(), desk(load_config(file)) as there:
        done: Done = there(Put(s.model, s.lineage, s.streams, replace))
    _done("imported", done.streams, as_json)


@state.command()
@_pipeline
@click.argument("streams", nargs=-1, shell_complete=_complete)
@click.option("--all", "everything", is_flag=True, help="All streams.")
@click.option("--position", is_flag=True, help="Forget their numbers too: they begin at any.")
@_json
def reset(
    file: Path, streams: tuple[str, ...], everything: bool, position: bool, as_json: bool
) -> None:
    """Have streams begin anew: from the initial state, as a new run; one that stopped goes on."""
    if bool(streams) == everything:
        raise click.UsageError("name streams, or give --all")
    with _told(), desk(load_config(file)) as there:
        done: Done = there(Reset(None if everything else list(streams), position))
    _done("reset", done.streams, as_json)


@contextmanager
def _told() -> Iterator[None]:
    """What the system refuses is told in a line."""
    try:
        yield
    except OSError as e:
        raise click.ClickException(str(e)) from e


def _duration(text: str) -> float:
    try:
        return float(text) if text.isdigit() else float(Seconds.parse(text))
    except ValueError as e:
        raise click.BadParameter(str(e), param_hint="--idle") from e


def _rows(there: Ask, query: Query, limit: int) -> tuple[list[Row], int]:
    """Up to so many rows, page by page, and how many there are."""
    rows: list[Row] = []
    while True:
        after = rows[-1].mark.stream if rows else None
        most = min(PAGE, limit - len(rows))
        found: Rows = there(msgspec.structs.replace(query, after=after, limit=most))
        rows += found.rows
        if len(found.rows) < PAGE:
            return rows, found.total


def _all(there: Ask) -> Streams:
    """Every stream, page by page: a daemon at work answers messages between two pages."""
    kept: list[Kept] = []
    while True:
        found: Streams = there(Fetch(after=kept[-1].mark.stream if kept else None, limit=PAGE))
        kept += found.streams
        if len(found.streams) < PAGE:
            return msgspec.structs.replace(found, streams=kept)


def _done(verb: str, count: int, as_json: bool) -> None:
    click.echo(
        msgspec.json.encode({verb: count}).decode() if as_json else f"{count} streams {verb}"
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A vector of a stream's state: how many numbers, their norm and the largest magnitude."""

    name: str
    numbers: int
    norm: float
    largest: float


def _contents(model: Model, blob: bytes | None) -> list[dict[str, Any]]:
    """What is in a state, vector by vector where it is laid out so."""
    if blob is None:
        return []
    words = np.frombuffer(blob, "<f4")
    named = state_tensors(model) if model.window is None else []
    parts = [(f"{node}.{name}", width) for node, name, width in named]
    if sum(width for _, width in parts) != len(words):
        parts = [("all", len(words))]
    found, at = [], 0
    for name, width in parts:
        part = words[at : at + width].astype(np.float64)
        at += width
        largest = float(np.abs(part).max(initial=0.0))
        found.append(_Part(name, width, float(np.linalg.norm(part)), largest))
    return [msgspec.to_builtins(p) for p in found]


def _facts(r: Row, now: float) -> dict[str, Any]:
    m = r.mark
    return {
        "stream": m.stream,
        "steps": r.steps,
        "run": m.run,
        "epoch": m.epoch,
        "sequence": m.sequence,
        "stopped": m.stopped,
        "held": r.held,
        "gaps": r.gaps,
        "missing": r.missing,
        "age": round(now - r.saved, 3) if r.saved else None,
    }


def _show(rows: list[Row], total: int, now: float) -> None:
    table = Table("stream", box=None, header_style="bold")
    for name in ("steps", "run", "position", "held", "gaps", "missing", "saved"):
        table.add_column(name, justify="right")
    for r in rows:
        age = f"{_age(now - r.saved)} ago" if r.saved else ""
        counts = [str(n) if n else "" for n in (r.held, r.gaps, r.missing)]
        steps = "no state" if r.steps is None else str(r.steps)
        table.add_row(r.mark.stream, steps, str(r.mark.run), _position(r.mark), *counts, age)
    Console().print(table, soft_wrap=True)
    if total > len(rows):
        click.echo(f"{total - len(rows)} more: --limit {total}, or narrow it by --match")


def _position(m: Mark) -> str:
    at = "" if m.sequence is None else f"{m.epoch}:{m.sequence}" if m.epoch else f"{m.sequence}"
    return f"{at} stopped" if m.stopped else at


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
