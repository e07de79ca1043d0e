"""Weights in fewer bits. Biases, scales and the running state stay float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32, GROUP, Conv1d, Matrix, Model, Node, tensors

Precision: TypeAlias = Literal[
    "int8", "int4", "w8a16", "w8a8", "w8a32", "w4a16", "w4a8", "float16", "float32"
]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""`w8a16`: int8 weights that meet int16 activations, nearly lossless and nearly as fast as `w8a8`,
where they meet int8 ones; `w4...`: 4-bit weights, a scale for each 32; `w8a32` and `float16`: the
weights alone, activations stay float32. `int8` and `int4` are `ALIASES`."""

ALIASES: dict[Precision, Precision] = {"int8": "w8a16", "int4": "w4a16"}
"""The names of weights alone, each with the activations that measured best with them (see
docs/decisions/0010-calibration.md). A conversion to int8 also chooses, see `mixed`."""

DEFAULT: Precision = "int8"

_SHRINKS = np.linspace(0.6, 1.0, 21)


def quantize(
    model: Model, precision: Precision, layers: Mapping[str, Precision] | None = None
) -> Model:
    """The model with its weight matrices in `precision`, those of the nodes named in `layers` in
    that of their own; the descriptions stay, what was recorded of a run goes.

    Raises ModelError for a layer that is not there, UnsupportedError, naming node and tensor, for
    a weight beyond float16's range.
    """
    own = dict(layers or {})
    for name in (precision, *own.values()):
        if name not in PRECISIONS:
            raise ModelError(f"precision {name!r}, expected one of {', '.join(PRECISIONS)}")
    names = [n.name for n in model.nodes]
    if missing := sorted(set(own).difference(names)):
        raise ModelError(f"no layer {missing[0]!r}; the model's are {', '.join(names)}")
    if model.foreign is not None:
        raise UnsupportedError(
            f"node {model.foreign.name!r}: {model.foreign.engine} runs it as it is; quantize its "
            "file with the engine's own tools, or convert it without --backend"
        )
    nodes = tuple(_node(n, own.get(n.name, precision)) for n in model.nodes)
    return replace(model, nodes=nodes, probe=None, certificate=None)


def size_of(node: Node) -> int:
    """Bytes of the node's tensors."""
    return sum(int(t.nbytes) for _, _, t in tensors(node))


def precision_of(node: Node) -> Precision | None:
    """The format that a node's matrices are in; None of a node without any."""
    matrices = [t for _, _, t in tensors(node) if isinstance(t, Matrix)]
    if not matrices:
        return None
    first, activations = matrices[0], getattr(node, "activations", "float32")
    if first.scale is None:
        return "float16" if first.data.dtype == np.float16 else "float32"
    bits = 4 if first.four_bit else 8
    name = f"w{bits}a{activations.removeprefix('float').removeprefix('int')}"
    return next(p for p in PRECISIONS if p == name)


def int8(w: F32) -> Matrix:
    """Symmetric int8, one scale a row: scale = max |w| / 127, w ~ data * scale, to half a scale.

    Ties round to even, -128 is not used, and a row of zeros has scale 1.
    """
    peak = np.abs(w).max(axis=1).astype(np.float64)
    tiny = np.finfo(np.float32).tiny
    scale = np.where(peak > 0, np.maximum(peak / 127, tiny), 1).astype(np.float32)
    steps = np.rint(w / scale.astype(np.float64)[:, None])
    return Matrix(np.clip(steps, -127, 127).astype(np.int8), scale)


def int4(w: F32) -> Matrix:
    """Symmetric 4-bit weights, one scale for each 32 columns of a row.

    A group with an outlier loses less when the outlier is clipped a little and the others get
    finer steps: of 21 scales, from 0.6 to 1 of max |w| / 7, the one of the least squared error.
    """
    rows, columns = w.shape
    groups = np.zeros((rows, -(-columns // GROUP), GROUP))
    groups.reshape(rows, -1)[:, :columns] = w
    peak = np.maximum(np.abs(groups).max(axis=2, keepdims=True) / 7, np.finfo(np.float32).tiny)
    best, error = peak, np.full(peak.shape, np.inf)
    for shrink in _SHRINKS:
        scale = (peak * shrink).astype(np.float32).astype(np.float64)
        off = groups - np.clip(np.rint(groups / scale), -7, 7) * scale
        squares = (off**2).sum(axis=2, keepdims=True)
        best, error = np.where(squares <= error, scale, best), np.minimum(squares, error)
    steps = np.clip(np.rint(groups / best), -7, 7).astype(np.int8)
    return Matrix(
        np.ascontiguousarray(steps.reshape(rows, -1)[:, :columns]), best[:, :, 0].astype(np.float32)
    )


def _node(node: Node, precision: Precision) -> Node:
    precision = ALIASES.get(precision, precision)
    if precision == "float32":
        return node
    changes: dict[str, Any] = {
        name: _matrix(node, name, tensor.data, precision)
        for name, _, tensor in tensors(node)
        if isinstance(tensor, Matrix)
    }
    if precision.startswith("w") and precision != "w8a32" and _multiplies(node):
        changes["activations"] = f"int{precision.partition('a')[2]}"
    return replace(node, **changes)


def _multiplies(node: Node) -> bool:
    """Has it a matrix product, that may be one of integers?"""
    named = any(f.name == "activations" for f in fields(node))
    return named and not (isinstance(node, Conv1d) and node.depthwise)


def _matrix(node: Node, name: str, w: F32, precision: Precision) -> Matrix:
    if precision == "float16":
        return _half(node, name, w)
    # 4-bit weights are unpacked by products only: not of a table, nor feature by feature.
    return int4(w) if precision.startswith("w4") and _multiplies(node) else int8(w)


def _half(node: Node, name: str, w: F32) -> Matrix:
    with np.errstate(over="ignore"):
        half = w.astype(np.float16)
    if not np.isfinite(half).all():
        raise UnsupportedError(
            f"node {node.name!r}: {name}: {np.abs(w).max():g} is beyond float16's 65504; "
            "convert with quantize='float32' or 'int8'"
        )
    return Matrix(half)
