"""The recurrent Keras layers, forward, backward and both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edge_rnn.graph import Act, Add, Concat, Gru, Lstm, Multiply, Node, Rnn
from edge_rnn_converters import gates
from edge_rnn_converters.keras.graph import Layer
from edge_rnn_converters.keras.layers import check, check_vector, layer, shaped
from edge_rnn_converters.keras.network import Network, Value
from edge_rnn_converters.keras.pointwise import scaled

_SEQUENCE = "return_sequences return_state stateful unroll go_backwards "
_CELL = "units activation use_bias dropout recurrent_dropout "


@layer("SimpleRNN", _SEQUENCE + _CELL, "")
@layer("LSTM", _SEQUENCE + _CELL + "recurrent_activation", "")
@layer(
    "GRU", _SEQUENCE + _CELL + "recurrent_activation reset_after", "`reset_after` true and false"
)
@layer("CuDNNLSTM CuDNNGRU", _SEQUENCE + "units", "cuDNN's layout of weights")
@layer("RNN", _SEQUENCE + "cell", "around LSTMCell, GRUCell, SimpleRNNCell and stacks of them")
def _recurrent(layer: Layer, net: Network, x: Value) -> tuple[Value, ...]:
    """The outputs, and the last of them, which is the state h."""
    y = _run(layer, net, x)
    last = replace(y, ended=True)
    return y if layer.flag("return_sequences") else last, last


@layer("Bidirectional", "layer backward_layer merge_mode", "in windows; every merge_mode")
def _bidirectional(layer: Layer, net: Network, x: Value) -> tuple[Value, ...]:
    """Both directions over the window, the backward one's outputs turned round again.

    Of a layer that answers once, each direction's last row is its answer.
    """
    forward, backward = directions(layer)
    ways = [_run(replace(way, name=layer.name), net, x) for way in (forward, backward)]
    if forward.flag("return_sequences"):
        ways[1] = net.reversed(layer, "its backward layer", ways[1])
    else:
        ways = [replace(way, ended=True) for way in ways]
    mode = layer.config.get("merge_mode", "concat")
    if mode is None:
        return tuple(ways)
    if mode not in _MODES:
        raise layer.refuse(f"merge_mode={mode}", "is not one of Keras's", "use concat")
    kind = _MODES[mode]
    width = sum(way.width for way in ways) if kind is Concat else ways[0].width
    y = ways[0].features(net.put(kind, layer.name, ways[0].name, (ways[1].name,)), width)
    return (scaled(net, layer.name, y, 0, 0.5, 0) if mode == "ave" else y,)


_MODES: dict[str, type[Node]] = {"concat": Concat, "sum": Add, "ave": Add, "mul": Multiply}


def is_recurrent(layer: Layer) -> bool:
    """Is it a layer of cells, which a masked step leaves as they were?"""
    return layer.kind in _RECURRENT


def directions(layer: Layer) -> tuple[Layer, Layer]:
    """The forward and the backward layer of a Bidirectional; without a backward one of its own
    that is the forward one the other way."""
    entry = layer.config["layer"]
    other = {"go_backwards": not entry["config"].get("go_backwards")}
    back = layer.config.get("backward_layer") or {
        **entry, "config": {**entry["config"], **other}
    }  # fmt: skip
    cut = _weights(layer.part(entry, ()))
    ways = layer.part(entry, layer.weights[:cut]), layer.part(back, layer.weights[cut:])
    for way in ways:
        if way.kind not in _RECURRENT:
            raise layer.refuse(f"layer {way}", "is not a recurrent layer", "use LSTM or GRU")
        check(way)
        if way.flag("return_state"):
            why = "its states would be outputs, which edge-rnn keeps itself"
            raise layer.refuse("return_state=True", why, "save it with return_state=False")
    return ways


def _run(layer: Layer, net: Network, x: Value) -> Value:
    """The layer's outputs, one for each row, in the order in which it reads them."""
    if x.ended:
        raise layer.refuse(
            "input", "it reads the one last step of the layer before, or a vector without steps",
            "set return_sequences=True there",
        )  # fmt: skip
    check_vector(layer, x)
    net.remembering.append((layer, x))
    if layer.flag("go_backwards"):
        x = net.reversed(layer, "go_backwards=True", x)
    for cell in cells(layer):
        build = _CELLS[cell.kind.removesuffix("Cell")]
        node = _begun(cell, build(cell, net.names.unique(layer.name), x))
        x = x.features(net.add(node), cell.count("units"))
    return x


def _begun(cell: Layer, node: Node) -> Node:
    """The node, its states beginning at the constants that the layer is called with."""
    if not cell.initial:
        return node
    if cell.flag("stateful"):
        why = "keeps its state from sequence to sequence, and is set back by initial_state"
        raise cell.refuse("stateful=True", why, "leave one of them out")
    wanted, found = (cell.count("units"),), [a.shape for a in cell.initial]
    slots = ("h", "c") if cell.kind == "LSTM" else ("h",)
    if found != [wanted] * len(slots):
        why = f"has shapes {found}, expected {len(slots)} of {wanted}"
        raise cell.refuse("call argument initial_state", why, "give one row of units for each")
    begun: dict[str, Any] = {f"initial_{s}": a for s, a in zip(slots, cell.initial, strict=True)}
    return replace(node, **begun)


def cells(layer: Layer) -> list[Layer]:
    """The cells that the layer runs, one after the other, each with its weights."""
    entries = [layer.config["cell"]] if layer.kind == "RNN" else []
    if entries and entries[0]["class_name"] == "StackedRNNCells":
        entries = entries[0]["config"]["cells"]
    found, weights = [layer] if not entries else [], layer.weights
    for entry in entries:
        cell = layer.part(entry, ())
        if cell.kind not in _CELL_KINDS:
            raise layer.refuse(f"cell {cell.kind!r}", *_CUSTOM)
        check(replace(cell, kind=cell.kind.removesuffix("Cell")))
        n = _weights(cell)
        found.append(replace(cell, weights=weights[:n]))
        weights = weights[n:]
    return found


_CUSTOM = "is none of Keras's own", "use LSTMCell, GRUCell or SimpleRNNCell"


def _weights(layer: Layer) -> int:
    """How many weights a recurrent layer or cell has."""
    config = layer.config.get("cell")
    if isinstance(config, dict):
        inner = config["config"].get("cells", [config])
        return sum(_weights(layer.part(cell, ())) for cell in inner)
    return 2 + layer.flag("use_bias", True)


def _act(layer: Layer, attribute: str, default: str) -> Act:
    name = layer.text(attribute, default)
    act = gates.keras_act(name, layer.version)
    if act is None:
        why = f"not an activation a cell has ({', '.join(gates.KERAS_ACTS)})"
        raise layer.refuse(f"{attribute}={name}", why, "train with one of those")
    return act


def _cell(layer: Layer, x: Value, blocks: int, two_biases: bool = False) -> gates.Cell:
    """The weights of a cell: kernel (I, kH), recurrent kernel (H, kH), bias."""
    H = layer.count("units")
    bias = (2, blocks * H) if two_biases else (blocks * H,)
    shapes = [(x.width, blocks * H), (H, blocks * H)]
    w, u, *b = shaped(layer, *shapes, *([bias] if layer.flag("use_bias", True) else []))
    both = gates.keras_biases(b[0] if b else np.zeros(bias, np.float32), blocks * H)
    return gates.Cell("keras", w.T, u.T, *both)


def _rnn(layer: Layer, name: str, x: Value) -> Rnn:
    return gates.rnn(name, x.name, _cell(layer, x, 1), _act(layer, "activation", "tanh"))


def _lstm(layer: Layer, name: str, x: Value) -> Lstm:
    gate, act = _act(layer, "recurrent_activation", "sigmoid"), _act(layer, "activation", "tanh")
    return gates.lstm(name, x.name, _cell(layer, x, 4), gate, act, act)


def _gru(layer: Layer, name: str, x: Value) -> Gru:
    after = layer.flag("reset_after", layer.kind == "GRUCell")
    gate, act = _act(layer, "recurrent_activation", "sigmoid"), _act(layer, "activation", "tanh")
    cell = _cell(layer, x, 3, two_biases=after)
    return gates.gru(name, x.name, cell, "after" if after else "before", gate, act)


def _cudnn(layer: Layer, x: Value, blocks: int) -> gates.Cell:
    H = layer.count("units")
    w, u, b = shaped(
        layer, (x.width, blocks * H), (H, blocks * H), (2 * blocks * H,)
    )  # fmt: skip
    return gates.cudnn_cell(w, u, b, blocks)


def _cudnn_lstm(layer: Layer, name: str, x: Value) -> Lstm:
    return gates.lstm(name, x.name, _cudnn(layer, x, 4), "sigmoid", "tanh", "tanh")


def _cudnn_gru(layer: Layer, name: str, x: Value) -> Gru:
    return gates.gru(name, x.name, _cudnn(layer, x, 3), "after", "sigmoid", "tanh")


_CELLS: dict[str, Callable[[Layer, str, Value], Node]] = {
    "SimpleRNN": _rnn, "LSTM": _lstm, "GRU": _gru,
    "CuDNNLSTM": _cudnn_lstm, "CuDNNGRU": _cudnn_gru,
}  # fmt: skip
_CELL_KINDS = ("SimpleRNNCell", "LSTMCell", "GRUCell")
_RECURRENT = (*_CELLS, "RNN")
