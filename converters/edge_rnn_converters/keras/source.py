"""Keras models, from their files alone: neither Keras nor TensorFlow is imported to read one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_rnn.graph import MAX_DIM, Input, Model, output_schedule
from edge_rnn_converters.detect import Format
from edge_rnn_converters.fold import fold
from edge_rnn_converters.keras import merging, recurrent, saved, sequences  # noqa: F401 - they register
from edge_rnn_converters.keras.file import opened
from edge_rnn_converters.keras.graph import Graph, Layer, Tensor, graph
from edge_rnn_converters.keras.layers import LAYERS, apply
from edge_rnn_converters.keras.network import Network, Value
from edge_rnn_converters.keras.recurrent import is_recurrent
from edge_rnn_converters.keras.run import Fed, KerasRunner
from edge_rnn_converters.source import LAST_ONLY, WINDOW, Options, Regime, Source, refuse

__all__ = ["LAYERS", "read"]


def read(path: Path, form: Format, options: Options) -> Source:
    """The model in a .keras file, in an .h5 file or a SavedModel folder of Keras 2 or 3.

    A model that answers once, at a sequence's end, answers in a stream at every step, with what
    the source would say if the sequence ended there. One that looks ahead needs a window, its
    input's or `options.window`.

    Raises UnsupportedError naming the layer and attribute that can't be run faithfully, ModelError
    for weights that do not fit their layers, MissingExtraError without pyfive.
    """
    file = saved.opened(path) if form == "saved-model" else opened(path, form)
    calls, net = graph(file), Network()
    declared = _declared(calls)
    inputs = _inputs(calls, net, declared or options.window)
    values, endings = _applied(calls, net, dict(inputs))
    outputs = [_output(calls, tensor, net, values) for tensor in calls.outputs]
    outputs = net.aligned(_made(calls, calls.outputs[0]), outputs)
    model = fold(
        Model(
            tuple(Input(x.name, x.width) for x in inputs.values()),
            tuple(net.nodes),
            tuple(x.name for x in outputs),
            mask=_mask(calls, net),
        )
    )
    if net.windowed and declared and options.window not in (None, declared):
        why = f"the model's input declares {declared} steps, and a layer needs to know them"
        raise refuse("model", f"windows of {options.window}", why, f"use --window {declared}")
    regime = Regime(None if _stateful(net) else declared, any(x.ended for x in outputs))
    run = KerasRunner(
        file,
        tuple(_fed(layer, inputs[tensor]) for layer, tensor in calls.inputs),
        _shape(calls.inputs[0][0])[0],
        declared or (options.window if net.windowed else None),
        regime.ends,
        None if model.looks_ahead else output_schedule(model),
    )
    notes = () if model.looks_ahead else tuple(_notes(regime, endings))
    return Source(model, f"keras {file.version}", notes, run, regime)


def _notes(regime: Regime, endings: Iterable[Layer]) -> Iterable[str]:
    if regime.window and regime.window > 1:
        yield WINDOW.format(regime.window, regime.window)
    for ending in dict.fromkeys(
        f"{layer}{': return_sequences=False' * ('return_sequences' in layer.config)}"
        for layer in endings
    ):
        yield LAST_ONLY.format(ending)


def _declared(calls: Graph) -> int | None:
    """The steps of a sequence that the inputs declare. Raises UnsupportedError for two lengths."""
    found = {}
    for layer, tensor in calls.inputs:
        shape = _shape(layer)
        if len(shape) > 2 or _reads_indices(calls, tensor):
            found[shape[1]] = layer
    lengths = sorted(n for n in found if n is not None and n != 1) or [n for n in found if n]
    if len(lengths) > 1:
        why = f"other inputs have {lengths[0]} steps"
        raise found[lengths[1]].refuse(f"{lengths[1]} steps", why, "give all as many")
    return lengths[0] if lengths else None


def _shape(layer: Layer) -> list[int | None]:
    """(batch, steps) of an index or (batch, features), (batch, steps, ...)."""
    shape = layer.config.get("batch_shape") or layer.config.get("batch_input_shape")
    if not isinstance(shape, list) or not 2 <= len(shape) <= 4:
        why = "expected (batch, steps, features), or (batch, steps) before an Embedding"
        raise layer.refuse(f"shape {shape}", why, "give the model an Input of that shape")
    if not all(isinstance(size, int) for size in shape[2:]):
        raise layer.refuse(f"shape {shape}", "how many features?", "give the number in Input")
    if any(size is not None and not 0 < size <= MAX_DIM for size in shape):
        raise layer.refuse(f"shape {shape}", f"expected sizes up to {MAX_DIM}", "use smaller ones")
    return shape


def _reads_indices(calls: Graph, tensor: Tensor) -> bool:
    """Is it an index a step, or a number a step that Reshape makes a feature of?"""
    readers = [call.layer for call in calls.calls if tensor in call.reads]
    return any(
        layer.kind == "Embedding"
        or (layer.kind == "Reshape" and list(layer.config.get("target_shape", []))[-1:] == [1])
        for layer in readers
    )


def _inputs(calls: Graph, net: Network, window: int | None) -> dict[Tensor, Value]:
    """What each of the model's inputs is. One without steps, or with one where others have more,
    is a vector that is given with every message and meant where the sequence ends."""
    found = {}
    for layer, tensor in calls.inputs:
        shape, name = _shape(layer), net.names.unique(layer.name.split("/")[-1])
        net.schedules[name] = output_schedule(Model((Input(name, 1),), (), (name,)))
        row = tuple(size or 0 for size in shape[2:])
        if len(shape) == 2 and not _reads_indices(calls, tensor):
            if not isinstance(shape[1], int):
                why = "an input of shape (batch, steps) is for an Embedding"
                raise layer.refuse("shape", why, "give it (steps, features)")
            found[tensor] = Value(name, (shape[1],), window, ended=True)
        elif shape[1] == 1 and (window or 1) > 1:
            found[tensor] = Value(name, (1, *row) if row else (), window, ended=True)
        else:
            found[tensor] = Value(name, row, window)
    return found


def _fed(layer: Layer, x: Value) -> Fed:
    rank = len(_shape(layer))
    if rank == 2 and x.shape:
        return Fed(x.width, x.shape, None, once=True)
    row = x.shape[1:] if x.ended else x.shape
    return Fed(x.width, row, 1 if x.ended else None, once=False)


def _applied(
    calls: Graph, net: Network, values: dict[Tensor, Value]
) -> tuple[dict[Tensor, Value], list[Layer]]:
    """All tensors of the graph, and the layers that make of a sequence its last answer."""
    endings = []
    for call in calls.calls:
        read = [_found(calls, tensor, values) for tensor in call.reads]
        results = apply(call.layer, net, read)
        if results[0].ended and not any(x.ended for x in read):
            endings.append(call.layer)
        values.update({(*call.makes, i): x for i, x in enumerate(results)})
    return values, endings


def _found(calls: Graph, tensor: Tensor, values: dict[Tensor, Value]) -> Value:
    if tensor not in values:
        raise _made(calls, tensor).refuse(
            "return_state=True", "its cell's state is used, which edge-rnn keeps itself",
            "use its outputs; the state h is the last of them",
        )  # fmt: skip
    return values[tensor]


def _made(calls: Graph, tensor: Tensor) -> Layer:
    """The layer whose result the tensor is."""
    makers = {call.makes: call.layer for call in calls.calls}
    if tensor[:2] not in makers:
        raise refuse("model", "outputs", "an input is an output", "leave that output out")
    return makers[tensor[:2]]


def _output(calls: Graph, tensor: Tensor, net: Network, values: dict[Tensor, Value]) -> Value:
    layer, x = _made(calls, tensor), _found(calls, tensor, values)
    if x.flat:
        raise layer.refuse("output", "is a whole window side by side", "leave Flatten out")
    return net.settled(layer, x)


def _mask(calls: Graph, net: Network) -> float | None:
    """What masks a step, which then no layer may see. Raises UnsupportedError where one would."""
    if net.mask is None:
        return None
    if len(calls.inputs) > 1:
        why = "masks one of several inputs, and a message is skipped whole or not at all"
        raise refuse("model", "mask", why, "train it without masking")
    for layer, x in net.remembering:
        if not x.masked or not is_recurrent(layer):
            why = "sees the steps that another layer masks, and a masked message is skipped"
            raise layer.refuse("mask", why, "train it without masking")
    return net.mask


def _stateful(net: Network) -> bool:
    """Does the model carry its state from one sequence to the next?

    Raises UnsupportedError where only some of its layers do.
    """
    keeps = [layer.flag("stateful") for layer, _ in net.remembering]
    if any(keeps) and not all(keeps):
        layer = net.remembering[keeps.index(True)][0]
        why = "keeps its state from sequence to sequence, and other layers do not"
        raise layer.refuse("stateful=True", why, "set it in all layers, or in none")
    return any(keeps)
