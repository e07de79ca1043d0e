"""`edge-rnn convert`: a trained model's file in, a checked .ernn file out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn, get_args

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_rnn import modelfile
from edge_rnn.errors import EdgeRnnError
from edge_rnn.graph import Feature, Window
from edge_rnn_converters.conversion import Check, Conversion, Progress, convert_with_report
from edge_rnn_converters.modes import Mode
from edge_rnn_converters.quantize import PRECISIONS, Precision


def _commas(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    return [part.strip() for part in value.split(",")] if value else []


def _layers(
    context: click.Context, option: click.Parameter, values: Sequence[str]
) -> dict[str, Precision]:
    chosen = {}
    for value in values:
        name, _, precision = value.rpartition("=")
        if precision not in PRECISIONS or not name:
            expected = f"expected NAME= and one of {', '.join(PRECISIONS)}"
            raise click.BadParameter(f"{value!r}: {expected}")
        chosen[name] = precision
    return chosen


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The .ernn file.",
)
@click.option(
    "--quantize", type=click.Choice(PRECISIONS), default="w8a16", show_default=True,
    help="Bits of weights and activations; int8 and float16 are of the weights alone.",
)  # fmt: skip
@click.option(
    "--layer", "layers", multiple=True, callback=_layers, metavar="NAME=PRECISION",
    help="Another precision for the layer of this name; may be repeated.",
)  # fmt: skip
@click.option("--features", callback=_commas, metavar="A,B", help="Names of the input's columns.")
@click.option("--feature-units", callback=_commas, metavar="A,B", help="Their units, in order.")
@click.option("--classes", callback=_commas, metavar="A,B", help="Names of the output's classes.")
@click.option("--rate", type=float, metavar="HZ", help="Messages a second that a stream brings.")
@click.option(
    "--check", type=click.Choice(get_args(Check)), default="auto", show_default=True,
    help="Run the source framework and compare: if installed, in any case, or not.",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(["continuous", "tumbling", "sliding"]), default=None,
    help="Carry a stream's state on for ever, or start anew at each window; as the source, if "
    "it is left out and the model looks ahead, else continuous.",
)  # fmt: skip
@click.option("--window", type=int, metavar="N", help="Messages of a window.")
@click.option("--hop", type=int, metavar="K", help="Messages from one sliding window to the next.")
@click.option("--every", is_flag=True, help="Answer at each step of a tumbling window.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def convert(
    source: Path,
    output: Path,
    quantize: Precision,
    layers: dict[str, Precision],
    features: list[str],
    feature_units: list[str],
    classes: list[str],
    rate: float | None,
    check: Check,
    mode: str | None,
    window: int | None,
    hop: int | None,
    every: bool,
    as_json: bool,
) -> None:
    """Convert a trained model (Keras .keras or .h5, ONNX .onnx) to a .ernn file.

    The result is checked: the float32 runtime against a float64 reference, and, if it is
    installed, the source framework (onnxruntime or keras) against the same reference.

    \b
    Example:
      edge-rnn convert har.keras -o har.ernn \\
          --features ax,ay,az,gx,gy,gz --feature-units g,g,g,dps,dps,dps \\
          --classes rest,walk,run,badminton --rate 10
      edge-rnn convert har.keras -o har.ernn --mode sliding --window 82 --hop 4
    """
    if feature_units and len(feature_units) != len(features):
        raise click.UsageError(
            f"--feature-units names {len(feature_units)} units for {len(features)} --features"
        )
    units = feature_units or [""] * len(features)
    chosen = _mode(mode, window, hop, every)
    try:
        with _progress() as progress:
            conversion = convert_with_report(
                source,
                quantize,
                layers=layers,
                features=[Feature(name, unit) for name, unit in zip(features, units, strict=True)],
                classes=classes,
                rate_hz=rate,
                check=check,
                mode=chosen,
                progress=progress,
            )
            modelfile.save(conversion.model, output)
    except (EdgeRnnError, OSError) as e:
        _fail(e)
    if as_json:
        click.echo(json.dumps(_facts(conversion, output), indent=2))
    else:
        _print(conversion, output)


def _mode(mode: str | None, window: int | None, hop: int | None, every: bool) -> Mode | None:
    """The mode of these options. Raises UsageError where they don't fit together."""
    if (window is None) == (mode in ("tumbling", "sliding")):
        raise click.UsageError("--mode tumbling and --mode sliding need --window N, and it them")
    if (hop is None) == (mode == "sliding"):
        raise click.UsageError("--mode sliding needs --hop K, and it that")
    if every and mode != "tumbling":
        raise click.UsageError("--every is for --mode tumbling")
    if window is not None:
        return Window(window, hop or window, every)
    return "continuous" if mode == "continuous" else None


def _fail(e: Exception) -> NoReturn:
    click.echo(f"error: {' '.join(str(e).split())}", err=True)
    sys.exit(1)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows the stage on stderr, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: None
        return
    with console.status("converting") as status:
        yield lambda stage: status.update(stage)


def _facts(conversion: Conversion, output: Path) -> dict[str, object]:
    layers = [{"name": n.name, "op": n.OP} for n in conversion.model.nodes]
    return {"output": str(output), "layers": layers, **asdict(conversion.report)}


def _print(conversion: Conversion, output: Path) -> None:
    model, report = conversion.model, conversion.report
    size = f"{report.bytes:,} bytes in {report.quantize}, {report.float32_bytes:,} in float32"
    rows = [
        ("layers", ", ".join(n.OP for n in model.nodes)),
        ("columns", f"{model.input_width} in, {model.output_width} out"),
        ("mode", report.mode),
        ("size", size),
        ("source", _source_line(conversion)),
        ("runtime", f"float32 within {report.runtime_error:.1e} of the float64 reference"),
        ("quantized", f"{report.quantize} within {report.quantized_error:.1e} of it"),
        *(("note", note) for note in report.notes),
        ("written", str(output)),
    ]
    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(name, Text(text))
    Console().print(table)


def _source_line(conversion: Conversion) -> str:
    report = conversion.report
    if report.source_run is None:
        return f"{report.framework}; not run"
    return (
        f"{report.framework}; {report.source_run} agrees within {report.source_error:.1e} "
        f"over {report.source_steps} steps"
    )
