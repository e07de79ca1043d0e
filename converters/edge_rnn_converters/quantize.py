"""Weights in fewer bits. Biases, scales and the running state stay float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32, Matrix, Model, Node, tensors

Precision: TypeAlias = Literal["int8", "float16", "float32"]
PRECISIONS: tuple[Precision, ...] = ("int8", "float16", "float32")


def quantize(model: Model, precision: Precision) -> Model:
    """The model with every weight matrix in `precision`; the descriptions stay, a probe goes.

    Raises UnsupportedError, naming node and tensor, for a weight beyond float16's range.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
    nodes = tuple(_node(n, precision) for n in model.nodes)
    return replace(model, nodes=nodes, probe=None)


def int8(w: F32) -> Matrix:
    """Symmetric int8, one scale a row: scale = max |w| / 127, w ~ data * scale, to half a scale.

    Ties round to even, -128 is not used, and a row of zeros has scale 1.
    """
    peak = np.abs(w).max(axis=1).astype(np.float64)
    tiny = np.finfo(np.float32).tiny
    scale = np.where(peak > 0, np.maximum(peak / 127, tiny), 1).astype(np.float32)
    steps = np.rint(w / scale.astype(np.float64)[:, None])
    return Matrix(np.clip(steps, -127, 127).astype(np.int8), scale)


def _node(node: Node, precision: Precision) -> Node:
    if precision == "float32":
        return node
    changes: dict[str, Any] = {
        name: int8(tensor.data) if precision == "int8" else _half(node, name, tensor.data)
        for name, _, tensor in tensors(node)
        if isinstance(tensor, Matrix)
    }
    return replace(node, **changes)


def _half(node: Node, name: str, w: F32) -> Matrix:
    with np.errstate(over="ignore"):
        half = w.astype(np.float16)
    if not np.isfinite(half).all():
        raise UnsupportedError(
            f"node {node.name!r}: {name}: {np.abs(w).max():g} is beyond float16's 65504; "
            "convert with quantize='float32' or 'int8'"
        )
    return Matrix(half)
