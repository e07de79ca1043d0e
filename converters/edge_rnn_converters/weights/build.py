"""A described network as our nodes: gate orders, axes and the order inside frames are ours here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Literal, TypeAlias

import numpy as np

from edge_rnn.errors import ModelError
from edge_rnn.graph import (
    F32,
    Activation,
    Concat,
    Dense,
    Embedding,
    Input,
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Lstm,
    Matrix,
    Model,
    Node,
    PRelu,
    Reverse,
    RmsNorm,
    Scale,
    Softmax,
    value_dimensions,
)
from edge_rnn_converters import gates
from edge_rnn_converters.source import Names
from edge_rnn_converters.weights import schema, windows
from edge_rnn_converters.weights.cells import Level, levels
from edge_rnn_converters.weights.layer import At, Built, Place

Make: TypeAlias = Callable[[str, str, gates.Cell], Node]
"""(node's name, value that it reads, weights) -> node."""


def build(places: Sequence[Place], width: int) -> Model:
    """The layers, one after the other, reading messages of `width` numbers.

    Raises ConfigError, at the layer's line, where arrays and keys don't fit.
    """
    taken = Names()
    x = Input(taken.unique("x"), width)
    widths, nodes, value, channels = {x.name: width}, list[Node](), x.name, 0
    for place in places:
        at = At(value, widths[value], taken.unique(place.label), channels)
        made, channels = layer_nodes(place.keys, place, at)
        for node in made:
            try:
                widths[node.name] = value_dimensions(node, widths)[node.OUTPUT]
            except ModelError as e:
                raise place.error("type", str(e)) from e
        nodes += made
        value = nodes[-1].name
    return Model((x,), tuple(nodes), (value,))


@singledispatch
def layer_nodes(keys: schema.Layer, place: Place, at: At) -> Built:
    """The nodes of one layer, and the channels of the frame that they make, 0 if it is none."""
    raise NotImplementedError(type(keys).__name__)


layer_nodes.register(schema.Conv1d, windows.convolution)
layer_nodes.register(schema.Pool, windows.pool)
layer_nodes.register(schema.Pad, windows.pad)
layer_nodes.register(schema.Magnitude, windows.magnitude)


@layer_nodes.register
def _(keys: schema.Rnn, place: Place, at: At) -> Built:
    return _stack(
        place, at, keys.KIND, lambda name, x, cell: gates.rnn(name, x, cell, keys.activation)
    )


@layer_nodes.register
def _(keys: schema.Lstm, place: Place, at: At) -> Built:
    act, gate = keys.activation, keys.recurrent_activation
    return _stack(
        place, at, keys.KIND, lambda name, x, cell: gates.lstm(name, x, cell, gate, act, act)
    )


@layer_nodes.register
def _(keys: schema.Gru, place: Place, at: At) -> Built:
    act, gate, reset = keys.activation, keys.recurrent_activation, _reset(keys, place)
    return _stack(
        place, at, keys.KIND, lambda name, x, cell: gates.gru(name, x, cell, reset, gate, act)
    )


def _reset(keys: schema.Gru, place: Place) -> Literal["before", "after"]:
    if keys.reset is not None:
        return keys.reset
    if place.layout == "pytorch":
        return "after"
    if place.layout == "keras" and "bias" in place.arrays:
        return "after" if place.arrays["bias"].ndim == 2 else "before"
    raise place.error("reset", 'missing; the arrays don\'t tell: "before" or "after"')


def _stack(place: Place, at: At, kind: gates.Kind, make: Make) -> Built:
    """Each level reads the one before."""
    first, *others = levels(place, kind)
    source, nodes = at.source, list[Node]()
    for k, level in enumerate((_reading(place, at, first), *others)):
        name = f"{at.name}.l{k}" if others else at.name
        nodes += _directions(level, name, source, make)
        source = name
    return nodes, 0


def _reading(place: Place, at: At, level: Level) -> Level:
    """A stack's first level, whose weights are of what stands before it."""
    cell = replace(level.cell, w=columns(place, at, level.cell.w))
    back = level.backward and _reading(place, at, level.backward)
    return replace(level, cell=cell, backward=back)


def _directions(level: Level, name: str, source: str, make: Make) -> list[Node]:
    """The level's nodes, the last of which has its name."""
    if level.backward is None:
        return [_level(level, name, source, make)]
    ahead, turned, back, there = (f"{name}.{part}" for part in ("ahead", "turned", "back", "there"))
    return [
        _level(level, ahead, source, make),
        Reverse(turned, source),
        _level(level.backward, back, turned, make),
        Reverse(there, back),
        Concat(name, ahead, (there,)),
    ]


def _level(level: Level, name: str, source: str, make: Make) -> Node:
    node = make(name, source, level.cell)
    if level.projection is not None and isinstance(node, Lstm):
        return replace(node, projection=Matrix(level.projection))
    return node


def columns(place: Place, at: At, w: F32) -> F32:
    """Weights (rows, width) of what reads a frame flattened: its framework's order made ours.

    PyTorch and ONNX keep channels before positions, so that a flattened frame has all positions
    of channel 0 first; Keras and we keep positions first.
    """
    if w.shape[1] != at.width:
        raise place.error(
            "weights", f"its weights read {w.shape[1]} numbers, the layer before makes {at.width}"
        )
    if at.channels < 2 or place.layout == "keras":
        return w
    apart = w.reshape(len(w), at.channels, at.positions)
    return np.ascontiguousarray(apart.transpose(0, 2, 1).reshape(w.shape))


@layer_nodes.register
def _(keys: schema.Linear, place: Place, at: At) -> Built:
    w = place.weight(2)
    b = place.vector("bias", len(w), 0)
    return [Dense(at.name, at.source, Matrix(columns(place, at, w)), b, keys.activation)], 0


@layer_nodes.register
def _(keys: schema.Embedding, place: Place, at: At) -> Built:
    if place.index:
        raise place.error("type", "an embedding is the first layer: a message is its index")
    table = place.given("weight", None, None)
    return [Embedding(at.name, at.source, Matrix(table))], 0


@layer_nodes.register
def _(keys: schema.LayerNorm, place: Place, at: At) -> Built:
    _no_frame(place, at)
    gain, bias = place.vector("weight", at.width, 1), place.vector("bias", at.width, 0)
    return [LayerNorm(at.name, at.source, gain, bias, place.epsilon(keys.epsilon))], 0


@layer_nodes.register
def _(keys: schema.RmsNorm, place: Place, at: At) -> Built:
    _no_frame(place, at)
    gain = place.vector("weight", at.width, 1)
    return [RmsNorm(at.name, at.source, gain, place.epsilon(keys.epsilon))], 0


def _no_frame(place: Place, at: At) -> None:
    if at.channels and at.positions > 1:
        raise place.error("type", "over all positions of a frame: only batch_norm is read there")


@layer_nodes.register
def _(keys: schema.BatchNorm, place: Place, at: At) -> Built:
    """weight (x - mean) / sqrt(variance + epsilon) + bias, of each channel at each position."""
    n = at.channels or at.width
    gain, shift = place.vector("weight", n, 1), place.vector("bias", n, 0)
    mean, variance = (place.given(r, n) for r in ("running_mean", "running_var"))
    scale = gain / np.sqrt(variance.astype(np.float64) + place.epsilon(keys.epsilon))
    each = (np.tile(a.astype(np.float32), at.width // n) for a in (mean, scale, shift))
    return [Scale(at.name, at.source, *each)], at.channels


@layer_nodes.register
def _(keys: schema.PRelu, place: Place, at: At) -> Built:
    w = place.given("weight", None)
    n = at.channels or at.width
    if len(w) not in (1, n):
        raise place.error("weights", f"{len(w)} slopes for {n} channels")
    return [PRelu(at.name, at.source, np.tile(w, at.width // len(w)))], at.channels


@layer_nodes.register
def _(keys: schema.Activation, place: Place, at: At) -> Built:
    return [Activation(at.name, at.source, keys.act)], at.channels


@layer_nodes.register
def _(keys: schema.L2Norm, place: Place, at: At) -> Built:
    _no_frame(place, at)
    return [L2Norm(at.name, at.source, keys.epsilon)], 0


@layer_nodes.register
def _(keys: schema.Softmax, place: Place, at: At) -> Built:
    _no_frame(place, at)
    return [Softmax(at.name, at.source)], 0


@layer_nodes.register
def _(keys: schema.LogSoftmax, place: Place, at: At) -> Built:
    _no_frame(place, at)
    return [LogSoftmax(at.name, at.source)], 0


def input_width(place: Place) -> int | None:
    """The numbers in a message that the first layer's arrays tell of, None if they don't."""
    keys = place.keys
    match keys:
        case schema.Embedding():
            return 1
        case schema.Rnn() | schema.Lstm() | schema.Gru():
            return int(levels(place, keys.KIND)[0].cell.w.shape[1])
        case schema.Linear():
            return int(place.weight(2).shape[1])
        case schema.Conv1d(frame=False):
            return int(place.weight(3).shape[1]) * keys.groups
        case schema.LayerNorm() | schema.RmsNorm() | schema.BatchNorm():
            return len(next(iter(place.arrays.values())))
    return None
