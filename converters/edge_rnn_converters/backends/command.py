"""What `edge-rnn convert --backend` does, and its options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_rnn import modelfile
from edge_rnn.errors import EdgeRnnError
from edge_rnn.graph import BACKENDS, Backend
from edge_rnn_converters.backends.host import Hosting, host
from edge_rnn_converters.certificate.command import fail, showing
from edge_rnn_converters.modes import Mode

_TAKEN = {
    "source", "output", "backend", "states", "inputs", "features", "feature_units", "classes",
    "rate", "mode", "window", "hop", "as_json",
}  # fmt: skip


def _states(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    found = {}
    for value in values:
        before, _, after = value.partition("=")
        if not before or not after:
            raise click.BadParameter(f"{value!r}, expected IN=OUT, two tensors' names")
        found[before] = after
    return found


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a model that is not converted."""
    for option in (
        click.option(
            "--state", "states", multiple=True, callback=_states, metavar="IN=OUT",
            help="With --backend: the output that is a state's next value; may be repeated.",
        ),
        click.option(
            "--backend", type=click.Choice(BACKENDS), default=None,
            help="Carry the file as it is, and have this engine run it: for a model that can't be "
            "converted.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def hold(
    source: Path, output: Path, backend: Backend, mode: Mode | None, as_json: bool, **told: Any
) -> None:
    """Write the .ernn file of a model that its own engine runs, and show what was found."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in _TAKEN:
            raise click.UsageError(f"{parameter.opts[-1]} does not go with --backend: nothing of "
                                   "the model is changed")  # fmt: skip
    try:
        with showing("converting") as progress:
            hosting = host(source, backend, mode=mode, progress=progress, **told)
            modelfile.save(hosting.model, output)
    except (EdgeRnnError, OSError) as e:
        fail(e)
    facts = _facts(hosting, output)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    table = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        text = ", ".join(fact) if isinstance(fact, list) else str(fact)
        table.add_row(name, Text(text or "none"))
    Console().print(table)


def _facts(hosting: Hosting, output: Path) -> dict[str, object]:
    model = hosting.model
    node = model.foreign
    assert node is not None  # noqa: S101 - it hosts one
    return {
        "engine": hosting.engine,
        "message": f"{node.x.tensor} {list(node.x.shape)}",
        "answer": f"{node.y.tensor} {list(node.y.shape)}",
        "states": [f"{s.before} <- {s.after} {list(s.shape)}" for s in node.states],
        "fixed": [f"{f.tensor} = {f.value:g}" for f in node.fixed],
        "mode": str(model.window or "continuous"),
        "bytes": int(node.blob.size),
        "checked": f"{hosting.steps} answers of two streams, bit for bit as the engine alone",
        "output": str(output),
    }
