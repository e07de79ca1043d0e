"""What a Keras file holds: its configuration and its layers' weights, nothing of it executed.

`.keras` is a zip of metadata.json, config.json and model.weights.h5; `.h5` is HDF5 with the
configuration in an attribute. Both are data from a stranger: sizes are checked before anything is
read, and links out of the file are refused.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32
from edge_rnn_converters import hdf5
from edge_rnn_converters.detect import ACCEPTED, Format
from edge_rnn_converters.hdf5 import Hdf5
from edge_rnn_converters.source import MAX_BYTES

Json: TypeAlias = dict[str, Any]
Weights: TypeAlias = Callable[[tuple[str, ...]], tuple[F32, ...]]
"""A layer's name, after those of the models that it is in -> its weights in Keras's order, those of
layers that it wraps included; () if it has none."""

Hook: TypeAlias = Callable[[Json], Any]
MAX_JSON = 16 << 20
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")


@dataclass(frozen=True, slots=True, eq=False)
class KerasFile:
    """`version` of the Keras that wrote the file, the model's configuration, its weights, and the
    HDF5 file that they are in, None if they are in another."""

    version: str
    config: Json
    weights: Weights
    hdf5: Hdf5 | None

    @property
    def major(self) -> int:
        """2 or 3."""
        return int(self.version.split(".")[0])


def opened(path: Path, form: Format) -> KerasFile:
    """The file. Raises MissingExtraError without pyfive, UnsupportedError for a file without a
    whole model, ModelError for a damaged one."""
    if form == "keras-h5":
        return _from_h5(path, hdf5.load(path))
    with zipfile.ZipFile(path) as z:
        config, metadata = _json(z, "config.json"), _json(z, "metadata.json")
        weights = hdf5.read(_member(z, "model.weights.h5", MAX_BYTES))
    return KerasFile(version_of(path, metadata), config, _by_class(weights, config), weights)


def _from_h5(path: Path, h5: Hdf5) -> KerasFile:
    if not (text := h5.text("", "model_config")):
        raise UnsupportedError(
            f"{path.name}: holds weights only, no layers and no activations; save the whole model "
            f"with model.save(...), or say what they are of with --description; {ACCEPTED}"
        )
    version = version_of(path, {"keras_version": h5.text("", "keras_version")})
    return KerasFile(version, parse("model_config", text), lambda names: _by_name(h5, names), h5)


def version_of(path: Path, metadata: Json) -> str:
    """The version of Keras that wrote the file. Raises UnsupportedError."""
    version = str(metadata.get("keras_version", ""))
    if not re.match(r"[23]\.\d", version):
        raise UnsupportedError(
            f"{path.name}: keras_version is {version or 'missing'!r}, expected 2.x or 3.x, because "
            "activations differ between them; load it and save it again with such a Keras"
        )
    return version


def _member(z: zipfile.ZipFile, name: str, limit: int) -> bytes:
    size = z.getinfo(name).file_size
    if size > limit:
        raise UnsupportedError(f"{name}: {size} bytes unpacked, at most {limit} are read")
    with z.open(name) as f:
        return f.read(size)


def _json(z: zipfile.ZipFile, name: str) -> Json:
    return parse(name, _member(z, name, MAX_JSON))


def parse(name: str, text: str | bytes, hook: Hook | None = None) -> Json:
    """The JSON object in a text, its inner ones as `hook` makes them. Raises ModelError."""
    if len(text) > MAX_JSON:
        raise UnsupportedError(f"{name}: {len(text)} bytes, at most {MAX_JSON} are read")
    try:
        value = json.loads(text, object_hook=hook)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{name} is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise ModelError(f"{name} holds a {type(value).__name__}, expected an object")
    return value


def entries(config: Json) -> list[Json]:
    """The layers that a model's configuration lists. Raises ModelError if it lists none."""
    inner = config.get("config")
    found = inner.get("layers") if isinstance(inner, dict) else inner
    if not isinstance(found, list):
        raise ModelError("the configuration holds no list of layers")
    return found


def is_model(entry: Json) -> bool:
    """Is it a model, not a layer?"""
    return entry["class_name"] in ("Sequential", "Functional", "Model")


def _by_class(h5: Hdf5, config: Json) -> Weights:
    """Weights of a .keras file, kept under class names: gru, gru_1, ... in the layers' order."""

    def weights(names: tuple[str, ...]) -> tuple[F32, ...]:
        place, entry = "", config
        for name in names:
            parts = _parts(h5, place, entry)
            found = [part for part in parts if part[1]["config"].get("name") == name]
            if not found:
                raise ModelError(f"layer {name!r}: the configuration does not list it")
            place, entry = found[0]
        return tuple(_gathered(h5, place, entry))

    return weights


def _gathered(h5: Hdf5, place: str, entry: Json) -> list[F32]:
    """The weights of a layer and of what it wraps."""
    name = entry["config"].get("name")
    stored = h5.text(f"{place}/vars", "name")
    if stored and name not in (None, stored):
        raise ModelError(f"layer {name!r}: its weights at {place!r} say they are {stored!r}'s")
    numbers = sorted(h5.groups.get(f"{place}/vars", ()), key=int)
    found = [h5.array(f"{place}/vars/{number}") for number in numbers]
    for part, inner in _parts(h5, place, entry):
        found += _gathered(h5, part, inner)
    return found


def _parts(h5: Hdf5, place: str, entry: Json) -> list[tuple[str, Json]]:
    """(where its weights are, what it is) of each layer or cell that a layer or model holds."""
    kind, config = entry["class_name"], entry["config"]
    if is_model(entry):
        holders = (f"{place}/{holder}".strip("/") for holder in _CONTAINERS)
        holder = next((h for h in holders if h in h5.groups), "layers")
        inside = _counted(holder, entries(entry))
    elif kind == "StackedRNNCells":
        inside = _counted(f"{place}/cells", config["cells"])
    elif kind == "Bidirectional":
        backward = config.get("backward_layer") or _unnamed(config["layer"])
        inside = [
            (f"{place}/forward_layer", config["layer"]), (f"{place}/backward_layer", backward)
        ]  # fmt: skip
    else:
        named = {part: config.get(part) for part in ("layer", "cell")}
        inside = [(f"{place}/{part}", e) for part, e in named.items() if isinstance(e, dict)]
        cell: Json = {"class_name": "cell", "config": {}}
        inside += [(f"{place}/cell", cell)] if "units" in config else []
    return inside


def _unnamed(entry: Json) -> Json:
    return {**entry, "config": {k: v for k, v in entry["config"].items() if k != "name"}}


def _counted(holder: str, listed: list[Json]) -> list[tuple[str, Json]]:
    """Where layers are in a container: under the names of their classes, counted."""
    seen: Counter[str] = Counter()
    found = []
    for entry in listed:
        snake = _snake_case(str(entry["class_name"]))
        found.append((f"{holder}/{snake}" + (f"_{seen[snake]}" if seen[snake] else ""), entry))
        seen[snake] += 1
    return found


def _snake_case(name: str) -> str:
    """As Keras writes it: SimpleRNN is simple_rnn, ReLU is re_lu."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _by_name(h5: Hdf5, names: tuple[str, ...]) -> tuple[F32, ...]:
    """Weights of an .h5 file, kept under the outermost layer's name and listed in an attribute;
    those of layers inside a model have the layers' names in theirs."""
    place = f"model_weights/{names[0]}"
    listed = h5.texts(place, "weight_names")
    if len(names) > 1:
        listed = [weight for weight in listed if names[-1] in weight.split("/")[:-1]]
    return tuple(h5.array(f"{place}/{weight}".replace("//", "/")) for weight in listed)
