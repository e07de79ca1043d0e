"""Keras models, from their files alone: neither Keras nor TensorFlow is imported to read one."""

from __future__ import annotations

from pathlib import Path

from edge_rnn.graph import Input, Model, Node, value_widths
from edge_rnn_converters.detect import Format
from edge_rnn_converters.fold import fold
from edge_rnn_converters.keras.file import opened
from edge_rnn_converters.keras.graph import Layer, chain
from edge_rnn_converters.keras.layers import LAYERS, At, check
from edge_rnn_converters.keras.run import KerasRunner
from edge_rnn_converters.source import LAST_ONLY, WINDOW, Names, Options, Regime, Source

_RECURRENT = ("SimpleRNN", "LSTM", "GRU")


def read(path: Path, form: Format, options: Options) -> Source:
    """The model in a .keras file, or in an .h5 file of Keras 2 or 3.

    A last recurrent layer with return_sequences=False answers once, at a sequence's end; the
    stream answers at every step, with what the source would say if the sequence ended there.

    Raises UnsupportedError naming the layer and attribute that can't be run faithfully, ModelError
    for weights that do not fit their layers, MissingExtraError without h5py.
    """
    with opened(path, form) as file:
        shape, layers = _inputs(chain(file))
        model, notes = _build(shape, layers)
        regime = Regime(shape[1], any(map(_ends, layers)))
        run = KerasRunner(path, file.version, shape[0], shape[1], regime.ends)
    return Source(fold(model), f"keras {file.version}", notes, run, regime)


def _inputs(layers: list[Layer]) -> tuple[list[int | None], list[Layer]]:
    """The model's input shape, which an InputLayer or an old file's first layer declares, and
    the layers that compute."""
    first = layers[0]
    shape = first.config.get("batch_shape") or first.config.get("batch_input_shape")
    if not isinstance(shape, list) or len(shape) not in (2, 3):
        why = "expected (batch, steps, features), or (batch, steps) before an Embedding"
        raise first.refuse(f"shape {shape}", why, "give the model an Input of that shape")
    if len(shape) == 3 and not isinstance(shape[2], int):
        raise first.refuse(f"shape {shape}", "how many features?", "give the number in Input")
    return shape, layers[1:] if first.kind == "InputLayer" else layers


def _build(shape: list[int | None], layers: list[Layer]) -> tuple[Model, tuple[str, ...]]:
    """The layers as a model, and what its user should know of them."""
    names, index = Names(), len(shape) == 2
    x = Input(names.unique("x"), 1 if index else shape[2] or 0)
    model = Model((x,), (), (x.name,))
    notes = [WINDOW.format(shape[1], shape[1])] if shape[1] else []
    ended = False
    for layer in layers:
        check(layer)
        source = model.outputs[0]
        width, first = value_widths(model)[source], not model.nodes
        nodes = _nodes(layer, At(source, width, names.unique(layer.name), first, index, ended))
        model = Model((x,), (*model.nodes, *nodes), (nodes[-1].name if nodes else source,))
        if _ends(layer):
            ended = True
            notes.append(LAST_ONLY.format(f"{layer}: return_sequences=False"))
    return model, tuple(notes)


def _nodes(layer: Layer, at: At) -> list[Node]:
    nodes = LAYERS[layer.kind].build(layer, at)
    if nodes and at.first and at.index and layer.kind != "Embedding":
        why = "an input of shape (batch, steps) is for an Embedding"
        raise layer.refuse("input", why, "give the model an Input of (steps, features)")
    return nodes


def _ends(layer: Layer) -> bool:
    return layer.kind in _RECURRENT and not layer.flag("return_sequences")
