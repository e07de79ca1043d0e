"""What the peers can be asked to run, and weights in the form they take them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import UnsupportedError
from edge_rnn.graph import (
    F32,
    Activation,
    Dense,
    Gru,
    Lstm,
    Matrix,
    Model,
    Node,
    Rnn,
    Scale,
    Softmax,
)

LitertExport: TypeAlias = Literal["float32", "int8 dynamic", "int8 full"]
"""int8 dynamic: weights in int8, float32 values that products quantize as they come;
int8 full: all values in int8, with scales from a calibration."""

LITERT_EXPORTS: tuple[LitertExport, ...] = ("float32", "int8 dynamic", "int8 full")

CELL_ACTS = {"gate": "sigmoid", "cell": "tanh", "hidden": "tanh", "candidate": "tanh"}
COMMON_ACTS = ("linear", "relu", "tanh", "sigmoid")


def check(peer: str, model: Model, acts: Collection[str] = COMMON_ACTS) -> None:
    """Raise UnsupportedError, naming node and attribute, for what `peer` is not asked to run.

    `acts` are the activations that it has outside LSTM and GRU, whose own must be the usual ones.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UnsupportedError(f"{peer} is measured on models of one input and one output only")
    for node in model.nodes:
        if type(node) not in (Scale, Rnn, Lstm, Gru, Dense, Activation, Softmax):
            raise UnsupportedError(f"{peer}: node {node.name!r}: {node.OP} is not measured there")
        for f in fields(node):
            if f.metadata.get("optional") and getattr(node, f.name) is not None:
                raise UnsupportedError(
                    f"{peer}: node {node.name!r}: {f.name} is not measured there"
                )
        for name, act in _acts(node).items():
            if act not in ((CELL_ACTS[name],) if name in CELL_ACTS else acts):
                raise UnsupportedError(
                    f"{peer}: node {node.name!r}: {name}={act!r} is not measured there"
                )


def _acts(node: Node) -> dict[str, str]:
    names = ("act", *CELL_ACTS)
    return {name: getattr(node, name) for name in names if hasattr(node, name)}


def float32(m: Matrix) -> F32:
    """The weights' values."""
    return m.float64().astype(np.float32)


def int8(rows: NDArray[np.float64], largest: int = 127) -> tuple[NDArray[np.int8], F32]:
    """Weights (rows, columns) as whole numbers up to `largest`, with one scale a row."""
    peak = np.maximum(np.abs(rows).max(axis=1), np.finfo(np.float32).tiny * largest)
    scale = (peak / largest).astype(np.float32)
    return np.clip(np.rint(rows / scale[:, None]), -largest, largest).astype(np.int8), scale
