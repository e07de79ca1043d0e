"""Described convolutions and pools: over time, or along the positions of one message."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import (
    F32,
    Activation,
    Add,
    Conv1d,
    FrameConv,
    FramePool,
    Matrix,
    Node,
    Pool,
    Take,
)
from edge_rnn_converters.weights import schema
from edge_rnn_converters.weights.layer import At, Built, Place


def convolution(keys: schema.Conv1d, place: Place, at: At) -> Built:
    """A Conv1d over time, or a FrameConv over a message padded first."""
    w = place.weight(3)  # (rows, channels / groups, taps)
    rows, kernel = len(w), w.shape[2]
    b = place.vector("bias", rows, 0)
    if not keys.frame:
        return [_over_time(keys, place, at, w, b)], 0
    for key in ("dilation", "groups"):
        if getattr(keys, key) != 1:
            raise place.error(key, "only 1 is possible in a frame; use it over time")
    channels = w.shape[1]
    source, padded = at.source, list[Node]()
    if at.channels not in (0, channels) or at.width % channels:
        raise place.error(
            "weights", f"its weights read {channels} channels of {at.width} numbers in "
            f"{at.channels or 'any number of'} channels"
        )  # fmt: skip
    if not at.channels and place.index and 1 < channels < at.width:
        raise place.error("frame", "which of the numbers before it are a position's is not known")
    if keys.padding == "causal":
        raise place.error("padding", "a frame has no time; give a number")
    if keys.padding not in (0, "valid"):
        n, p, source = at.width // channels, int(keys.padding), f"{at.name}.padded"
        padded = [take(source, at.source, np.arange(-p, n + p), channels, n)]
    taps = Matrix(np.ascontiguousarray(w.transpose(0, 2, 1).reshape(rows, -1)))
    conv = FrameConv(at.name, source, taps, b, kernel, keys.stride, keys.activation)
    return [*padded, conv], rows


def _over_time(keys: schema.Conv1d, place: Place, at: At, w: F32, b: F32) -> Node:
    if isinstance(keys.padding, int):
        raise place.error("padding", _TIME)
    _no_frame(place, at)
    if w.shape[1] * keys.groups != at.width:
        raise place.error(
            "weights",
            f"its weights read {w.shape[1] * keys.groups} numbers, the layer before makes "
            f"{at.width}; is it a convolution inside a message (frame = true)?",
        )
    return Conv1d(
        at.name,
        at.source,
        Matrix(np.ascontiguousarray(w.transpose(0, 2, 1).reshape(len(w), -1))),
        b,
        w.shape[2],
        keys.stride,
        keys.dilation,
        keys.groups,
        keys.padding,
        keys.activation,
    )


def _no_frame(place: Place, at: At) -> None:
    if at.channels and at.positions > 1:
        raise place.error("frame", "over time it can't read a frame; set frame = true")


_TIME = (
    "zeros on both sides let it look ahead, which a stream can't; pad causal, as in training, or "
    "train it so"
)


def pool(keys: schema.Pool, place: Place, at: At) -> Built:
    """A Pool over time, or a FramePool."""
    kind: Literal["max", "average"] = "max" if isinstance(keys, schema.MaxPool) else "average"
    stride = keys.stride or keys.kernel
    if keys.frame:
        if keys.padding != "valid":
            raise place.error("padding", "only valid is possible in a frame")
        channels = at.channels or 1
        return [FramePool(at.name, at.source, kind, channels, keys.kernel, stride)], channels
    _no_frame(place, at)
    return [Pool(at.name, at.source, kind, keys.kernel, stride, keys.padding)], 0


def pad(keys: schema.Pad, place: Place, at: At) -> Built:
    """A Take of each position's channels."""
    channels = at.channels or 1
    n = at.width // channels
    if keys.mode == "reflect" and max(keys.before, keys.after) >= n:
        raise place.error("mode", f"can't mirror more than {n - 1} of {n} positions")
    where = np.arange(-keys.before, n + keys.after)
    if keys.mode == "reflect":
        where = n - 1 - np.abs(n - 1 - np.abs(where))
    return [take(at.name, at.source, where, channels, n)], channels


def take(name: str, source: str, positions: NDArray[np.int64], channels: int, n: int) -> Take:
    """The channels at these positions of a frame of n, zeros for a position that is not there."""
    there = (positions >= 0) & (positions < n)
    places = positions[:, None] * channels + np.arange(channels)
    return Take(name, source, np.where(there[:, None], places, -1).reshape(-1).astype(np.float32))


def magnitude(keys: schema.Magnitude, place: Place, at: At) -> Built:
    """sqrt(a^2 + b^2), a the first half of the channels at each position."""
    half, odd = divmod(at.channels, 2)
    if odd or not half:
        raise place.error("type", f"reads a frame of an even number of channels, not {at.channels}")
    square = Activation(f"{at.name}.square", at.source, "square")
    parts: list[Node] = []
    for name, first in (("re", 0), ("im", half)):
        places = np.arange(at.positions)[:, None] * at.channels + first + np.arange(half)
        flat = places.reshape(-1).astype(np.float32)
        parts.append(Take(f"{at.name}.{name}", square.name, flat))
    power = Add(f"{at.name}.power", parts[0].name, (parts[1].name,))
    return [square, *parts, power, Activation(at.name, power.name, "sqrt")], half
