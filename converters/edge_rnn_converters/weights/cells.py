"""The arrays of recurrent layers as their framework keeps them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edge_rnn.graph import F32
from edge_rnn_converters import gates
from edge_rnn_converters.weights.layer import Place


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One layer of a stack: its cell, its projection (R, H) if it has one, and what reads the same
    backward, its outputs beside this one's, if it has that."""

    cell: gates.Cell
    projection: F32 | None = None
    backward: Level | None = None


def levels(place: Place, kind: gates.Kind) -> list[Level]:
    """The stack of a recurrent layer, the first level reading its input.

    Raises ConfigError where arrays are missing or of other shapes than this kind's.
    """
    blocks = len(gates.OURS[kind])
    if place.layout == "pytorch":
        n = 0
        while f"weight_ih_l{n}" in place.arrays or not n:
            n += 1
        return [_directions(place, blocks, f"_l{k}") for k in range(n)]
    return [(_keras if place.layout == "keras" else _onnx)(place, blocks)]


def _directions(place: Place, blocks: int, end: str) -> Level:
    level, back = _pytorch(place, blocks, end), f"{end}_reverse"
    if f"weight_ih{back}" not in place.arrays:
        return level
    return replace(level, backward=_pytorch(place, blocks, back))


def _pytorch(place: Place, blocks: int, end: str) -> Level:
    u = place.array(f"weight_hh{end}", None, None)
    projection = None
    H = R = u.shape[1]
    if f"weight_hr{end}" in place.arrays:
        projection = place.array(f"weight_hr{end}", R, None)
        H = projection.shape[1]
    rows = blocks * H
    u = place.array(f"weight_hh{end}", rows, R)
    w = place.array(f"weight_ih{end}", rows, None)
    biases = (place.vector(f"bias_{of}{end}", rows, 0) for of in ("ih", "hh"))
    return Level(gates.Cell("pytorch", w, u, *biases), projection)


def _keras(place: Place, blocks: int) -> Level:
    u = place.array("recurrent_kernel", None, None)
    H = len(u)
    u, w = place.array("recurrent_kernel", H, blocks * H), place.array("kernel", None, blocks * H)
    bias = np.zeros(blocks * H, np.float32)
    if "bias" in place.arrays:
        two = place.arrays["bias"].ndim == 2
        bias = place.array("bias", *((2,) if two else ()), blocks * H)
    return Level(gates.Cell("keras", w.T, u.T, *gates.keras_biases(bias, blocks * H)))


def _onnx(place: Place, blocks: int) -> Level:
    u = place.array("R", 1, None, None)[0]
    H = u.shape[1]
    w, u = place.array("W", 1, blocks * H, None)[0], place.array("R", 1, blocks * H, H)[0]
    bias = np.zeros((1, 2 * blocks * H), np.float32)
    if "B" in place.arrays:
        bias = place.array("B", 1, 2 * blocks * H)
    return Level(gates.Cell("onnx", w, u, *gates.onnx_biases(bias[0], blocks * H)))
