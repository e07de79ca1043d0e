"""The user's data: a file of numbers, its columns told apart, as a stream with labels."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import tokenize
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import InputError, MissingExtraError
from edge_rnn.graph import F32, Model
from edge_rnn_converters import compare
from edge_rnn_converters.source import reading

MAX_BYTES = 1 << 26
STEPS = 10_000
"""The steps of a stream, at least: shorter data is repeated."""

Column: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A stream x (T, I) and what it is; `labels` of its first rows: (n, k) strings or numbers.

    `once`: the steps after which it repeats itself, None if it does not.
    """

    x: F32
    what: str
    labels: NDArray[Any] | None = None
    once: int | None = None


def generated(model: Model, steps: int = STEPS) -> Data:
    """Noise, steps, ramps, spikes, silence and gaps, see `streams.stretches`."""
    what = f"generated: noise, steps, ramps, spikes of ±{compare.SPIKE:g} deviations, silence, gaps"
    return Data(compare.stress(model, steps), what)


def read(path: Path, model: Model, labels: Sequence[str] = (), steps: int = STEPS) -> Data:
    """The stream in a .csv, .npy, .npz or .parquet file, repeated until it has `steps` rows.

    Columns have the names of the first line of a .csv file, if these are not numbers, else numbers
    from 0; so do those of a .npy file. The features are those that the model names, if all are
    there, else every column that is no label, in order. A .npz file has the features as its array
    `x` (T, I), or its only one, and labels as arrays of their names.

    Raises InputError, naming row and column, for what is no number or does not fit the model,
    ModelError for a damaged file, MissingExtraError without pyarrow.
    """
    if path.suffix.lower() not in _READERS:
        raise InputError(f"{path.name}: expected a file that ends in {', '.join(_READERS)}")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path.name}: {path.stat().st_size} bytes, at most {MAX_BYTES}")
    with reading(path.name):
        columns = _READERS[path.suffix.lower()](path)
    missing = [name for name in labels if name not in columns]
    if missing:
        raise InputError(f"{path.name}: no column {missing[0]!r}; it has {', '.join(columns)}")
    x = _features(path, columns, model, labels)
    answers = np.stack([columns[name] for name in labels], axis=1) if labels else None
    times = max(1, math.ceil(steps / len(x)))
    what = f"{path.name}, {len(x)} steps" + (f", {times} times over" if times > 1 else "")
    what += f", sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    return Data(np.tile(x, (times, 1)), what, answers, len(x))


def _features(path: Path, columns: dict[str, Column], model: Model, labels: Sequence[str]) -> F32:
    names = [f.name for f in model.features]
    if not names or not set(names) <= set(columns):
        names = [name for name in columns if name not in labels]
    if len(names) != model.input_width:
        raise InputError(
            f"{path.name}: {len(names)} columns ({', '.join(names[:20])}), the model reads "
            f"{model.input_width}; name the labels, or the features as the model does"
        )
    with np.errstate(over="ignore"):
        x = np.stack([_numbers(path, n, columns[n]) for n in names], axis=1).astype(np.float32)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, column = bad[0]
        raise InputError(f"{path.name}: row {row}: {names[column]} is {x[row, column]}")
    if not len(x):
        raise InputError(f"{path.name}: no rows")
    return x


def _numbers(path: Path, name: str, column: Column) -> NDArray[np.float64]:
    """A column's values, which a text file has as strings."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    values = np.empty(len(column))
    for row, text in enumerate(column):
        try:
            values[row] = float(text)
        except ValueError:
            raise InputError(f"{path.name}: row {row}: {name} is {str(text)[:40]!r}") from None
    return values


def _csv(path: Path) -> dict[str, Column]:
    text = path.read_text("utf-8-sig")
    first = text.partition("\n")[0]
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count)))
    except csv.Error as e:
        raise InputError(f"{path.name}: {e}") from e
    rows = [row for row in rows if row]
    if not rows:
        raise InputError(f"{path.name}: no rows")
    named = not all(map(_is_number, rows[0]))
    names = [n.strip() for n in rows.pop(0)] if named else [str(i) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise InputError(f"{path.name}: row {i}: {len(row)} values, expected {len(names)}")
    if len(set(names)) < len(names):
        raise InputError(f"{path.name}: two columns have the same name")
    cells = list(zip(*rows, strict=True)) or [()] * len(names)
    return {n: np.array([c.strip() for c in cs], str) for n, cs in zip(names, cells, strict=True)}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _npy(path: Path) -> dict[str, Column]:
    return _by_number(path, _array(path, path.read_bytes()))


def _npz(path: Path) -> dict[str, Column]:
    with zipfile.ZipFile(path) as z:
        if sum(i.file_size for i in z.infolist()) > MAX_BYTES:
            raise InputError(f"{path.name}: more than {MAX_BYTES} bytes unpacked")
        arrays = {i.filename.removesuffix(".npy"): _array(path, z.read(i)) for i in z.infolist()}
    features = arrays.pop("x") if "x" in arrays else None
    if features is None:
        if len(arrays) != 1:
            raise InputError(f"{path.name}: expected an array 'x', it has {', '.join(arrays)}")
        features = arrays.popitem()[1]
    columns = _by_number(path, features)
    labels = {n: a.reshape(-1) for n, a in arrays.items() if a.size == len(features)}
    return {**columns, **{n: a for n, a in labels.items() if n not in columns}}


def _array(path: Path, blob: bytes) -> NDArray[Any]:
    """The array of a .npy file: numbers or strings, of exactly the size that it says."""
    stream = io.BytesIO(blob)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            version = np.lib.format.read_magic(stream)
            parse = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                parse = np.lib.format.read_array_header_2_0
            shape, fortran, dtype = parse(stream)
    except (SyntaxError, tokenize.TokenError) as e:  # it reads the header as a Python literal
        raise InputError(f"{path.name}: not an array's header: {e}") from e
    if dtype.kind not in "biufU" or math.prod(shape) * dtype.itemsize != len(blob) - stream.tell():
        raise InputError(
            f"{path.name}: an array of {dtype} {shape} in {len(blob)} bytes: expected numbers"
        )
    flat = np.frombuffer(blob, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _by_number(path: Path, a: NDArray[Any]) -> dict[str, Column]:
    if a.ndim != 2:
        raise InputError(f"{path.name}: an array of shape {a.shape}, expected (steps, features)")
    return {str(i): a[:, i] for i in range(a.shape[1])}


def _parquet(path: Path) -> dict[str, Column]:
    try:
        from pyarrow import parquet
    except ImportError as e:
        raise MissingExtraError("pyarrow", extra="parquet", need="to read .parquet files") from e
    file = parquet.ParquetFile(path)
    facts = file.metadata
    groups = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
    if max(groups, 8 * facts.num_rows * facts.num_columns) > MAX_BYTES:
        raise InputError(f"{path.name}: more than {MAX_BYTES} bytes unpacked")
    table = file.read()
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    return {n: c if c.dtype.kind in "biuf" else c.astype(str) for n, c in columns.items()}


_READERS = {".csv": _csv, ".npy": _npy, ".npz": _npz, ".parquet": _parquet}
