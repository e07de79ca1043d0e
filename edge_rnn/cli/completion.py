"""`edge-rnn completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_RC = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/config.fish"}


@click.command()
@click.argument("shell", type=click.Choice(list(_RC)))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete edge-rnn's commands and options.

    \b
    Example:
      edge-rnn completion bash >> ~/.bashrc
    """
    from edge_rnn.cli import cli

    script = get_completion_class(shell)
    assert script is not None  # noqa: S101 - Choice allows only shells that click knows
    click.echo(script(cli, {}, "edge-rnn", "_EDGE_RNN_COMPLETE").source())
