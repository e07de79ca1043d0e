"""The options of commands that read a file of weights: what network they are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `description` and `network`, which `Options` takes."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    description = click.option(
        "--description", type=file, metavar="TOML",
        help="The network that a file of weights alone is of.",
    )  # fmt: skip
    network = click.option(
        "--network", default="", metavar="LAYERS",
        help='The same in a line: "lstm, linear, softmax".',
    )  # fmt: skip
    return description(network(command))
