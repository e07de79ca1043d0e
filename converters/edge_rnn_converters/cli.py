"""`edge-rnn convert`: a trained model's file in, a checked .ernn file out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_rnn import modelfile
from edge_rnn.errors import EdgeRnnError
from edge_rnn.graph import Backend, Feature, Window
from edge_rnn_converters.backends.command import hold
from edge_rnn_converters.backends.command import options as hosted
from edge_rnn_converters.certificate import page, plots
from edge_rnn_converters.certificate.command import fail, showing
from edge_rnn_converters.certificate.request import options, request
from edge_rnn_converters.conversion import Auto, Check, Conversion, convert_with_report
from edge_rnn_converters.guard import Guarded
from edge_rnn_converters.modes import Mode
from edge_rnn_converters.quantize import DEFAULT, PRECISIONS, Precision
from edge_rnn_converters.readers import template
from edge_rnn_converters.weights.command import options as described


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


def _inputs(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, tuple[int, ...] | float]:
    found: dict[str, tuple[int, ...] | float] = {}
    for value in values:
        name, _, text = value.rpartition("=")
        try:
            sizes = tuple(int(n) for n in text.split("x"))
            found[name] = sizes if len(sizes) > 1 else float(text)
        except ValueError as e:
            raise click.BadParameter(f"{value!r}, expected NAME=1x512 or NAME=16000") from e
        if not name:
            raise click.BadParameter(f"{value!r}, expected NAME=1x512 or NAME=16000")
    return found


@click.command(cls=Guarded)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The .ernn file.",
)
@click.option(
    "--quantize", type=click.Choice([*PRECISIONS, "auto"]), default=DEFAULT, show_default=True,
    help="Bits of weights and activations: int8 is w8a16 and more where a layer needs it, int4 "
    "is w4a16; w8a32 and float16 are of the weights alone; auto: in each layer the smallest "
    "that keeps the bounds.",
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
    "--input",
    "inputs",
    callback=_inputs,
    multiple=True,
    metavar="NAME=1x512",
    help="The shape of a source's input, or the number that it always is (NAME=16000).",
)
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
@options
@described
@hosted
@click.option(
    "--describe", type=click.Path(path_type=Path), metavar="TOML",
    help="Write a description to edit, as far as the file's arrays tell, and stop.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def convert(
    source: Path,
    output: Path | None,
    quantize: Precision | Auto,
    layers: dict[str, Precision],
    features: list[str],
    feature_units: list[str],
    classes: list[str],
    rate: float | None,
    inputs: dict[str, tuple[int, ...] | float],
    check: Check,
    mode: str | None,
    window: int | None,
    hop: int | None,
    every: bool,
    description: Path | None,
    network: str,
    signature: str,
    describe: Path | None,
    backend: Backend | None,
    states: dict[str, str],
    as_json: bool,
    **measuring: Any,
) -> None:
    """Convert a trained model to a .ernn file.

    Keras .keras and .h5, SavedModel folders, ONNX .onnx, TFLite .tflite, PyTorch .pt2
    and TorchScript .pt; and, with a description of their network, PyTorch .pt, .pth and .ckpt,
    .safetensors, .npz, weights-only .h5, and Hugging Face folders.

    The result is checked: the float32 runtime against a float64 reference, and, if it is
    installed, the source framework (onnxruntime or keras) against the same reference. Then all of
    them run a long stream, and what was measured goes into the file; see `edge-rnn certify`.
    Exits with 3 if a bound does not hold.

    \b
    Example:
      edge-rnn convert har.keras -o har.ernn \\
          --features ax,ay,az,gx,gy,gz --feature-units g,g,g,dps,dps,dps \\
          --classes rest,walk,run,badminton --rate 10
      edge-rnn convert har.keras -o har.ernn --mode sliding --window 82 --hop 4
    """
    if describe is not None:
        _describe(source, describe)
        return
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    columns = _columns(features, feature_units)
    chosen = _mode(mode, window, hop, every)
    asked = request(**measuring)
    if backend is not None:
        hold(source, output, backend, chosen, as_json, states=states, inputs=inputs,
             features=columns, classes=classes, rate_hz=rate)  # fmt: skip
        return
    try:
        if asked.page is not None:
            plots.check()
        with showing("converting") as progress:
            conversion = convert_with_report(
                source,
                quantize,
                layers=layers,
                features=columns,
                classes=classes,
                rate_hz=rate,
                inputs=inputs,
                check=check,
                mode=chosen,
                certificate=asked,
                description=description,
                network=network,
                signature=signature,
                progress=progress,
            )
            modelfile.save(conversion.model, output)
            certified = conversion.certified
            if asked.page is not None and certified is not None:
                page.write(asked.page, certified, output.name)
    except (EdgeRnnError, OSError) as e:
        fail(e)
    if as_json:
        click.echo(json.dumps(_facts(conversion, output), indent=2))
    else:
        _print(conversion, output)
    if conversion.model.certificate and conversion.model.certificate.verdict == "failed":
        sys.exit(3)


def _columns(names: list[str], units: list[str]) -> list[Feature]:
    """Raises UsageError where there are units, and not as many as names."""
    if units and len(units) != len(names):
        raise click.UsageError(
            f"--feature-units names {len(units)} units for {len(names)} --features"
        )
    return [Feature(*column) for column in zip(names, units or [""] * len(names), strict=True)]


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


def _describe(source: Path, target: Path) -> None:
    try:
        text = template(source)
        with target.open("x") as f:
            f.write(text)
    except (EdgeRnnError, OSError) as e:
        fail(e)
    click.echo(f"written: {target}; edit it, then convert with --description {target}")


def _facts(conversion: Conversion, output: Path) -> dict[str, object]:
    layers = [{"name": n.name, "op": n.OP} for n in conversion.model.nodes]
    certificate = msgspec.to_builtins(conversion.model.certificate)
    return {
        "output": str(output),
        "layers": layers,
        **asdict(conversion.report),
        "certificate": certificate,
    }


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
        *_certificate(conversion),
        ("written", str(output)),
    ]
    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(name, Text(text))
    Console().print(table)


def _certificate(conversion: Conversion) -> list[tuple[str, str]]:
    c = conversion.model.certificate
    return [] if c is None else [("certificate", line) for line in c.summary()]


def _source_line(conversion: Conversion) -> str:
    report = conversion.report
    if report.source_run is None:
        return f"{report.framework}; not run"
    return (
        f"{report.framework}; {report.source_run} agrees within {report.source_error:.1e} "
        f"over {report.source_steps} steps"
    )
