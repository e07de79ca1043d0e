"""`edge-rnn certify`: what a model file's conversion costs, measured again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from rich.console import Console

from edge_rnn import modelfile
from edge_rnn.errors import EdgeRnnError, ModelError
from edge_rnn.graph import Model
from edge_rnn_converters.certificate import page, plots
from edge_rnn_converters.certificate.measure import Bounds, Certified, certify
from edge_rnn_converters.certificate.request import Request, options, request
from edge_rnn_converters.guard import Guarded
from edge_rnn_converters.readers import read
from edge_rnn_converters.source import Options, Progress, UndescribedError
from edge_rnn_converters.weights.command import options as described


@click.command("certify", cls=Guarded)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--source", required=True, type=click.Path(exists=True, path_type=Path),
    help="The trained model that FILE was converted from.",
)  # fmt: skip
@options
@described
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
def command(
    file: Path,
    source: Path,
    description: Path | None,
    network: str,
    signature: str,
    as_json: bool,
    **measuring: Any,
) -> None:
    """Measure what the conversion of SOURCE to FILE costs on a long stream.

    The source framework, if it is installed, the float32 runtime and the runtime with the weights
    of FILE are compared with a float64 reference of SOURCE. Without bounds those in FILE hold.
    FILE is not changed. Exits with 3 if a bound does not hold.

    \b
    Example:
      edge-rnn certify activity.ernn --source activity.keras --data day.csv --label activity \\
          --min-agreement 0.99 --report certificate.html
    """
    asked = request(**measuring)
    try:
        if asked.page is not None:
            plots.check()
        with showing("certifying") as progress:
            told = Options(description, network, signature=signature)
            certified = again(modelfile.load(file), source, told, asked, progress)
        if asked.page is not None:
            page.write(asked.page, certified, file.name)
    except (EdgeRnnError, OSError) as e:
        fail(e)
    c = certified.certificate
    click.echo(msgspec.json.encode(c).decode() if as_json else "\n".join([*c.summary(), *c.notes]))
    if c.verdict == "failed":
        sys.exit(3)


def again(model: Model, path: Path, told: Options, asked: Request, progress: Progress) -> Certified:
    """Certify `model` against its source, the file at `path`.

    Raises ModelError where the source is not this model's, and as `certify` and the readers do.
    """
    progress(f"reading {path.name}")
    source = read(path, told)
    exact = replace(source.model, features=model.features, targets=model.targets,
                    classes=model.classes)  # fmt: skip
    _same_shape(exact, model, path.name)
    bounds = asked.bounds
    if not bounds.given and model.certificate is not None:
        bounds = Bounds(model.certificate.max_error, model.certificate.min_agreement)
    return certify(exact, model, asked.stream(exact), source.run, bounds, progress=progress)


def _same_shape(exact: Model, model: Model, name: str) -> None:
    ours, theirs = ([(n.OP, n.name) for n in m.nodes] for m in (model, exact))
    if ours != theirs or model.inputs != exact.inputs:
        raise ModelError(f"{name} is not what this file was converted from: other layers")


def fail(e: Exception) -> NoReturn:
    """One line on stderr, a description to edit if that is what is missing, and exit code 1."""
    click.echo(f"edge-rnn: {' '.join(str(e).split())}", err=True)
    if isinstance(e, UndescribedError):
        click.echo(f"\n{e.template}", err=True)
    sys.exit(1)


@contextmanager
def showing(what: str) -> Iterator[Progress]:
    """Shows the stage on stderr, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: None
        return
    with console.status(what) as status:
        yield lambda stage: status.update(stage)
