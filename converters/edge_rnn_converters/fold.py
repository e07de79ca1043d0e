"""Fewer nodes for the same numbers: no merge here rounds a weight a second time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_rnn.graph import (
    F32,
    Activation,
    Conv1d,
    Dense,
    FrameConv,
    LayerNorm,
    Model,
    Node,
    RmsNorm,
    Scale,
    reads,
)


def fold(model: Model) -> Model:
    """The model with biases and activations taken into the dense layers before them, and
    subtract-then-scale-then-add chains made one Scale each."""
    nodes: list[Node] = []
    for node in model.nodes:
        merged = _merge(nodes[-1], node) if nodes and _follows(model, nodes[-1], node) else None
        if merged is not None:
            nodes.pop()
        nodes.append(merged or node)
    return replace(model, nodes=tuple(nodes))


def _follows(model: Model, first: Node, second: Node) -> bool:
    """Does the second read the first, and nothing else do?"""
    readers = [n for n in model.nodes if first.name in reads(n)]
    return readers == [second] and first.name not in model.outputs


def _merge(first: Node, second: Node) -> Node | None:
    match first, second:
        case ((Dense(act="linear") | Conv1d(act="linear") | FrameConv(act="linear")), Activation()):
            return replace(first, name=second.name, act=second.act)
        case Dense(act="linear"), Scale() if _all(second.scale, 1):
            return replace(first, name=second.name, b=first.b - second.offset + second.shift)
        case LayerNorm(), Scale() if _all(first.bias, 0) and _all(second.offset, 0):
            if _all(first.gain, 1) or _all(second.scale, 1):
                gain = first.gain * second.scale
                return replace(first, name=second.name, gain=gain, bias=second.shift)
        case RmsNorm(), Scale() if _all(second.offset, 0) and _all(second.shift, 0):
            if _all(first.gain, 1):
                return replace(first, name=second.name, gain=second.scale)
        case Scale(), Scale() if _all(first.shift, 0) and _all(second.offset, 0):
            if _all(first.scale, 1) or _all(second.scale, 1):
                scale = first.scale * second.scale
                return replace(first, name=second.name, scale=scale, shift=second.shift)
    return None


def _all(a: F32, value: float) -> bool:
    return bool(np.all(a == value))
