"""HDF5 files of weights, read in pure Python: a damaged or hostile one can neither crash nor hang.

libhdf5 does both on some files, which nothing in the same process can stop; see
docs/decisions/0013-hdf5-in-python.md.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_rnn.errors import EdgeRnnError, MissingExtraError, ModelError, UnsupportedError
from edge_rnn.graph import F32, MAX_ELEMENTS
from edge_rnn_converters.source import MAX_BYTES

_MAX_OBJECTS = 100_000
_MAX_DEPTH = 32
_IN_THE_FILE = (0, 1)
"""Layouts whose numbers stand in the file as they are: compact and contiguous."""


@dataclass(frozen=True, slots=True, eq=False)
class Hdf5:
    """The groups and datasets of a file by path; "" is the file, '/' parts paths on any system."""

    groups: dict[str, Any]
    datasets: dict[str, Any]
    size: int

    def attribute(self, path: str, name: str) -> Any:
        """An attribute of a group, None if it has none of that name."""
        with _reading(f"attribute {name!r} of {path!r}"):
            return self.groups[path].attrs.get(name) if path in self.groups else None

    def attributes(self, path: str) -> list[str]:
        """The names of a group's attributes."""
        with _reading(f"attributes of {path!r}"):
            return list(self.groups[path].attrs)

    def text(self, path: str, name: str) -> str:
        """An attribute that holds a text, "" where there is none."""
        value = self.attribute(path, name)
        with _reading(f"attribute {name!r} of {path!r}"):
            return "" if value is None else _text(value)

    def texts(self, path: str, name: str) -> list[str]:
        """An attribute that holds texts; those too many for HDF5 stand in numbered pieces."""
        pieces = [self.attribute(path, name)]
        while (piece := self.attribute(path, f"{name}{len(pieces) - 1}")) is not None:
            pieces.append(piece)
        with _reading(f"attribute {name!r} of {path!r}"):
            return [_text(x) for piece in pieces if piece is not None for x in piece]

    def numbers(self) -> dict[str, int]:
        """How many numbers each dataset of numbers says that it has."""
        with _reading("HDF5"):
            return {
                path: math.prod(dataset.shape)
                for path, dataset in self.datasets.items()
                if np.dtype(dataset.dtype).kind in "fiub"
            }

    def array(self, path: str) -> F32:
        """A dataset of numbers as float32.

        Raises UnsupportedError where its numbers are not in the file as they are, or not float32
        or integers; ModelError where the file has no such dataset.
        """
        if path not in self.datasets:
            raise ModelError(f"weight {path!r} is not in the file")
        with _reading(f"weight {path!r}"):
            dataset = self.datasets[path]
            shape, dtype = tuple(dataset.shape), np.dtype(dataset.dtype)
            if not self._held(dataset.id, shape, dtype):
                raise UnsupportedError(
                    f"weight {path!r}: {shape}, compressed, too large or kept outside the file; "
                    "save the model again with model.save(...)"
                )
            if dtype.kind not in "fiu" or dtype == np.float64:
                raise UnsupportedError(
                    f"weight {path!r}: dtype {dtype}, expected float32; save the model in float32"
                )
            return np.array(dataset[()], np.float32).reshape(shape)

    def _held(self, place: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Are the dataset's numbers in the file, as many as it says?"""
        elements = int(np.prod(shape, dtype=np.float64))
        if place.layout_class not in _IN_THE_FILE or elements > MAX_ELEMENTS // 4:
            return False
        start = place.data_offset if place.layout_class == 1 and elements else 0
        return bool(start + elements * dtype.itemsize <= self.size)


def load(path: Path) -> Hdf5:
    """As `read`, of a file, which must be of a size that is read."""
    if path.stat().st_size > MAX_BYTES:
        raise UnsupportedError(f"{path.name}: larger than {MAX_BYTES} bytes; save smaller parts")
    return read(path.read_bytes())


def read(data: bytes) -> Hdf5:
    """What the file `data` holds; its weights are read when they are asked for.

    Raises ModelError for what is no readable HDF5 file, MissingExtraError without pyfive.
    """
    try:
        import pyfive
    except ModuleNotFoundError as e:
        raise MissingExtraError("pyfive", extra="keras", need="to read Keras models") from e
    found = Hdf5({}, {}, len(data))
    with _reading("HDF5"):
        for path, thing in _walk(pyfive.File(io.BytesIO(data)), "", 0):
            kind = found.datasets if hasattr(thing, "dtype") else found.groups
            kind[path.replace("\\", "/").strip("/")] = thing
            if len(found.datasets) + len(found.groups) > _MAX_OBJECTS:
                raise ModelError(f"HDF5: more than {_MAX_OBJECTS} objects")
    return found


def _walk(group: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """The group and all below it. Keras on Windows writes paths with backslashes."""
    yield path, group
    if depth > _MAX_DEPTH:
        raise ModelError(f"HDF5: groups are nested more than {_MAX_DEPTH} deep")
    for name in group:
        thing = group.get_lazy_view(name)
        if hasattr(thing, "get_lazy_view"):
            yield from _walk(thing, f"{path}/{name}", depth + 1)
        elif thing is not None:
            yield f"{path}/{name}", thing


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """pyfive trips over damage in any way that Python has, assertions and warnings included."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except EdgeRnnError:
        raise
    except Exception as e:
        raise ModelError(f"{what}: damaged, or in a form never seen: {e!r}") from e


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
