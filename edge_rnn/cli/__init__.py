"""The command line. Commands load only when they are called, so that `--help` is quick.

Packages above the runtime add theirs through the entry point group `edge_rnn.commands`.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import TextIO

import click

from edge_rnn import __version__
from edge_rnn.errors import ConfigError, EdgeRnnError

EXIT_FAILED, EXIT_USAGE, EXIT_DIFFERS = 1, 2, 3

_OWN = {
    "bench": "edge_rnn.cli.bench:bench",
    "completion": "edge_rnn.cli.completion:completion",
    "doctor": "edge_rnn.cli.doctor:doctor",
    "inspect": "edge_rnn.cli.inspect:inspect",
    "record": "edge_rnn.cli.record:record",
    "replay": "edge_rnn.cli.replay:replay",
    "run": "edge_rnn.cli.run:run",
    "state": "edge_rnn.cli.state:state",
    "verify": "edge_rnn.cli.verify:verify",
    "warmup": "edge_rnn.cli.warmup:warmup",
}


class _Commands(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_OWN, *_added()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if entry := _added().get(cmd_name):
            command: click.Command = entry.load()
            return command
        if cmd_name not in _OWN:
            return None
        module, name = _OWN[cmd_name].split(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found


def _added() -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group="edge_rnn.commands")}


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, "
    "3 not bit-identical (verify, replay --verify) or a bound does not hold (convert, certify).",
)
@click.version_option(__version__, prog_name="edge-rnn")
def cli() -> None:
    """Streaming inference for recurrent networks at the edge.

    \b
    edge-rnn demo                                  see it work
    edge-rnn convert model.keras -o model.ernn     bring your own network
    edge-rnn run pipeline.toml                     MQTT topics in, predictions out
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code; errors of ours and warnings become one line on
    stderr."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _show_log()
            given = sys.argv[1:] if args is None else args
            code = cli.main(given, standalone_mode=False, obj=given)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except EdgeRnnError as e:
        click.echo(f"edge-rnn: {e}", err=True)
        sys.exit(EXIT_USAGE if isinstance(e, ConfigError) else EXIT_FAILED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_FAILED)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(f"edge-rnn: warning: {message}", err=True)


def _show_log() -> None:
    """What takes a while is told to whoever looks at a terminal; `run` logs in its own way."""
    if sys.stderr.isatty():
        logger, handler = logging.getLogger("edge_rnn"), logging.StreamHandler()
        handler.setFormatter(logging.Formatter("edge-rnn: %(message)s"))
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
