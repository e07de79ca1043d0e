"""A safetensors file read with suspicion: everything is checked before an array exists.

The safetensors library reads these files too; it stops at the first fault without saying which
tensor, allows duplicate keys and other types, so the header is checked here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import ModelFileError
from edge_rnn.graph import MAX_DIM, MAX_ELEMENTS

MAX_HEADER = 8 << 20
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def read_container(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """The metadata and the tensors, read-only arrays, of the file. Raises ModelFileError."""
    try:
        if not path.is_file():
            raise ModelFileError("not a file" if path.exists() else "no such file")
        with path.open("rb") as f:
            return _read(f, path.stat().st_size)
    except ModelFileError as e:
        raise ModelFileError(f"{path}: {e}") from e.__cause__
    except OSError as e:
        raise ModelFileError(f"{path}: can't be read: {e.strerror}") from e


def parse_json(text: str | bytes, what: str) -> Any:
    """JSON without duplicate keys or NaN. Raises ModelFileError naming `what`."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise ModelFileError(f"{what} is not valid JSON: {e}") from e


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [k for k, _ in pairs]
        raise ModelFileError(f"duplicate name {next(n for n in names if names.count(n) > 1)!r}")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _read(f: BinaryIO, size: int) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    if size < 8:
        raise ModelFileError(f"truncated: {size} bytes, not even a header's length")
    length = int.from_bytes(f.read(8), "little")
    if length > MAX_HEADER:
        raise ModelFileError(f"header of {length} bytes, at most {MAX_HEADER} allowed")
    if length > size - 8:
        raise ModelFileError(f"truncated: header of {length} bytes in a file of {size}")
    header = parse_json(f.read(length), "the header")
    if not isinstance(header, dict):
        raise ModelFileError("the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelFileError("__metadata__ must map names to strings")
    entries = [_entry(name, e) for name, e in header.items()]
    _check_places(entries, size - 8 - length)
    data = f.read(size - 8 - length)
    return metadata, {e.name: _array(e, data) for e in entries}


def _entry(name: str, fields: Any) -> _Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"tensor {name!r}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ModelFileError(f"tensor {name!r}: dtype {dtype!r}, allowed: {', '.join(_DTYPES)}")
    if not _naturals(shape) or len(shape) not in (1, 2):
        raise ModelFileError(f"tensor {name!r}: shape {shape!r}, expected one or two numbers")
    most = MAX_ELEMENTS if dtype == "U8" and len(shape) == 1 else MAX_DIM  # bytes of a file
    if not all(1 <= n <= most for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise ModelFileError(
            f"tensor {name!r}: shape {shape}, dimensions may be 1 to {most} and elements "
            f"at most {MAX_ELEMENTS}"
        )
    if not _naturals(offsets) or len(offsets) != 2:
        raise ModelFileError(f"tensor {name!r}: data_offsets {offsets!r}, expected begin and end")
    need = math.prod(shape) * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != need:
        raise ModelFileError(
            f"tensor {name!r}: {offsets[1] - offsets[0]} bytes at {offsets}, "
            f"{dtype} {shape} needs {need}"
        )
    return _Entry(name, _DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_places(entries: list[_Entry], size: int) -> None:
    """Tensors must fill the data exactly: no holes, no overlaps, nothing missing or left over."""
    end = 0
    for e in sorted(entries, key=lambda e: e.begin):
        if e.begin != end:
            fault = "overlaps the tensor before it" if e.begin < end else "leaves a hole before it"
            raise ModelFileError(f"tensor {e.name!r} at byte {e.begin} {fault}, expected {end}")
        end = e.end
    if end > size:
        raise ModelFileError(f"truncated: tensors need {end} bytes, the file holds {size}")
    if end < size:
        raise ModelFileError(f"{size - end} bytes after the last tensor")


def _array(e: _Entry, data: bytes) -> NDArray[Any]:
    flat = np.frombuffer(data, e.dtype, math.prod(e.shape), e.begin)
    return flat.reshape(e.shape)
