"""Arrays by name out of files that hold weights: sizes are checked before memory is taken."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from edge_rnn.container import parse_json
from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import MAX_ELEMENTS
from edge_rnn_converters import hdf5
from edge_rnn_converters.detect import Format
from edge_rnn_converters.source import MAX_BYTES
from edge_rnn_converters.weights.checkpoint import checkpoint

_WRAPPERS = ("module.", "model.", "_orig_mod.")
"""What DataParallel, Lightning and torch.compile put before every name."""

_ROUNDED = "arrays of float64 were rounded to float32"
_SAFETENSORS: dict[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip
CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """The arrays of `file` by name, of float32 where they hold fractions; what its user should
    know of them; `roots`, the prefixes under which whole models were found."""

    file: str
    values: Mapping[str, NDArray[Any]]
    notes: tuple[str, ...] = ()
    roots: tuple[str, ...] = ("",)

    def under(self, prefix: str | None) -> Arrays:
        """The arrays under a prefix, without it. None: under the one root, less what frameworks
        wrap around every name. Raises ModelError where there is none, or more than one root."""
        if prefix is None and len(self.roots) != 1:
            raise ModelError(
                f"{self.file}: holds several sets of arrays, under {', '.join(self.roots)}; say "
                "which with prefix in a description"
            )
        start = self.roots[0] if prefix is None else prefix
        start = start if not start or start.endswith((".", "/")) else self._separated(start)
        found = {n.removeprefix(start): a for n, a in self.values.items() if n.startswith(start)}
        if not found:
            raise ModelError(f"{self.file}: no array is under {start!r}; {shown(self.values)}")
        while prefix is None and (wrapper := _wrapper(found)):
            start += wrapper
            found = {n.removeprefix(wrapper): a for n, a in found.items()}
        note = (f"of the arrays in the file, those under {start!r}",) if start else ()
        return replace(self, values=found, notes=(*note, *self.notes), roots=("",))

    def _separated(self, start: str) -> str:
        return start + ("/" if any(n.startswith(f"{start}/") for n in self.values) else ".")


def shown(values: Mapping[str, NDArray[Any]]) -> str:
    """The arrays there are, for an error."""
    some = [f"{name} {a.shape}" for name, a in list(values.items())[:40]]
    more = [f"and {len(values) - 40} more"] if len(values) > 40 else []
    return f"the arrays are: {', '.join([*some, *more])}"


def _wrapper(names: Iterable[str]) -> str | None:
    return next((w for w in _WRAPPERS if all(n.startswith(w) for n in names)), None)


def read_arrays(path: Path, form: Format) -> Arrays:
    """All arrays of a file, or of a Hugging Face folder.

    Raises UnsupportedError for what can't be read safely, ModelError for a damaged file,
    MissingExtraError without the library that reads the format.
    """
    roots: tuple[str, ...] = ("",)
    if form == "torch-checkpoint":
        values, roots = checkpoint(path)
    elif form == "npz":
        values = _npz(path)
    elif form == "h5-weights":
        values = _h5(path)
    elif form == "hf-folder":
        values = _shards(path)
    else:
        values = _safetensors(path)
    if not values:
        raise UnsupportedError(f"{path.name}: holds no arrays; save the trained weights in it")
    rounded = any(a.dtype == np.float64 for a in values.values())
    plain = {name: _plain(a) for name, a in values.items()}
    return Arrays(path.name, plain, (_ROUNDED,) if rounded else (), roots)


def _plain(a: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # validation names an infinite one
        return a.astype(np.float32) if a.dtype.kind == "f" else a


def _safetensors(path: Path) -> dict[str, NDArray[Any]]:
    if path.stat().st_size > MAX_BYTES:
        raise UnsupportedError(f"{path.name}: more than the {MAX_BYTES} bytes that are read")
    try:
        entries: list[tuple[str, Any]] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as e:
        raise ModelError(f"{path.name}: not a sound safetensors file: {e}") from e
    return {name: _tensor(name, entry) for name, entry in sorted(entries)}


def _tensor(name: str, entry: Any) -> NDArray[Any]:
    if entry["dtype"] not in _SAFETENSORS:
        raise UnsupportedError(
            f"array {name!r}: dtype {entry['dtype']}, read are {', '.join(_SAFETENSORS)}; save it "
            "in float32"
        )
    a = np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        return (a.astype(np.uint32) << 16).view(np.float32)
    return a


def _shards(folder: Path) -> dict[str, NDArray[Any]]:
    """A folder's model.safetensors, or the shards that its index lists."""
    if not (folder / _INDEX).is_file():
        return _safetensors(folder / "model.safetensors")
    index = parse_json((folder / _INDEX).read_bytes(), _INDEX)
    places: Mapping[str, str] = index["weight_map"]
    found: dict[str, NDArray[Any]] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise UnsupportedError(f"{_INDEX}: {shard!r} is outside the folder; copy it into it")
        found |= _safetensors(folder / shard)
        if sum(a.nbytes for a in found.values()) > MAX_BYTES:
            raise UnsupportedError(f"{folder.name}: more than the {MAX_BYTES} bytes that are read")
    if missing := sorted(set(places) - set(found)):
        raise ModelError(f"{_INDEX}: no shard holds {missing[0]!r}; download the folder again")
    return found


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(path) as z:
        if sum(i.file_size for i in z.infolist()) > MAX_BYTES:
            raise UnsupportedError(f"{path.name}: more than the {MAX_BYTES} bytes that are read")
        for info in z.infolist():
            with z.open(info) as f:
                _check_header(info.filename, f, info.file_size)
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _check_header(name: str, f: IO[bytes], size: int) -> None:
    """NumPy takes the memory that a header asks for before it reads the data."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        shape, _, dtype = read[np.lib.format.read_magic(f)](f)
    if dtype.hasobject:
        raise UnsupportedError(
            f"array {name!r}: holds Python objects, which could run code and are never loaded; "
            "save arrays of numbers"
        )
    if dtype.kind not in "fiub":
        raise UnsupportedError(f"array {name!r}: dtype {dtype}; save arrays of numbers")
    if (
        not all(type(n) is int and n >= 0 for n in shape)
        or f.tell() + (math.prod(shape) * dtype.itemsize) != size
    ):
        raise ModelError(f"array {name!r}: {dtype} {shape} is not what its {size} bytes hold")


def _h5(path: Path) -> dict[str, NDArray[Any]]:
    """The datasets of a file's groups, but for the optimizer's."""
    h5 = hdf5.load(path)
    wanted = {n: size for n, size in h5.numbers().items() if not n.startswith("optimizer")}
    if sum(wanted.values()) > MAX_ELEMENTS // 4:
        raise UnsupportedError(f"{path.name}: more than the {MAX_BYTES} bytes that are read")
    return {name: h5.array(name) for name in wanted}
