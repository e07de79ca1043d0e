"""Is it a model? Every rule a model must keep, checked before anything is built from it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import ModelError
from edge_rnn.graph import (
    MAX_DIM,
    MAX_STEP,
    Conv1d,
    Embedding,
    Foreign,
    Model,
    Pad,
    Pool,
    Probe,
    Take,
    Window,
    answer_steps,
    check_bytes,
    lengths,
    output_digest,
    output_schedule,
    state_width,
    value_widths,
)
from edge_rnn.validation.nodes import check_attributes, check_tensors

MAX_NODES = 10_000
MAX_WIDTHS = 1 << 24
MAX_STATE = 1 << 22

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,120}")


def validate(model: Model) -> None:
    """Check everything a model must be.

    Raises ModelError naming the node and tensor: names, order, shapes, types, finite values,
    known activations, and descriptions as wide as the values that they describe.
    """
    _check_names(model)
    for node in model.nodes:
        check_attributes(node)
        if isinstance(node, Foreign):
            _check_foreign(model, node)
    widths = value_widths(model)
    if model.window is not None:
        _check_window(model, model.window, widths)
    _check_mask(model)
    model.schedule  # noqa: B018 - it is checked where values meet
    _check_sizes(model, widths)
    for node in model.nodes:
        check_tensors(node)
        if isinstance(node, Embedding):
            _check_embedding(model, node)
        if isinstance(node, Take):
            _check_places(node, widths[node.input])
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


def _check_foreign(model: Model, node: Foreign) -> None:
    """It is the whole model, used as its engine can."""
    check_bytes(node)
    if len(model.nodes) > 1 or len(model.inputs) > 1 or model.outputs != (node.name,):
        raise ModelError(f"node {node.name!r}: another engine runs a whole model, with one input")
    if model.mask is not None:
        raise ModelError(f"node {node.name!r}: another engine leaves no message out: no mask")
    length = 1 if model.window is None else model.window.length
    if length != node.messages or (model.window is not None and length == 1):
        raise ModelError(
            f"node {node.name!r}: {node.engine} is given {node.messages} messages at once, so the "
            f"model needs {f'a window of {node.messages}' if node.messages > 1 else 'no window'}"
        )


def _check_window(model: Model, window: Window, widths: dict[str, int]) -> None:
    length, hop = window.length, window.hop
    if type(length) is not int or type(hop) is not int or not 0 < hop <= length <= MAX_STEP:
        raise ModelError(
            f"a window of {length} messages every {hop}: expected 1 to {MAX_STEP}, and a hop of 1 "
            "to as many"
        )
    if window.every and (hop < length or model.looks_ahead):
        raise ModelError(
            "a window can answer at every step where none overlap and no node looks ahead"
        )
    if model.looks_ahead:
        rows = lengths(model, length)
        if sum(n * widths[name] for name, n in rows.items()) > MAX_WIDTHS:
            raise ModelError(f"a window's values have more than {MAX_WIDTHS} numbers in all")
        return
    at = output_schedule(model)
    if at.count(length) == 0:
        raise ModelError(f"a window of {length} ends before its first output: there at {at}")
    if window.every and at.count(length) * at.period != length:
        raise ModelError(
            f"a window of {length} can't answer at every step: with outputs every {at.period} "
            "steps it must be a multiple of that"
        )


def _check_mask(model: Model) -> None:
    if model.mask is None:
        return
    most = float(np.finfo(np.float32).max)
    if type(model.mask) is not float or not abs(model.mask) <= most:
        raise ModelError(f"mask is {model.mask!r}, expected a finite number")
    for node in model.nodes:
        if isinstance(node, Conv1d | Pool | Pad):
            raise ModelError(
                f"node {node.name!r}: {node.OP} counts rows, so no message can be left out: a "
                "model with a mask can't have it"
            )


def _check_sizes(model: Model, widths: dict[str, int]) -> None:
    """Before any memory is taken."""
    if sum(widths.values()) > MAX_WIDTHS:
        raise ModelError(f"values {sum(widths.values())} wide in all, at most {MAX_WIDTHS} allowed")
    state = state_width(model)
    if state > MAX_STATE:
        raise ModelError(f"a stream's state has {state} numbers, at most {MAX_STATE} allowed")


def _check_embedding(model: Model, node: Embedding) -> None:
    if {i.name: i.width for i in model.inputs}.get(node.input) != 1:
        raise ModelError(
            f"node {node.name!r}: an embedding reads a model input of width 1, not {node.input!r}"
        )


def _check_places(node: Take, width: int) -> None:
    wrong = (node.places != np.floor(node.places)) | (node.places < -1) | (node.places >= width)
    if wrong.any():
        raise ModelError(
            f"node {node.name!r}: places has {node.places[wrong][0]}, expected whole numbers from "
            f"-1 to {width - 1}"
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
    _check_rows("input", probe.input, len(probe.input), model.input_width)
    answers = len(answer_steps(model, probe.input))
    _check_rows("output", probe.output, answers, model.output_width)
    if output_digest(probe.output) != probe.digest:
        raise ModelError("the probe's digest is not that of its output: the file was altered")


def _check_rows(what: str, a: NDArray[Any], rows: int, width: int) -> None:
    if a.shape != (rows, width) or not rows:
        raise ModelError(f"probe {what} has shape {a.shape}, expected ({rows or 'T'}, {width})")
    if a.dtype != np.float32 or not np.isfinite(a).all():
        raise ModelError(f"probe {what}: expected finite float32 numbers")
