"""What a Keras file holds: its configuration and its layers' weights, nothing of it executed.

`.keras` is a zip of metadata.json, config.json and model.weights.h5; `.h5` is HDF5 with the
configuration in an attribute. Both are data from a stranger: sizes are checked before anything is
read, and links out of the file are refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edge_rnn.errors import MissingExtraError, ModelError, UnsupportedError
from edge_rnn.graph import F32, MAX_ELEMENTS
from edge_rnn_converters.detect import ACCEPTED, Format
from edge_rnn_converters.source import MAX_BYTES

Json: TypeAlias = dict[str, Any]
Weights: TypeAlias = Callable[[str], tuple[F32, ...]]
"""A layer's name -> its weights in Keras's order, () if it has none."""

MAX_JSON = 16 << 20
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_INNER = ("cell/vars", "layer/vars", "vars")


@dataclass(frozen=True, slots=True)
class KerasFile:
    """`version` of the Keras that wrote the file, the model's configuration, its weights."""

    version: str
    config: Json
    weights: Weights

    @property
    def major(self) -> int:
        """2 or 3."""
        return int(self.version.split(".")[0])


@contextmanager
def opened(path: Path, form: Format) -> Iterator[KerasFile]:
    """The file, for as long as the context lasts.

    Raises MissingExtraError without h5py, UnsupportedError for a file without a whole model.
    """
    try:
        import h5py
    except ModuleNotFoundError as e:
        raise MissingExtraError("h5py", extra="keras", need="to read Keras models") from e
    if form == "keras-h5":
        with h5py.File(path, "r") as h5:
            yield _from_h5(path, h5)
        return
    with zipfile.ZipFile(path) as z:
        config, metadata = _json(z, "config.json"), _json(z, "metadata.json")
        weights = io.BytesIO(_member(z, "model.weights.h5", MAX_BYTES))
    with h5py.File(weights, "r") as h5:
        yield KerasFile(_version(path, metadata), config, _by_class(h5, _entries(config)))


def _from_h5(path: Path, h5: Any) -> KerasFile:
    if "model_config" not in h5.attrs:
        raise UnsupportedError(
            f"{path.name}: holds weights only, no layers and no activations; "
            f"save the whole model with model.save(...); {ACCEPTED}"
        )
    config = _parse("model_config", h5.attrs["model_config"])
    groups = h5["model_weights"]
    version = {"keras_version": _text(h5.attrs.get("keras_version", ""))}
    return KerasFile(_version(path, version), config, lambda name: _by_name(groups, name))


def _version(path: Path, metadata: Json) -> str:
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
    return _parse(name, _member(z, name, MAX_JSON))


def _parse(name: str, text: str | bytes) -> Json:
    if len(text) > MAX_JSON:
        raise UnsupportedError(f"{name}: {len(text)} bytes, at most {MAX_JSON} are read")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{name} is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise ModelError(f"{name} holds a {type(value).__name__}, expected an object")
    return value


def _entries(config: Json) -> list[tuple[str, str]]:
    """(class, name) of the model's layers, in order."""
    inner = config.get("config", {})
    layers = inner.get("layers", []) if isinstance(inner, dict) else inner
    return [(str(x["class_name"]), str(x["config"].get("name", ""))) for x in layers]


def _by_class(h5: Any, entries: Iterable[tuple[str, str]]) -> Weights:
    """Weights of a .keras file, kept under class names: gru, gru_1, ... in the layers' order."""
    seen: Counter[str] = Counter()
    places: dict[str, str] = {}
    for kind, name in entries:
        snake = _snake_case(kind)
        places[name] = snake + (f"_{seen[snake]}" if seen[snake] else "")
        seen[snake] += 1
    return lambda name: _numbered(h5, places[name], name)


def _snake_case(name: str) -> str:
    """As Keras writes it: SimpleRNN is simple_rnn, ReLU is re_lu."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _numbered(h5: Any, place: str, name: str) -> tuple[F32, ...]:
    for group in (f"{c}{slash}{place}" for c in _CONTAINERS for slash in "/\\"):
        if group in h5:
            break
    else:
        return ()
    own = h5[group].get("vars")
    stored = "" if own is None else _text(own.attrs.get("name", ""))
    if stored and stored != name:
        raise ModelError(f"layer {name!r}: its weights at {group!r} say they are {stored!r}'s")
    for inner in _INNER:
        found = h5[group].get(inner)
        if found is not None and len(found):
            return tuple(read_weight(found, str(i)) for i in range(len(found)))
    return ()


def _by_name(groups: Any, name: str) -> tuple[F32, ...]:
    """Weights of an .h5 file, kept under the layer's name and listed in an attribute."""
    if name not in groups:
        return ()
    return tuple(
        read_weight(groups[name], weight) for weight in _listed(groups[name], "weight_names")
    )


def _listed(group: Any, attribute: str) -> list[str]:
    """A list of strings; one too long for HDF5 stands in numbered pieces."""
    if attribute in group.attrs:
        return [_text(x) for x in group.attrs[attribute]]
    pieces: list[str] = []
    while (piece := f"{attribute}{len(pieces)}") in group.attrs:
        pieces.append(piece)
    return [_text(x) for piece in pieces for x in group.attrs[piece]]


def read_weight(group: Any, place: str) -> F32:
    """One weight as float32; its size is checked first, and it must lie in this very file."""
    for part in place.split("/"):
        link = group.get(part, getlink=True)
        if hasattr(link, "filename"):
            raise UnsupportedError(f"weight {place!r} is a link to another file; save it whole")
        group = group[part]
    size = int(np.prod(group.shape, dtype=np.float64))
    if size > MAX_ELEMENTS // 4 or group.is_virtual or group.external:
        raise UnsupportedError(f"weight {place!r}: {group.shape} kept outside or too large")
    if group.dtype.kind not in "fiu" or group.dtype == np.float64:
        raise UnsupportedError(
            f"weight {place!r}: dtype {group.dtype}, expected float32; save the model in float32"
        )
    return np.asarray(group[()], np.float32)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
