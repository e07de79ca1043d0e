"""`edge-rnn run`: the daemon."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edge_rnn.signals import Signals

_NO_MEMORY = (
    b"edge-rnn: out of memory; what is not saved was not acknowledged: the broker sends it again\n"
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Check configuration and model, say what would run.")
@click.option("--json", "as_json", is_flag=True, help="Log JSON lines for a program to read.")
@click.pass_context
def run(ctx: click.Context, file: Path, check: bool, as_json: bool) -> None:
    """Serve the pipeline that FILE describes until stopped.

    SIGTERM and Ctrl-C save all states and exit with 0, a second Ctrl-C exits at once; SIGHUP
    reads FILE again. The log goes to stderr.

    \b
    Examples:
      edge-rnn run pipeline.toml --check
      edge-rnn run pipeline.toml
    """
    try:
        if check:
            _check(file, as_json)
        else:
            _serve(file, as_json)
    except OSError as e:
        click.echo(f"edge-rnn: {e}", err=True)
        ctx.exit(1)


def _serve(file: Path, as_json: bool) -> None:
    """Signals are handled before the rest is loaded: a daemon that is told to stop while it starts
    stops as it would later."""
    with Signals() as signals:
        from edge_rnn.cli.serving import serve

        try:
            serve(file, signals, as_json=as_json)
        except MemoryError:  # not even for a farewell: Python itself crashes on a longer way out
            os.write(2, _NO_MEMORY)
            os._exit(1)


def _check(file: Path, as_json: bool) -> None:
    from edge_rnn.cli.serving import check

    click.echo(check(file, as_json=as_json))
