"""From a Keras configuration to its layers in the order they are applied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32
from edge_rnn_converters.keras.file import Json, KerasFile
from edge_rnn_converters.source import refuse

_LINEAR = "convert a model whose layers form one chain, from one input to one output"


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer as its file describes it; `version` is the Keras major that wrote it."""

    kind: str
    name: str
    version: int
    config: Json
    weights: tuple[F32, ...]

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
        if not isinstance(value, int | float):
            raise ModelError(f"{self}: {attribute} is {value!r}, expected a number")
        return float(value)

    def text(self, attribute: str, default: str) -> str:
        """A name, as of an activation; anything else, as a custom object, comes as its JSON."""
        value = self.config.get(attribute, default)
        return default if value is None else str(value)

    def inner(self) -> Layer:
        """The layer that a wrapper wraps; it has the wrapper's weights."""
        entry = self.config["layer"]
        return _layer(entry, self.version, self.weights)


def chain(file: KerasFile) -> list[Layer]:
    """The model's layers from input to output, input layers included.

    Raises UnsupportedError for a model of another shape than a chain or of classes of its own.
    """
    kind, config = str(file.config.get("class_name")), file.config.get("config")
    if kind == "Sequential":
        entries = config if isinstance(config, list) else _entries(config)
    elif kind in ("Functional", "Model"):
        entries = list(_walk(_entries(config), config))
    else:
        raise refuse(
            f"model class {kind!r}", "class_name", "its computation is Python code, not layers",
            "build it as a Sequential or Functional model",
        )  # fmt: skip
    names = [str(entry["config"].get("name", "")) for entry in entries]
    return [_layer(e, file.major, file.weights(n)) for e, n in zip(entries, names, strict=True)]


def _entries(config: Any) -> list[Json]:
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        raise ModelError("the configuration holds no list of layers")
    return list(config["layers"])


def _layer(entry: Json, version: int, weights: tuple[F32, ...]) -> Layer:
    kind, config = str(entry["class_name"]), entry["config"]
    layer = Layer(kind, str(config.get("name", "")), version, config, weights)
    module, registered = entry.get("module"), entry.get("registered_name")
    ours = module is None or (module.split(".")[0] in ("keras", "tf_keras") and "layers" in module)
    if not ours or registered not in (None, kind, "Functional"):
        raise layer.refuse(
            f"module {module!r}, registered_name {registered!r}",
            "a class of its own may compute anything", "use Keras's own layers",
        )  # fmt: skip
    return layer


def _walk(entries: list[Json], config: Any) -> Iterator[Json]:
    """A Functional model's entries, in order, if each reads exactly the one before."""
    ends = [_flat(config.get(key)) for key in ("input_layers", "output_layers")]
    for what, layers in zip(("inputs", "outputs"), ends, strict=True):
        if len(layers) != 1:
            raise refuse("model", f"{what} {layers}", f"{len(layers)} {what}", _LINEAR)
    sources = {_name(entry): _source(entry) for entry in entries}
    order, name = [_name_of(ends[1])], ends[1][0]
    while (source := sources[name]) is not None and len(order) <= len(entries):
        order.append(source)
        name = source
    left = sorted(set(sources) - set(order))
    if left or len(order) != len(entries):
        raise refuse("model", f"layers {left}", "are beside the chain or form a loop", _LINEAR)
    by_name = {_name(entry): entry for entry in entries}
    return (by_name[name] for name in reversed(order))


def _name(entry: Json) -> str:
    return str(entry.get("name") or entry["config"]["name"])


def _name_of(layers: list[str]) -> str:
    return layers[0]


def _flat(layers: Any) -> list[str]:
    """["a", 0, 0] and [["a", 0, 0], ...] as names."""
    if not isinstance(layers, list):
        return []
    return [layers[0]] if layers and isinstance(layers[0], str) else [x[0] for x in layers]


def _source(entry: Json) -> str | None:
    """The layer that this one reads, None for an input."""
    label = f"{entry['class_name']} {_name(entry)!r}"
    calls = entry.get("inbound_nodes") or []
    if not calls:
        return None
    if len(calls) > 1:
        raise refuse(label, "inbound_nodes", f"it is applied {len(calls)} times", _LINEAR)
    sources, arguments = _call(calls[0])
    for name, value in arguments.items():
        if value not in (None, False):
            raise refuse(label, f"call argument {name}", "only plain calls convert", _LINEAR)
    if len(sources) != 1 or sources[0][1:3] != (0, 0):
        raise refuse(label, f"inputs {sources}", "it reads more than one plain output", _LINEAR)
    return str(sources[0][0])


def _call(call: Any) -> tuple[list[tuple[Any, ...]], Json]:
    """The tensors (layer, node, tensor) that a call reads and its keyword arguments."""
    if isinstance(call, list):  # Keras 2: [[layer, node, tensor, arguments], ...]
        arguments = {k: v for x in call if len(x) > 3 for k, v in x[3].items()}
        return [tuple(x[:3]) for x in call], arguments
    found = list(_histories(call["args"]))
    return found, call.get("kwargs") or {}


def _histories(value: Any) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield tuple(value["config"]["keras_history"])
    elif isinstance(value, list):
        for item in value:
            yield from _histories(item)
