"""The rules that a node must keep by itself: its choices, its tensors' numbers and formats."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from edge_rnn.activations import steps
from edge_rnn.errors import ModelError
from edge_rnn.graph import (
    GROUP,
    NODES,
    Act,
    Attribute,
    Conv1d,
    Lstm,
    Matrix,
    Node,
    attributes,
    reads,
    tensors,
)

MAX_DOT = 1 << 17
"""Inputs of an integer product: its sums fit 32 bits."""


def check_attributes(node: Node) -> None:
    """Raises ModelError, naming node and attribute, for a value that it can't have."""
    if reads(node) == (node.input,) and hasattr(node, "others"):
        raise ModelError(f"node {node.name!r}: others is empty, expected at least one name")
    values, kinds = attributes(node), _kinds(node.OP)
    for f in fields(node):
        if f.name in values and not f.metadata.get("structure"):
            value = values[f.name]
            allowed = _allowed(kinds[f.name], f.metadata.get("range"), value)
            if allowed:
                raise ModelError(f"node {node.name!r}: {f.name} is {value!r}, allowed: {allowed}")


@cache
def _kinds(op: str) -> dict[str, Any]:
    """The type of each field of a node."""
    return get_type_hints(NODES[op])


def _allowed(kind: Any, span: tuple[float, float] | None, value: Attribute) -> str:
    """What an attribute may be, or nothing if the value is that."""
    if kind == Act:
        return _allowed_acts(str(value))
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return "" if value in choices else ", ".join(choices)
    low, high = span or (-np.inf, np.inf)
    if type(value) is kind and not isinstance(value, str) and low <= value <= high:
        return ""
    return f"{kind.__name__} from {low} to {high}" if span else kind.__name__


def _allowed_acts(act: str) -> str:
    try:
        steps(act)
    except ModelError as e:
        return str(e)
    return ""


def check_tensors(node: Node) -> None:
    """Raises ModelError, naming node and tensor, for numbers and formats that it can't have.

    That shapes fit is for `value_widths` to say.
    """
    for name, symbols, tensor in tensors(node):
        if symbols:
            _check_tensor(f"node {node.name!r}: {name}", tensor)
    _check_formats(node)
    if isinstance(node, Lstm):
        _check_clips(node)


def _check_tensor(where: str, tensor: Any) -> None:
    if not isinstance(tensor, Matrix):
        return _check_float(where, tensor)
    if tensor.data.dtype != np.int8:
        if tensor.scale is not None:
            raise ModelError(f"{where}: {tensor.data.dtype} weights take no scale")
        return _check_float(where, tensor.data)
    rows, columns = tensor.data.shape
    shapes = ((rows,), (rows, -(-columns // GROUP)))
    if tensor.scale is None or tensor.scale.shape not in shapes:
        raise ModelError(
            f"{where}: int8 weights need one scale a row ({rows}), or one for each "
            f"{GROUP} columns of 4-bit weights"
        )
    _check_float(f"{where}: scale", tensor.scale)
    if tensor.scale.min() <= 0:
        raise ModelError(f"{where}: scales must be positive, got {tensor.scale.min()}")
    most = 7 if tensor.four_bit else 127
    if tensor.data.min() < -most or tensor.data.max() > most:
        wrong = tensor.data.min() if tensor.data.min() < -most else tensor.data.max()
        kind = "4-bit" if tensor.four_bit else "int8"
        raise ModelError(f"{where}: {kind} weights must lie in [-{most}, {most}], got {wrong}")
    return None


def _check_formats(node: Node) -> None:
    """Do the weights' formats go with the activations'?"""
    activations = getattr(node, "activations", "float32")
    for name, _, tensor in tensors(node):
        if not isinstance(tensor, Matrix):
            continue
        where = f"node {node.name!r}: {name}"
        if isinstance(node, Conv1d) and node.depthwise:
            if tensor.four_bit or activations != "float32":
                raise ModelError(
                    f"{where}: a depthwise convolution takes float32, float16 or int8 weights and "
                    "float32 activations"
                )
        elif tensor.four_bit and activations == "float32":
            raise ModelError(f"{where}: 4-bit weights need int8 or int16 activations")
        if activations == "float32":
            continue
        if tensor.scale is None:
            raise ModelError(f"{where}: {activations} activations need int8 or 4-bit weights")
        if tensor.data.shape[1] > MAX_DOT:
            raise ModelError(
                f"{where}: {tensor.data.shape[1]} inputs, {activations} activations may have "
                f"at most {MAX_DOT}"
            )


def _check_float(where: str, a: NDArray[Any]) -> None:
    half_ok = a.ndim == 2 and a.dtype == np.float16
    if a.dtype != np.float32 and not half_ok:
        allowed = "float32, float16 or int8" if a.ndim == 2 else "float32"
        raise ModelError(f"{where}: dtype {a.dtype}, expected {allowed}")
    bad = np.flatnonzero(~np.isfinite(a))
    if bad.size:
        raise ModelError(f"{where}: {a.flat[bad[0]]} at index {bad[0]}, expected finite numbers")


def _check_clips(node: Lstm) -> None:
    for name in ("cell_clip", "projection_clip"):
        value = getattr(node, name)
        if value is not None and value[0] <= 0:
            raise ModelError(f"node {node.name!r}: {name} is {value[0]}, expected more than 0")
