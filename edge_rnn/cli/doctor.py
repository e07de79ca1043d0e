"""`edge-rnn doctor`: what keeps a pipeline from running as promised, and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from edge_rnn.cli.checks import Finding, error, ok
from edge_rnn.config import Config, load_config
from edge_rnn.errors import ConfigError, MissingExtraError

_MARKS = {
    "ok": "[green]✓[/]",
    "note": "[blue]i[/]",
    "warning": "[yellow]![/]",
    "error": "[red]✗[/]",
}
_CODES = {"ok": 0, "note": 0, "warning": 1, "error": 2}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--probe", is_flag=True, help="Also measure what the broker keeps and has on the way "
              "at once, by messages to a topic under the doctor's own client id.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
@click.pass_context
def doctor(ctx: click.Context, file: Path, probe: bool, as_json: bool) -> None:
    """Check all that the pipeline of FILE depends on, and propose a fix for each finding.

    Run it as the user that runs the daemon; a daemon that runs is not disturbed. Exits with 0 if
    all is well, with 1 if there are warnings, with 2 if there are errors.

    \b
    Examples:
      edge-rnn doctor pipeline.toml
      edge-rnn doctor pipeline.toml --probe --json
    """
    logging.getLogger("edge_rnn").setLevel(logging.ERROR)  # what it warns of is a finding
    console = Console(stderr=True)
    found = []
    with console.status("looking", spinner="dots") as status:
        for f in findings(file, probe=probe):
            found.append(f)
            status.update(f"{f.area}: {f.text}"[:70])
    if as_json:
        click.echo(msgspec.json.encode([asdict(f) for f in found]).decode())
    else:
        _show(found)
    ctx.exit(max(_CODES[f.level] for f in found))


def findings(file: Path, *, probe: bool) -> Iterator[Finding]:
    """Check after check; none but the first if the file can't be read."""
    from edge_rnn.cli.checks import broker, disk, files, machine

    try:
        config = load_config(file)
        _check_extras(config)
        config.credentials()
    except (ConfigError, MissingExtraError) as e:
        yield error("configuration", str(e), "docs/pipeline.md explains every key")
        return
    yield ok("configuration", f"{file}: pipeline {config.name!r}")
    checks: list[Callable[[Config], Iterator[Finding]]] = [
        machine.model, files.promise, files.secrets, files.certificates, disk.disk,
    ]  # fmt: skip
    for check in checks:
        yield from check(config)
    yield from machine.clock()
    try:
        yield from broker.broker(config, probe=probe)
    except ConfigError as e:
        yield error("configuration", str(e), "check the files that [broker.tls] names")


def _check_extras(config: Config) -> None:
    from edge_rnn.daemon.exporter import check_installed

    if config.tables.metrics:
        check_installed()


def _show(found: list[Finding]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column()
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for f in found:
        fix = f"\n[dim]->[/] {_plain(f.fix)}" if f.fix else ""
        table.add_row(_MARKS[f.level], f.area, _plain(f.text) + fix)
    Console().print(table)
    counts = {level: sum(f.level == level for f in found) for level in ("error", "warning")}
    errors, warnings = counts["error"], counts["warning"]
    click.echo(f"{errors} errors, {warnings} warnings" if errors + warnings else "all is well")


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
