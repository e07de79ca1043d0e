"""Tables of numbers as a pipeline's messages: a row is what a sensor would have sent.

Columns are found by name: the features by the model's names or the pipeline's paths, `stream` (or
the named parts of the input topic), `timestamp` (or the pipeline's path of it), and the paths of
`sequence`, `epoch` and `increasing` as the pipeline has them.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_rnn.errors import RecordingError
from edge_rnn.graph import Model
from edge_rnn.messages import Spec
from edge_rnn.payload import Properties, Stamps, parse_path
from edge_rnn.replay.recording import Event
from edge_rnn.topics import Routes, fill

MAX_NPZ_BYTES = 1 << 32
_LATEST = 1e11  # seconds since 1970; more are milliseconds
_ENDINGS = (".csv", ".npz")

Row = Mapping[str, Any]


def is_table(path: Path) -> bool:
    """Is it a table, by its name?"""
    return path.suffix.lower() in _ENDINGS


class Table:
    """The messages of a .csv or .npz file for a pipeline of this spec and model.

    A .csv file has names in its first line; a .npz file arrays (T,) of the columns' names, or the
    features as one array `x` (T, I). An empty cell is a field that the message lacks. `timestamp`
    is the arrival time: seconds since 1970 or an ISO 8601 text; without one no time passes. A
    pipeline's `sequence` that is no column counts each stream's rows from 1.
    `rows_read` counts. Raises RecordingError, naming file, row and column, or OSError.
    """

    def __init__(self, path: Path, spec: Spec, model: Model) -> None:
        self.path, self.rows_read = path, 0
        self._read = _csv if path.suffix.lower() == ".csv" else _npz
        self._spec, self._routes = spec, Routes(spec.topics, spec.stream, spec.output)
        self._names = [f.name for f in model.features]
        self._width = model.input_width

    def __iter__(self) -> Iterator[Event]:
        make: Callable[[Row], Event] | None = None
        for row in self._read(self.path):
            make = make or self._maker(row)
            self.rows_read += 1
            try:
                yield make(row)
            except ValueError as e:
                raise RecordingError(f"{self.path}: row {self.rows_read}: {e}") from e

    def _maker(self, row: Row) -> Callable[[Row], Event]:
        """What makes messages of rows that have the columns of this one."""
        spec = self._spec
        topic, write = self._topic(row), self._writer(row)
        stamp = next((c for c in (spec.timestamp, "timestamp") if c and c in row), None)
        stamps = spec.stamps
        numbers = (spec.sequence, spec.epoch) if stamps is None else ()
        name = stamps.sequence if stamps else spec.sequence
        counted = name if name and name not in row else None
        also = [c for c in (spec.timestamp, *numbers, spec.increasing) if c]
        also = [c for c in dict.fromkeys(also) if c in row or (c == spec.timestamp and stamp)]
        counts: dict[str, int] = {}

        def make(row: Row) -> Event:
            document = write(row)
            for column in also:
                value = row[column] if column in row else row[stamp or ""]
                document = _put(document, parse_path(column), _value(value))
            at = topic(row)
            if counted is not None:
                counts[at] = counts.get(at, 0) + 1
            if counted is not None and stamps is None:
                document = _put(document, parse_path(counted), counts[at])
            time = 0.0 if stamp is None else _seconds(row[stamp])
            properties = _stamped(stamps, row, counts.get(at)) if stamps else ()
            payload = msgspec.json.encode(document)
            return Event("in", time, at, payload, properties=properties)

        return make

    def _writer(self, row: Row) -> Callable[[Row], Any]:
        """What makes a document with the features of a row."""
        spec = self._spec
        if spec.array is not None:
            place, read = parse_path(spec.array), self._vector(row)
            return lambda row: _put(None, place, read(row))
        paths = [parse_path(f) for f in spec.fields] or [(name,) for name in self._names]
        if "x" in row and np.ndim(row["x"]) == 1:
            return lambda row: _document(zip(paths, row["x"].tolist(), strict=True))
        columns = [self._column(row, i) for i in range(self._width)]
        return lambda row: _document(zip(paths, [_value(row[c]) for c in columns], strict=True))

    def _vector(self, row: Row) -> Callable[[Row], list[Any]]:
        if "x" in row and np.ndim(row["x"]) == 1:
            return lambda row: row["x"].tolist()
        columns = [self._column(row, i) for i in range(self._width)]
        return lambda row: [_value(row[c]) for c in columns]

    def _column(self, row: Row, feature: int) -> str:
        """The column of a feature, by the model's name of it or the pipeline's path."""
        named = self._names[feature : feature + 1] + list(self._spec.fields[feature : feature + 1])
        for name in named or [str(feature)]:
            if name in row:
                return name
        wanted = " or ".join(map(repr, dict.fromkeys(named or [str(feature)])))
        raise RecordingError(f"{self.path}: no column {wanted}; it has {', '.join(row)}")

    def _topic(self, row: Row) -> Callable[[Row], str]:
        """What makes the topic that a row would have come by."""
        if "topic" in row:
            return lambda row: str(row["topic"])
        pattern, names = self._routes.patterns[0], self._routes.patterns[0].names
        if len(self._routes.patterns) > 1:
            raise RecordingError(f"{self.path}: several input topics need a column 'topic'")
        template = pattern.own_text.replace("+", "_").replace("#", "_")
        if all(name in row for name in names):
            return lambda row: fill(template, {name: str(row[name]) for name in names})
        if "stream" not in row:
            return lambda row: fill(template, dict.fromkeys(names, "replay"))
        if not names or (len(names) > 1 and self._spec.stream is not None):
            raise RecordingError(
                f"{self.path}: a column 'stream' does not tell the topic {pattern.text!r}: name "
                f"columns {', '.join(names) or 'topic'} instead"
            )
        return lambda row: fill(template, _parts(names, str(row["stream"])))


def _parts(names: tuple[str, ...], stream: str) -> dict[str, str]:
    values = stream.split("/")
    if len(values) != len(names):
        raise ValueError(f"stream {stream!r} is not {'/'.join(names)}")
    return dict(zip(names, values, strict=True))


def _document(values: Any) -> Any:
    document: Any = None
    for path, value in values:
        document = _put(document, path, value)
    return {} if document is None else document


def _put(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """The document with a value where the path leads; None is nothing."""
    if value is None:
        return document
    if not path:
        return value
    step, *rest = path
    if isinstance(step, str):
        document = document or {}
        document[step] = _put(document.get(step), tuple(rest), value)
        return document
    document = document or []
    document += [None] * (step + 1 - len(document))
    document[step] = _put(document[step], tuple(rest), value)
    return document


def _value(value: Any) -> Any:
    """A cell as JSON has it: a number if it is one; None for an empty cell."""
    if not isinstance(value, str):
        return value.item() if isinstance(value, np.generic) else value
    if not (text := value.strip()):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _seconds(cell: Any) -> float:
    value = _value(cell)
    if isinstance(value, str):
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if value is None or not 0 <= value < _LATEST:
        raise ValueError(f"timestamp {value}: expected seconds since 1970 or an ISO 8601 text")
    return float(value)


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
        try:
            names = [name.strip() for name in next(reader, [])]
            if len(set(names)) < len(names) or not names:
                raise RecordingError(f"{path}: its first line must name the columns, each once")
            for row in reader:
                if row and len(row) != len(names):
                    where = f"line {reader.line_num}: {len(row)} values"
                    raise RecordingError(f"{path}: {where}, expected {len(names)}")
                if row:
                    yield dict(zip(names, row, strict=True))
        except (csv.Error, UnicodeDecodeError) as e:
            raise RecordingError(f"{path}: line {reader.line_num}: {e}") from e


def _npz(path: Path) -> Iterator[Row]:
    columns = _arrays(path)
    lengths = {name: len(a) for name, a in columns.items()}
    if len(set(lengths.values())) != 1:
        raise RecordingError(f"{path}: arrays of one length are expected, got {lengths}")
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as file:
            if sum(i.file_size for i in file.infolist()) > MAX_NPZ_BYTES:
                raise RecordingError(f"{path}: more than {MAX_NPZ_BYTES} bytes unpacked")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as e:
        raise RecordingError(f"{path}: not an npz file of plain arrays: {e}") from e
    for name, a in arrays.items():
        if a.dtype.kind not in "biufU" or a.ndim != (2 if name == "x" else 1):
            raise RecordingError(f"{path}: array {name!r}: {a.dtype} {a.shape}, expected a column")
    if not arrays:
        raise RecordingError(f"{path}: no arrays")
    return arrays


def _stamped(stamps: Stamps, row: Row, counted: int | None) -> Properties:
    """The user properties that number a row: by its columns, or as counted."""
    sequence = row[stamps.sequence] if counted is None else counted
    epoch = row[stamps.epoch] if stamps.epoch and stamps.epoch in row else 0
    return stamps.write(int(epoch), int(sequence))
