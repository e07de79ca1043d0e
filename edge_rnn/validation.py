"""Is it a model? Every rule a model must keep, checked before anything is built from it."""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import ModelError
from edge_rnn.graph import (
    MAX_DIM,
    Embedding,
    Matrix,
    Model,
    Node,
    Probe,
    attributes,
    output_digest,
    tensors,
    value_widths,
)

MAX_NODES = 10_000
MAX_WIDTHS = 1 << 24
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,120}")


def validate(model: Model) -> None:
    """Check everything a model must be.

    Raises ModelError naming the node and tensor: names, order, shapes, types, finite values,
    known activations, and descriptions as wide as the values that they describe.
    """
    _check_names(model)
    widths = value_widths(model)
    if sum(widths.values()) > MAX_WIDTHS:
        raise ModelError(f"values {sum(widths.values())} wide in all, at most {MAX_WIDTHS} allowed")
    for node in model.nodes:
        _check_attributes(node)
        for name, _, tensor in tensors(node):
            _check_tensor(f"node {node.name!r}: {name}", tensor)
        if isinstance(node, Embedding):
            _check_embedding(model, node)
    _check_descriptions(model, widths)
    if model.probe is not None:
        _check_probe(model, model.probe)


def _check_names(model: Model) -> None:
    if not model.inputs or not model.nodes or not model.outputs:
        raise ModelError("a model needs at least one input, one node and one output")
    if len(model.nodes) > MAX_NODES:
        raise ModelError(f"{len(model.nodes)} nodes, at most {MAX_NODES} allowed")
    seen: set[str] = set()
    for name in [i.name for i in model.inputs] + [n.name for n in model.nodes]:
        if not _NAME.fullmatch(name):
            raise ModelError(f"name {name!r}: expected 1 to 120 letters, digits, '_', '.' or '-'")
        if name in seen:
            raise ModelError(f"duplicate name {name!r}: every input and node needs its own")
        seen.add(name)
    for i in model.inputs:
        if not 0 < i.width <= MAX_DIM:
            raise ModelError(f"input {i.name!r}: width {i.width}, expected 1 to {MAX_DIM}")
    for name in model.outputs:
        if name not in seen:
            raise ModelError(f"output {name!r}: no input or node has that name")


def _check_attributes(node: Node) -> None:
    hints = get_type_hints(type(node))
    for name, value in attributes(node).items():
        if hints[name] is float:
            if type(value) is not float or not 0 <= value < float("inf"):
                raise ModelError(
                    f"node {node.name!r}: {name} is {value!r}, expected a float from 0 upwards"
                )
        elif value not in get_args(hints[name]):
            allowed = ", ".join(get_args(hints[name]))
            raise ModelError(f"node {node.name!r}: {name} is {value!r}, allowed: {allowed}")


def _check_tensor(where: str, tensor: Any) -> None:
    if not isinstance(tensor, Matrix):
        return _check_float(where, tensor)
    if tensor.data.dtype != np.int8:
        if tensor.scale is not None:
            raise ModelError(f"{where}: {tensor.data.dtype} weights take no scale")
        return _check_float(where, tensor.data)
    if tensor.scale is None or tensor.scale.shape != tensor.data.shape[:1]:
        raise ModelError(f"{where}: int8 weights need one scale a row ({len(tensor.data)})")
    _check_float(f"{where}: scale", tensor.scale)
    if tensor.scale.min() <= 0:
        raise ModelError(f"{where}: scales must be positive, got {tensor.scale.min()}")
    if tensor.data.min() == -128:
        raise ModelError(f"{where}: int8 weights must lie in [-127, 127], got -128")
    return None


def _check_float(where: str, a: NDArray[Any]) -> None:
    half_ok = a.ndim == 2 and a.dtype == np.float16
    if a.dtype != np.float32 and not half_ok:
        allowed = "float32, float16 or int8" if a.ndim == 2 else "float32"
        raise ModelError(f"{where}: dtype {a.dtype}, expected {allowed}")
    bad = np.flatnonzero(~np.isfinite(a))
    if bad.size:
        raise ModelError(f"{where}: {a.flat[bad[0]]} at index {bad[0]}, expected finite numbers")


def _check_embedding(model: Model, node: Embedding) -> None:
    if {i.name: i.width for i in model.inputs}.get(node.input) != 1:
        raise ModelError(
            f"node {node.name!r}: an embedding reads a model input of width 1, not {node.input!r}"
        )


def _check_descriptions(model: Model, widths: dict[str, int]) -> None:
    out = sum(widths[name] for name in model.outputs)
    for what, entries, width in (
        ("features", model.features, model.input_width),
        ("targets", model.targets, out),
        ("classes", model.classes, out),
    ):
        if entries and len(entries) != width:
            raise ModelError(f"{len(entries)} {what} for a width of {width}")
    for what, names in (
        ("feature", [f.name for f in model.features]),
        ("target", [f.name for f in model.targets]),
        ("class", list(model.classes)),
    ):
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise ModelError(f"duplicate {what} name {min(twice)!r}")
    if model.rate_hz is not None and not 0 < model.rate_hz < float("inf"):
        raise ModelError(f"rate_hz is {model.rate_hz}, expected a positive number")


def _check_probe(model: Model, probe: Probe) -> None:
    steps = len(probe.input)
    for what, a, width in (
        ("input", probe.input, model.input_width),
        ("output", probe.output, model.output_width),
    ):
        if a.shape != (steps, width) or not steps:
            raise ModelError(
                f"probe {what} has shape {a.shape}, expected ({steps or 'T'}, {width})"
            )
        if a.dtype != np.float32 or not np.isfinite(a).all():
            raise ModelError(f"probe {what}: expected finite float32 numbers")
    if output_digest(probe.output) != probe.digest:
        raise ModelError("the probe's digest is not that of its output: the file was altered")
