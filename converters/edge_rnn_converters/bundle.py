"""TensorFlow's checkpoints, read in pure Python: NAME.index and NAME.data-00000-of-00001.

The index is a table as LevelDB writes it (doc/table_format.md there), from names to where each
tensor is; see tensorflow/core/util/tensor_bundle. It is data from a stranger: every size is checked
against the files before anything is taken, and every checksum that they hold is compared.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32
from edge_rnn_converters import wire
from edge_rnn_converters.crc32c import masked
from edge_rnn_converters.source import MAX_BYTES

_MAX_INDEX = 32 << 20
_MAX_TEXT = 16 << 20
_MAX_TENSORS = 200_000
_FOOTER, _MAGIC = 48, 0xDB4775248B80FB57
_TRAILER = 5
"""Behind a block: how it is compressed, in one byte, and its checksum."""
_NUMBERS = {1: "<f4", 3: "<i4", 9: "<i8"}
_TEXT = 7


GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The tensor that holds the graph of the objects whose variables were saved."""


@dataclass(frozen=True, slots=True)
class Object:
    """What hangs at it, (name, number) in the order in which it was hung there, and the name of its
    tensor in the checkpoint if it is a variable, else ""."""

    children: tuple[tuple[str, int], ...]
    tensor: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a tensor is: `size` bytes from `offset` of the file of number `shard`."""

    kind: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """The tensors of a checkpoint by name."""

    entries: dict[str, _Entry]
    shards: tuple[Path, ...]

    def array(self, name: str) -> F32:
        """A tensor of numbers as float32.

        Raises UnsupportedError for numbers that are not float32 or whole, ModelError where there
        is no such tensor or its bytes are not those that were saved.
        """
        entry = self._entry(name)
        if entry.kind not in _NUMBERS or entry.sliced:
            what = "is saved in parts" if entry.sliced else f"has TensorFlow's dtype {entry.kind}"
            raise UnsupportedError(f"tensor {name!r}: {what}; save the model in float32, whole")
        dtype = np.dtype(_NUMBERS[entry.kind])
        if math.prod(entry.shape) * dtype.itemsize != entry.size:
            raise ModelError(f"tensor {name!r}: {entry.size} bytes are not of shape {entry.shape}")
        data = self._bytes(entry)
        if masked(data) != entry.crc:
            raise _damaged(name)
        return np.frombuffer(data, dtype).reshape(entry.shape).astype(np.float32)

    def text(self, name: str) -> memoryview:
        """The bytes of a tensor that holds one text.

        Raises ModelError for any other or a damaged one, UnsupportedError for one too long.
        """
        entry = self._entry(name)
        if entry.kind != _TEXT or entry.shape:
            raise ModelError(f"tensor {name!r}: expected one text")
        if entry.size > _MAX_TEXT:
            raise UnsupportedError(
                f"tensor {name!r}: more than the {_MAX_TEXT} bytes that are read"
            )
        data = memoryview(self._bytes(entry))
        length, at = wire.varint(data, 0)
        head, crc, body = struct.pack("<I", length & 0xFFFFFFFF), data[at : at + 4], data[at + 4 :]
        if length != len(body) or masked(head) != int.from_bytes(crc, "little"):
            raise _damaged(name)
        if masked(b"".join((head, crc, body))) != entry.crc:
            raise _damaged(name)
        return body

    def _entry(self, name: str) -> _Entry:
        if name not in self.entries:
            raise ModelError(f"{self.shards[0].name}: the checkpoint holds no tensor {name!r}")
        return self.entries[name]

    def _bytes(self, entry: _Entry) -> bytes:
        with self.shards[entry.shard].open("rb") as f:
            f.seek(entry.offset)
            return f.read(entry.size)


def load(prefix: Path) -> Bundle:
    """The checkpoint whose files' names begin so; its tensors are read when they are asked for.

    Raises ModelError where files are damaged or missing, UnsupportedError where they are larger
    than is read, or of another kind of machine.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    if not index.is_file():
        raise ModelError(f"{index.name}: is missing; copy the whole folder")
    if index.stat().st_size > _MAX_INDEX:
        raise UnsupportedError(f"{index.name}: more than the {_MAX_INDEX} bytes that are read")
    found = dict(islice(_table(index.name, memoryview(index.read_bytes())), _MAX_TENSORS + 1))
    if len(found) > _MAX_TENSORS:
        raise UnsupportedError(f"{index.name}: more than the {_MAX_TENSORS} tensors that are read")
    header = found.pop("", memoryview(b""))
    if wire.whole(header, 2):
        raise UnsupportedError(f"{index.name}: its numbers are big-endian; save it elsewhere")
    count = wire.whole(header, 1)
    if not 0 < count < 100_000:
        raise ModelError(f"{index.name}: says that it has {count} files of data")
    entries = {name: _place(value) for name, value in found.items()}
    names = (f"{prefix.name}.data-{i:05}-of-{count:05}" for i in range(count))
    return Bundle(entries, _checked(index.name, entries, [prefix.with_name(n) for n in names]))


def objects(graph: memoryview) -> tuple[Object, ...]:
    """The objects of a graph, a checkpoint's or a SavedModel's, by their numbers."""
    return tuple(map(_object, wire.messages(graph, 1)))


def _object(node: memoryview) -> Object:
    children = ((wire.text(c, 2), wire.whole(c, 1)) for c in wire.messages(node, 1))
    return Object(tuple(children), next((wire.text(a, 3) for a in wire.messages(node, 2)), ""))


def _checked(index: str, entries: dict[str, _Entry], shards: list[Path]) -> tuple[Path, ...]:
    """The files of data, in which all tensors lie beside each other."""
    if missing := [path.name for path in shards if not path.is_file()]:
        raise ModelError(f"{missing[0]}: is missing; copy the whole folder")
    sizes = [path.stat().st_size for path in shards]
    if sum(sizes) > MAX_BYTES:
        raise UnsupportedError(f"{index}: more than the {MAX_BYTES} bytes that are read")
    for name, entry in entries.items():
        if entry.shard >= len(sizes) or entry.offset + entry.size > sizes[entry.shard]:
            raise ModelError(f"{index}: tensor {name!r} lies outside the files of data")
    if sum(entry.size for entry in entries.values()) > sum(sizes):
        raise ModelError(f"{index}: tensors lie over each other")
    return tuple(shards)


def _place(value: memoryview) -> _Entry:
    """A BundleEntryProto."""
    crc, sliced = 0, False
    for number, field in wire.fields(value):
        if number == 6 and isinstance(field, memoryview):
            crc = int.from_bytes(field, "little")
        sliced = sliced or number == 7
    shape = [d for s in wire.messages(value, 2) for d in wire.messages(s, 2)]
    kind, shard, offset, size = (wire.whole(value, number) for number in (1, 3, 4, 5))
    sizes = tuple(wire.whole(d, 1) for d in shape)
    return _Entry(kind, sizes, shard, offset, size, crc, sliced)


def _table(name: str, data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """The table's keys and values, in their order. Raises ModelError."""
    footer = data[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ModelError(f"{name}: is not the index of a checkpoint, or is cut off")
    at = 0
    for _ in range(3):  # the other index's offset and size, then this one's offset
        offset, at = wire.varint(footer, at)
    size, _ = wire.varint(footer, at)
    last = -1
    for _, handle in _entries(name, _block(name, data, offset, size)):
        start, at = wire.varint(handle, 0)
        length, _ = wire.varint(handle, at)
        if start <= last:
            raise ModelError(f"{name}: its blocks are not in their order")
        last = start
        yield from _entries(name, _block(name, data, start, length))


def _block(name: str, data: memoryview, offset: int, size: int) -> memoryview:
    if offset + size + _TRAILER > len(data):
        raise ModelError(f"{name}: a block lies outside the file")
    block, crc = data[offset : offset + size + 1], data[offset + size + 1 : offset + size + 5]
    if masked(block) != int.from_bytes(crc, "little"):
        raise _damaged(name)
    if block[-1]:
        raise UnsupportedError(f"{name}: is compressed, as TensorFlow saves no checkpoint")
    return block[:-1]


def _entries(name: str, block: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Of each key the file has what is not as in the key before."""
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = len(block) - 4 * (restarts + 1), 0, b""
    if end < 0:
        raise ModelError(f"{name}: a block is cut off")
    while at < end:
        shared, at = wire.varint(block, at)
        own, at = wire.varint(block, at)
        size, at = wire.varint(block, at)
        if shared > len(key) or at + own + size > end:
            raise ModelError(f"{name}: a key or a value is cut off")
        key = key[:shared] + bytes(block[at : at + own])
        yield str(key, "utf-8", "replace"), block[at + own : at + own + size]
        at += own + size


def _damaged(what: str) -> ModelError:
    return ModelError(f"{what}: its checksum does not fit: it is damaged; copy it again")
