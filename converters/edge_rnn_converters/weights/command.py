"""The options of commands that read a file which does not say all: of weights what network they
are of, of signatures which is meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `description`, `network` and `signature`, which `Options` takes."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    description = click.option(
        "--description", type=file, metavar="TOML",
        help="The network that a file of weights alone is of.",
    )  # fmt: skip
    network = click.option(
        "--network", default="", metavar="LAYERS",
        help='The same in a line: "lstm, linear, softmax".',
    )  # fmt: skip
    signature = click.option(
        "--signature", default="", metavar="NAME",
        help="A SavedModel's signature; serving_default if there are several.",
    )  # fmt: skip
    return description(network(signature(command)))
