"""`edge-rnn record`: what a pipeline receives and publishes, into a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from edge_rnn.config import load_config
from edge_rnn.daemon.recorder import Recorded, Recorder
from edge_rnn.signals import Signals


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--out", "path", type=click.Path(path_type=Path), required=True,
              help="The recording to make; it must not be there yet.")  # fmt: skip
@click.option("--output", is_flag=True, help="Record the predictions too, to verify against.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after so many.")
@click.option("--messages", type=click.IntRange(1), help="Stop after so many messages came in.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
def record(
    file: Path,
    path: Path,
    output: bool,
    seconds: float | None,
    messages: int | None,
    as_json: bool,
) -> None:
    """Record the topics of the pipeline that FILE describes until Ctrl-C.

    It has a connection of its own and takes nothing from a daemon at work. `edge-rnn replay` runs
    the pipeline over the recording.

    \b
    Example:
      edge-rnn record pipeline.toml -o monday.rec --output --seconds 3600
    """

    def done(r: Recorded) -> bool:
        late = seconds is not None and r.seconds >= seconds
        return late or (messages is not None and r.messages >= messages)

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        recorder = Recorder(load_config(file), path, outputs=output)
        with Signals() as signals, Progress(*columns, console=console, disable=as_json) as bar:
            task = bar.add_task("connecting")
            result = recorder.run(signals, done, lambda r: bar.update(task, description=_line(r)))
    except FileExistsError as e:
        raise click.ClickException(f"{path}: is there already; a recording is a new file") from e
    except OSError as e:
        raise click.ClickException(str(e)) from e
    size = path.stat().st_size
    if as_json:
        found = {"file": str(path), "bytes": size, **asdict(result)}
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo(f"{path}: {_line(result)}, {size} bytes")


def _line(r: Recorded) -> str:
    """How far a recording is, for people."""
    state = "" if r.ready else "not connected, "
    lost = f", connection lost {r.breaks} times" if r.breaks else ""
    return f"{state}{r.messages} messages, {r.predictions} predictions{lost}"
