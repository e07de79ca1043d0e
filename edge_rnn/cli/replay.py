"""`edge-rnn replay`: a pipeline over what was recorded."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from edge_rnn.config import load_config
from edge_rnn.daemon import make_pipeline
from edge_rnn.errors import RecordingError, StateError
from edge_rnn.graph import Model
from edge_rnn.journal import Saved
from edge_rnn.keeper import file as states
from edge_rnn.lineage import lineage
from edge_rnn.messages import Outgoing
from edge_rnn.payload import Prediction
from edge_rnn.pipeline import Pipeline
from edge_rnn.replay import Event, Player, Reader, Summary, Table, Verdict, Verifier, is_table
from edge_rnn.state import StreamState

Sink = Callable[[Outgoing], None]
_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--pipeline", "config_file", type=_FILE, required=True, help="The pipeline file.")
@click.option("--model", "model_file", type=_FILE, help="Another model than the pipeline's.")
@click.option("--verify", is_flag=True, help="Compare with the predictions in the recording.")
@click.option("--state", "state_file", type=_FILE,
              help="Go on from the streams of `edge-rnn state export`.")  # fmt: skip
@click.option("-o", "--output", type=_FILE, help="Write the predictions: .ndjson or .csv.")
@click.option("--max-batch", type=click.IntRange(1), default=1024, show_default=True,
              help="Most messages stepped at once; no prediction depends on it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
@click.pass_context
def replay(
    ctx: click.Context,
    file: Path,
    config_file: Path,
    model_file: Path | None,
    verify: bool,
    state_file: Path | None,
    output: Path | None,
    max_batch: int,
    as_json: bool,
) -> None:
    """Run a pipeline over FILE at full speed: a recording of `edge-rnn record`, a .csv or .npz.

    It needs no broker, and without --state every stream begins anew. Time is the recording's, so
    that each replay gives the same bits. With --verify it exits with 3 if a prediction is not, bit
    for bit, what the daemon published.

    \b
    Examples:
      edge-rnn replay monday.rec --pipeline pipeline.toml --verify
      edge-rnn replay history.csv --pipeline pipeline.toml -o predictions.csv
    """
    pipeline = make_pipeline(load_config(config_file), model_file)
    if verify and is_table(file):
        raise click.UsageError("--verify needs a recording: a table holds no predictions")
    saved = _states(pipeline, state_file)
    verifier = Verifier(_begun(saved)) if verify else None
    player = Player(pipeline, max_batch, saved)
    started = time.perf_counter()
    try:
        with ExitStack() as stack:
            source = _source(file, pipeline, verify)
            sinks: list[Sink] = [verifier.replayed] if verifier else []
            if output is not None:
                sinks.append(_sink(output, pipeline.model, stack))
            _play(player, _watched(source, verifier, stack, as_json), sinks)
    except OSError as e:
        raise click.ClickException(str(e)) from e
    torn = source.torn if isinstance(source, Reader) else 0
    took = time.perf_counter() - started
    verdict = verifier.verdict() if verifier else None
    result = Replay(str(file), player.summary, torn, took, verdict)
    click.echo(msgspec.json.encode(asdict(result)).decode() if as_json else _text(result))
    if result.verdict is not None and not result.verdict.identical:
        ctx.exit(3)


@dataclass(frozen=True, slots=True)
class Replay:
    """What `replay` found in a file, of which `torn` bytes at the end are not whole, in so many
    seconds."""

    file: str
    summary: Summary
    torn: int
    took: float
    verdict: Verdict | None


def _states(pipeline: Pipeline, file: Path | None) -> Saved:
    """The streams of an export, if there is one."""
    if file is None:
        return Saved()
    found = states.read(file)
    if found.model != pipeline.digest and found.lineage != lineage(pipeline.model):
        raise StateError(
            f"{file}: streams of model {found.model[:12]}, this is {pipeline.digest[:12]}"
        )
    kept = [
        StreamState(k.mark.stream, k.steps, k.state) for k in found.streams if k.state is not None
    ]
    return Saved(kept, [k.mark for k in found.streams])


def _begun(saved: Saved) -> dict[str, tuple[int, int]]:
    """(run, n) of each stream's last step; one without a state has its next run still to begin."""
    steps = {s.stream: s.steps for s in saved.states}
    return {m.stream: (m.run, steps.get(m.stream, 0)) for m in saved.marks}


def _source(file: Path, pipeline: Pipeline, verify: bool) -> Reader | Table:
    if is_table(file):
        return Table(file, pipeline.spec, pipeline.model)
    reader = Reader(file)
    if verify and not reader.header.outputs:
        raise RecordingError(f"{file}: holds no predictions to compare with: record with --output")
    return reader


def _play(player: Player, events: Iterable[Event], sinks: list[Sink]) -> None:
    for predictions in player.play(events):
        for sink in sinks:
            for p in predictions:
                sink(p)


def _watched(
    source: Reader | Table, verifier: Verifier | None, stack: ExitStack, quiet: bool
) -> Iterator[Event]:
    """The events, each shown to the verifier; a bar says how far they are."""
    columns = (TextColumn("replaying"), BarColumn(), TaskProgressColumn(show_speed=True),
               TimeElapsedColumn())  # fmt: skip
    console = Console(stderr=True)
    bar = stack.enter_context(Progress(*columns, console=console, transient=True, disable=quiet))
    size = source.size if isinstance(source, Reader) else None
    task = bar.add_task("", total=size)
    for i, event in enumerate(source):
        if event.kind == "out" and verifier is not None:
            verifier.recorded(event)
        if i % 4096 == 0:
            bar.update(task, completed=source.position if isinstance(source, Reader) else i)
        yield event


def _sink(path: Path, model: Model, stack: ExitStack) -> Sink:
    """What writes predictions to a file by its ending."""
    if path.suffix.lower() == ".csv":
        return _csv(stack.enter_context(path.open("w", newline="")), model)
    if path.suffix.lower() not in (".ndjson", ".jsonl"):
        raise click.UsageError(f"{path}: expected a file that ends in .ndjson or .csv")
    file = stack.enter_context(path.open("wb", buffering=1 << 20))

    def write(p: Outgoing) -> None:
        file.write(p.payload + b"\n")

    return write


def _csv(file: TextIO, model: Model) -> Sink:
    writer = csv.writer(file)
    names = [t.name for t in model.targets] or list(model.classes)
    names = names or [f"value{i}" for i in range(model.output_width)]
    writer.writerow(["stream", "run", "n", "sequence", "timestamp", "label", *names])
    decode = msgspec.json.Decoder(Prediction).decode

    def write(o: Outgoing) -> None:
        p = decode(o.payload)
        writer.writerow([p.stream, p.run, p.n, p.sequence, p.timestamp, p.label, *p.values])

    return write


def _text(r: Replay) -> str:
    s = r.summary
    rate = s.messages / r.took if r.took else 0.0
    facts: dict[str, Any] = {
        "messages": f"{s.messages} of {s.streams} streams, {s.seconds:.1f} s of event time, "
        f"replayed in {r.took:.1f} s ({rate:.0f} a second)",
        "predictions": s.predictions,
        "duplicates": s.duplicates,
        "gaps": f"{s.gaps} ({s.missing} messages)" if s.gaps else 0,
        "waiting": s.waiting,
        "connection lost": s.breaks,
        "bytes torn off": r.torn,
    }
    facts |= {f"rejected: {reason}": n for reason, n in sorted(s.rejected.items())}
    facts |= {f"forgotten: {reason}": n for reason, n in sorted(s.evicted.items())}
    shown = {k: v for k, v in facts.items() if v or k in ("messages", "predictions")}
    lines = [f"{key:<20} {value}" for key, value in shown.items()]
    return "\n".join([*lines, *(_sentence(r.verdict) if r.verdict else ())])


def _sentence(v: Verdict) -> list[str]:
    """What the comparison found, for people."""
    notes = {
        "of steps before the replay": v.earlier,
        "recorded, but not replayed": v.unmade,
        "replayed, but not recorded": v.unrecorded,
        "recorded again": v.repeated,
        "on an output topic, but no prediction": v.unknown,
    }
    lines = [f"{text:<38} {n}" for text, n in notes.items() if n]
    if v.identical:
        return [*lines, f"bit-identical: {v.compared} predictions are what the daemon published"]
    if d := v.first_difference:
        where = f"first at stream {d.stream!r}, run {d.run}, n {d.n}"
        lines.append(f"NOT identical: {v.different} of {v.compared} predictions differ, {where}:")
        return [*lines, f"  recorded {' '.join(d.recorded)}", f"  replayed {' '.join(d.replayed)}"]
    lines.append(f"NOT verified: {v.compared} predictions compared")
    if v.unmade:
        lines.append("the recording lacks messages, or begins amid streams: see --state")
    return lines
