"""What Keras 2 keeps of itself in a TensorFlow SavedModel folder: nothing of it executed.

`keras_metadata.pb` says of each layer where it hangs in the graph of objects ("root.layer-1.cell")
and what it is; the checkpoint in `variables` holds the graph and the weights that hang in it. The
computation in `saved_model.pb` is not read. See keras/protobuf/saved_metadata.proto and
tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32
from edge_rnn_converters import bundle, wire
from edge_rnn_converters.bundle import GRAPH, Bundle, Object, objects
from edge_rnn_converters.keras.file import KerasFile, parse, version_of

METADATA = "keras_metadata.pb"
_MAX_METADATA = 32 << 20
_NOT_WEIGHTS = (
    "variables", "trainable_variables", "keras_api", "states", "_states", "_random_generator"
)  # fmt: skip
"""What hangs at a layer besides its weights and the layers in it: lists of the same once more, a
stateful layer's states, and what dropout draws from."""


def opened(folder: Path) -> KerasFile:
    """The model in the folder.

    Raises ModelError for damaged or missing files, UnsupportedError where they are too large.
    """
    path = folder / METADATA
    if path.stat().st_size > _MAX_METADATA:
        raise UnsupportedError(f"{METADATA}: more than the {_MAX_METADATA} bytes that are read")
    told = {
        wire.text(node, 3): parse(METADATA, wire.text(node, 5), _plain)
        for node in wire.messages(memoryview(path.read_bytes()), 1)
    }
    if "root" not in told:
        raise ModelError(f"{METADATA}: describes no model")
    tensors = bundle.load(folder / "variables" / "variables")
    graph = objects(tensors.text(GRAPH))
    weights = _Weights(tensors, graph, _names(told, graph))
    return KerasFile(version_of(folder, told["root"]), told["root"], weights, None)


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """See `file.Weights`; `names` are those of layers, by their numbers in the graph."""

    tensors: Bundle
    graph: tuple[Object, ...]
    names: dict[int, str]

    def __call__(self, names: tuple[str, ...]) -> tuple[F32, ...]:
        """The layer's, in the order in which it made them, which is Keras's."""
        at = 0
        for name in names:
            inside = (n for key, n in self.graph[at].children if key.startswith("layer"))
            at = next((n for n in inside if self.names.get(n) == name), -1)
            if at < 0:
                raise ModelError(f"layer {name!r}: {METADATA} does not describe it")
        return tuple(self.tensors.array(tensor) for tensor in self._found(at, set()))

    def _found(self, at: int, seen: set[int]) -> Iterator[str]:
        if at in seen:
            return
        seen.add(at)
        if tensor := self.graph[at].tensor:
            yield tensor
        for name, child in self.graph[at].children:
            if name not in _NOT_WEIGHTS:
                yield from self._found(child, seen)


def _names(told: dict[str, Any], graph: tuple[Object, ...]) -> dict[int, str]:
    """The layers' names, by where they hang."""
    found = {}
    for path, entry in told.items():
        at: int | None = 0
        for part in path.split(".")[1:]:
            at = None if at is None else dict(graph[at].children).get(part)
        if at is not None:
            found[at] = str(entry.get("name"))
    return found


def _plain(value: dict[str, Any]) -> Any:
    """Tuples and shapes, which Keras marks here and nowhere else, as lists."""
    return value.get("items") if value.get("class_name") in ("__tuple__", "TensorShape") else value
