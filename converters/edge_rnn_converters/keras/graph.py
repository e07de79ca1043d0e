"""From a Keras configuration to its layers' calls in the order in which they are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Any, TypeAlias

import numpy as np

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32
from edge_rnn_converters.keras.file import Json, KerasFile, entries, is_model
from edge_rnn_converters.source import refuse

Tensor: TypeAlias = tuple[str, int, int]
"""A value of a graph: the layer that makes it, at which of its calls, which of its results."""

TAKEN_APART = {
    "TimeDistributed": "around layers and models that see one step, or convolve within it",
    "Sequential": "inside another model too",
    "Functional": "inside another model too",
    "Model": "inside another model too",
}
"""What the manual says of what this module takes apart, so that no layer is left of it."""

_OPERATIONS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Concatenate")


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer as its file describes it; `version` is the Keras major that wrote it. `inside` says
    that it is applied to each step by itself, as TimeDistributed does; `initial` are the constants
    that it is called with as its states before the first step."""

    kind: str
    name: str
    version: int
    config: Json
    weights: tuple[F32, ...] = ()
    inside: bool = False
    initial: tuple[F32, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    def refuse(self, attribute: str, why: str, way_out: str) -> UnsupportedError:
        """The refusal of this layer for what `attribute` holds."""
        return refuse(str(self), attribute, why, way_out)

    def flag(self, attribute: str, default: bool = False) -> bool:
        """A true-or-false attribute."""
        return bool(self.config.get(attribute, default))

    def number(self, attribute: str, default: float) -> float:
        """A number; `default` where the file has none. Raises ModelError."""
        value = self.config.get(attribute, default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, int | float):
            raise ModelError(f"{self}: {attribute} is {value!r}, expected a number")
        return float(value)

    def count(self, attribute: str, default: int = 0) -> int:
        """A whole number. Raises ModelError."""
        return int(self.number(attribute, default))

    def text(self, attribute: str, default: str) -> str:
        """A name, as of an activation; anything else, as a custom object, comes as its JSON."""
        value = self.config.get(attribute, default)
        return default if value is None else str(value)

    def part(self, entry: Json, weights: tuple[F32, ...]) -> Layer:
        """A layer or cell that this one holds, with those weights of this one that are its."""
        inner = _layer(entry, self.version, weights)
        return replace(inner, name=self.name, inside=self.inside)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A layer applied to values; its results are the tensors (*makes, 0), (*makes, 1), ..."""

    layer: Layer
    reads: tuple[Tensor, ...]
    makes: tuple[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The model's input layers and the calls of the others, each after those whose results it
    reads; `inputs` and `outputs` in the model's order."""

    inputs: tuple[tuple[Layer, Tensor], ...]
    calls: tuple[Call, ...]
    outputs: tuple[Tensor, ...]


def graph(file: KerasFile) -> Graph:
    """The model's graph, the models and wrappers inside it taken apart.

    Raises UnsupportedError for a model of its own class, and for layers of their own classes.
    """
    entry = file.config
    if not is_model(entry):
        raise refuse(
            f"model class {str(entry.get('class_name'))!r}", "class_name",
            "its computation is Python code, not layers",
            "build it as a Sequential or Functional model",
        )  # fmt: skip
    flat = _Flat(file, [], [])
    outputs = flat.model(entry, (), None, inside=False)
    return Graph(tuple(flat.inputs), tuple(flat.calls), tuple(outputs))


@dataclass(slots=True)
class _Flat:
    """Calls collected from models in models; a name is after those of the models that it is in."""

    file: KerasFile
    inputs: list[tuple[Layer, Tensor]]
    calls: list[Call]

    def model(
        self, entry: Json, scope: tuple[str, ...], given: list[Tensor] | None, *, inside: bool
    ) -> list[Tensor]:
        """The model's outputs when it reads `given`; None: it reads inputs of its own."""
        if entry["class_name"] == "Sequential":
            return self._sequential(entry, scope, given, inside)
        config = entry["config"]
        wanted = {_name(e): e for e in entries(entry)}
        known: dict[Tensor, Tensor] = {}
        for i, (name, _, _) in enumerate(_ends(config.get("input_layers"))):
            own = self._input(wanted[name], scope) if given is None else given[i]
            known[name, 0, 0] = own
        for name, call, (reads, arguments) in _ordered(wanted, _ends(config.get("output_layers"))):
            initial = _initial(wanted[name], arguments)
            _check_call(wanted[name], arguments, "initial_state" if initial else "")
            read = [known[tensor] for tensor in reads]
            made = self._apply(wanted[name], scope, call, read, inside, initial)
            known.update({(name, call, i): tensor for i, tensor in enumerate(made)})
        return [known[tensor] for tensor in _ends(config.get("output_layers"))]

    def _sequential(
        self, entry: Json, scope: tuple[str, ...], given: list[Tensor] | None, inside: bool
    ) -> list[Tensor]:
        listed = entries(entry)
        if listed and listed[0]["class_name"] == "InputLayer":
            first, listed = listed[0], listed[1:]
        else:
            first = _declared(entry, listed)
        at = [self._input(first, scope)] if given is None else given
        for layer in listed:
            at = self._apply(layer, scope, 0, at[:1], inside)[:1]
        return at

    def _input(self, entry: Json, scope: tuple[str, ...]) -> Tensor:
        name = "/".join((*scope, _name(entry)))
        layer = Layer("InputLayer", name, self.file.major, entry["config"])
        tensor = (f"input {name}", 0, 0)
        self.inputs.append((layer, tensor))
        return tensor

    def _apply(
        self, entry: Json, scope: tuple[str, ...], call: int, reads: list[Tensor], inside: bool,
        initial: tuple[F32, ...] = (),
    ) -> list[Tensor]:  # fmt: skip
        """One call of a layer, or of a model, which is that of its layers."""
        names = (*scope, _name(entry))
        if entry["class_name"] == "TimeDistributed":
            wrapped = entry["config"]["layer"]
            if is_model(wrapped):
                return self.model(wrapped, (*names, _name(wrapped)), reads, inside=True)
            entry, inside = wrapped, True
        elif is_model(entry):
            return self.model(entry, names, reads, inside=inside)
        layer = _layer(entry, self.file.major, self.file.weights(names))
        layer = replace(layer, name="/".join(names), inside=inside, initial=initial)
        makes = f"{len(self.calls)} {layer.name}", call
        self.calls.append(Call(layer, tuple(reads), makes))
        return [(*makes, i) for i in range(_RESULTS)]


_RESULTS = 8
"""More than any layer has: an output, and the states of two directions."""


def _layer(entry: Json, version: int, weights: tuple[F32, ...]) -> Layer:
    kind, config = str(entry["class_name"]), entry["config"]
    layer = Layer(kind, str(config.get("name", "")), version, config, weights)
    module, registered = entry.get("module"), entry.get("registered_name")
    ours = module is None or (module.split(".")[0] in ("keras", "tf_keras") and "layers" in module)
    operation = str(module).startswith("keras.src.ops.numpy") and kind in _OPERATIONS
    if not (ours or operation) or registered not in (None, kind):
        raise layer.refuse(
            f"module {module!r}, registered_name {registered!r}",
            "a class of its own may compute anything", "use Keras's own layers",
        )  # fmt: skip
    return layer


def _declared(entry: Json, listed: list[Json]) -> Json:
    """The input layer of a Sequential model that has none: its first layer, or its own record of
    what it was built with, says the shape."""
    config = entry["config"] if isinstance(entry["config"], dict) else {}
    first = listed[0] if listed else entry
    shape = first["config"].get("batch_input_shape") or config.get("build_input_shape")
    return {"class_name": "InputLayer", "config": {"name": "x", "batch_shape": shape}}


def _name(entry: Json) -> str:
    return str(entry.get("name") or entry["config"]["name"])


def _ordered(
    wanted: dict[str, Json], outputs: list[Tensor]
) -> Iterator[tuple[str, int, tuple[list[Tensor], Json]]]:
    """(layer, which call of it, what that reads and its arguments), each after what it reads.

    Raises graphlib.CycleError, a ValueError, for a graph with a loop.
    """
    made = {name: list(map(_call, e.get("inbound_nodes") or [])) for name, e in wanted.items()}
    read = [*outputs, *(x for listed in made.values() for reads, _ in listed for x in reads)]
    calls = {
        (name, i): call
        for name, listed in made.items()
        for i, call in enumerate(listed, _first(name, len(listed), read))
    }
    sorter: TopologicalSorter[tuple[str, int]] = TopologicalSorter()
    for key, (reads, _) in calls.items():
        sorter.add(key, *(tensor[:2] for tensor in reads))
    for name, i in sorter.static_order():
        if (name, i) in calls:
            yield name, i, calls[name, i]


def _first(name: str, calls: int, read: list[Tensor]) -> int:
    """The number of a layer's first call: Keras 2 counts a model inside from 1, as it was called
    when it was made."""
    numbers = [call for layer, call, _ in read if layer == name]
    return max(0, max(numbers, default=0) - max(calls - 1, 0))


def _ends(layers: Any) -> list[Tensor]:
    """["a", 0, 0] and [["a", 0, 0], ...] as tensors; they may stand under names."""
    if isinstance(layers, dict):
        return [tensor for value in layers.values() for tensor in _ends(value)]
    if not isinstance(layers, list):
        raise ModelError(f"the configuration's inputs or outputs are {layers!r}")
    if layers and isinstance(layers[0], str):
        return [(str(layers[0]), int(layers[1]), int(layers[2]))]
    return [tensor for value in layers for tensor in _ends(value)]


def _initial(entry: Json, arguments: Json) -> tuple[F32, ...]:
    """The constants that a cell is called with as its first states; each (units,), the same for all
    of a batch.

    Raises UnsupportedError where they are anything else.
    """
    given = arguments.get("initial_state")
    if given is None or entry["class_name"] not in _BEGINNING:
        return ()
    states = given if isinstance(given, list) else [given]
    values = [s["config"]["value"] for s in states
              if isinstance(s, dict) and s.get("class_name") == "__tensor__"]  # fmt: skip
    rows = [np.atleast_2d(np.asarray(value, np.float32)) for value in values]
    if len(rows) < len(states) or any(np.any(a != a[0]) for a in rows):
        why = "is computed, or not the same for all of a batch; a stream begins alone, at constants"
        way_out = "begin at zeros or at constants"
        label = f"{entry['class_name']} {_name(entry)!r}"
        raise refuse(label, "call argument initial_state", why, way_out)
    return tuple(a[0] for a in rows)


_BEGINNING = ("SimpleRNN", "LSTM", "GRU")


def _check_call(entry: Json, arguments: Json, read: str) -> None:
    """Raises UnsupportedError for an argument, besides one that is read, that changes anything."""
    label = f"{entry['class_name']} {_name(entry)!r}"
    for name, value in arguments.items():
        if name != read and value not in (None, False) and (name, value) != ("axis", -1):
            way_out = "call the layer with its inputs alone"
            raise refuse(label, f"call argument {name}", "only plain calls convert", way_out)


def _call(call: Any) -> tuple[list[Tensor], Json]:
    """The tensors that a call reads and its keyword arguments."""
    if isinstance(call, dict):
        reads, arguments = list(_histories(call["args"])), call.get("kwargs") or {}
        if not reads and "inputs" in arguments:
            reads = list(_histories([arguments.pop("inputs")]))
        return reads, arguments
    nodes = [call] if call and isinstance(call[0], str) else call  # Keras 2: [[layer, node, ...
    arguments = {k: v for x in nodes if len(x) > 3 for k, v in x[3].items()}
    return [(str(x[0]), int(x[1]), int(x[2])) for x in nodes], arguments


def _histories(value: Any) -> Iterator[Tensor]:
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        layer, node, tensor = value["config"]["keras_history"]
        yield str(layer), int(node), int(tensor)
    elif isinstance(value, list):
        for item in value:
            yield from _histories(item)
