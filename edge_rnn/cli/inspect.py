"""`edge-rnn inspect`: what a model file holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from edge_rnn.graph import (
    Attribute,
    Foreign,
    Matrix,
    Model,
    Node,
    Scale,
    Schedule,
    attributes,
    digest,
    multiply_adds,
    reads,
    state_width,
    tensors,
    value_dimensions,
    value_widths,
)
from edge_rnn.modelfile import load


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of the table: sizes in elements and bytes, state in bytes a stream."""

    name: str
    op: str
    shape: str
    weights: str
    parameters: int
    bytes: int
    state_bytes: int
    multiply_adds: int
    attributes: dict[str, Attribute]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
def inspect(file: Path, as_json: bool) -> None:
    """Show the layers of FILE, what its columns mean and where it came from.

    \b
    Example:
      edge-rnn inspect activity.ernn
    """
    model = load(file)
    layers = describe(model)
    if as_json:
        click.echo(msgspec.json.encode(_summary(file, model, layers)).decode())
        return
    console = Console()
    console.print(_table(layers))
    for name, text in _facts(file, model).items():
        console.print(f"[bold]{name:<12}[/bold] {text}", highlight=False, soft_wrap=True)
    for line in _certified(model):
        console.print(f"certificate  {line}", highlight=False, soft_wrap=True, markup=False)


def describe(model: Model) -> list[Layer]:
    """A row for each node."""
    widths = value_widths(model)
    return [_layer(node, widths) for node in model.nodes]


def _layer(node: Node, widths: dict[str, int]) -> Layer:
    parts = [t for _, shape, t in tensors(node) if shape]
    dims = value_dimensions(node, widths)
    kinds = sorted({str(t.data.dtype) for t in parts if isinstance(t, Matrix)})
    return Layer(
        name=node.name,
        op=node.OP,
        shape=f"{' + '.join(str(widths[r]) for r in reads(node))} → {widths[node.name]}",
        weights=", ".join(kinds),
        parameters=sum(int(t.data.size if isinstance(t, Matrix) else t.size) for t in parts),
        bytes=sum(int(t.nbytes) for _, _, t in tensors(node)),
        state_bytes=4 * sum(dims[symbol] for symbol in node.STATE.values()),
        multiply_adds=multiply_adds(node, widths),
        attributes=attributes(node),
    )


def _table(layers: list[Layer]) -> Table:
    table = Table(show_footer=True, footer_style="bold")
    total = {
        f: sum(getattr(row, f) for row in layers)
        for f in ("parameters", "bytes", "state_bytes", "multiply_adds")
    }
    for title in ("layer", "op", "shape", "weights"):
        table.add_column(title, footer="total" if title == "layer" else "")
    for title, key in (
        ("params", "parameters"),
        ("bytes", "bytes"),
        ("state B", "state_bytes"),
        ("MACs/step", "multiply_adds"),
    ):
        table.add_column(title, footer=f"{total[key]:,}", justify="right")
    for row in layers:
        table.add_row(
            *(row.name, _op(row), row.shape, row.weights),
            *(f"{getattr(row, key):,}" if getattr(row, key) else "" for key in total),
        )
    return table


def _op(row: Layer) -> str:
    """The op, with those of its choices that are not what everyone expects."""
    if row.op == Foreign.OP:
        return f"{row.op} ({row.attributes['engine']})"
    usual = {"gate": "sigmoid", "cell": "tanh", "hidden": "tanh", "candidate": "tanh"}
    odd = [
        v if isinstance(v, str) else f"{k} {v}"
        for k, v in row.attributes.items()
        if v != usual.get(k, "linear")
    ]
    return row.op + (f" ({', '.join(odd)})" if odd else "")


def _facts(file: Path, model: Model) -> dict[str, str]:
    facts = {"file": f"{file}, {file.stat().st_size:,} bytes", "inputs": _columns(model)}
    if model.targets:
        facts["outputs"] = ", ".join(f"{t.name} {t.unit}".strip() for t in model.targets)
    if model.classes:
        facts["classes"] = ", ".join(model.classes)
    if model.rate_hz:
        facts["rate"] = f"{model.rate_hz:g} Hz"
    if model.window:
        facts["window"] = str(model.window)
    if model.mask is not None:
        facts["mask"] = f"a message of nothing but {model.mask:g} is left out"
    if model.schedule != Schedule():
        facts["answers"] = f"{model.schedule}, counted from 0"
    if f := model.foreign:
        facts["engine"] = f"{f.engine}, fed {f.x.tensor} {f.x.shape}, asked for {f.y.tensor}"
        states = [f"{s.before} <- {s.after} {s.shape}" for s in f.states]
        facts["states"] = ", ".join(states) or "none"
    if p := model.provenance:
        facts["source"] = f"{p.source} ({p.framework}), sha256 {p.sha256[:16]}, by {p.converter}"
    if model.probe:
        facts["probe"] = f"{len(model.probe.input)} steps, digest {model.probe.digest[:16]}"
    facts["model digest"] = digest(model)[:16]
    return facts


def _certified(model: Model) -> list[str]:
    """A few lines of its certificate, if it has one."""
    if (c := model.certificate) is None:
        return []
    altered = "IT IS OF ANOTHER MODEL: the weights in this file are not those it was measured on"
    return c.summary() if c.model == digest(model) else [altered]


def _columns(model: Model) -> str:
    """Feature names and units, with mean and deviation where a normalisation comes first."""
    names = [f"{f.name} {f.unit}".strip() for f in model.features]
    names = names or [f"{i.name} ({i.width})" for i in model.inputs]
    first = model.nodes[0]
    if isinstance(first, Scale) and len(names) == len(first.offset) and not first.shift.any():
        pairs = zip(names, first.offset, first.scale, strict=True)
        names = [f"{n} ({mean:.3g} ± {1 / s:.3g})" if s else n for n, mean, s in pairs]
    return ", ".join(names)


def _summary(file: Path, model: Model, layers: list[Layer]) -> dict[str, object]:
    return {
        "file": str(file),
        "file_bytes": file.stat().st_size,
        "digest": digest(model),
        "layers": [asdict(row) for row in layers],
        "parameters": sum(row.parameters for row in layers),
        "bytes": sum(row.bytes for row in layers),
        "state_bytes": 4 * state_width(model),
        "multiply_adds": sum(row.multiply_adds for row in layers),
        "input_width": model.input_width,
        "output_width": model.output_width,
        "schedule": model.schedule._asdict(),
        "window": model.window and asdict(model.window),
        "mask": model.mask,
        "features": [asdict(f) for f in model.features],
        "targets": [asdict(f) for f in model.targets],
        "classes": list(model.classes),
        "rate_hz": model.rate_hz,
        "provenance": model.provenance and asdict(model.provenance),
        "probe": model.probe and {"steps": len(model.probe.input), "digest": model.probe.digest},
        "certificate": model.certificate and msgspec.to_builtins(model.certificate),
    }
