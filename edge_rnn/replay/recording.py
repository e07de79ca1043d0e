"""Recordings: what came by MQTT, in the order it came. `docs/replay.md` has the file's format.

A file is only ever appended to, in frames that each carry their length and a checksum, so that it
can be read up to the last whole frame whatever happened to the recorder.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self
from zlib import crc32

import msgspec

from edge_rnn.errors import RecordingError

MAGIC = b"edge-rnn recording 1\n"
MAX_FRAME_BYTES = (1 << 28) + (1 << 17)
"""A packet of MQTT has at most 2^28 bytes."""

Kind = Literal["in", "out", "break"]
"""A message for the pipeline; one that it published; the recorder's connection was lost here."""

_FRAME = struct.Struct("<II")


class Event(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Something that came `at` so many seconds since 1970; `properties` are MQTT 5's user ones."""

    kind: Kind
    at: float
    topic: str = ""
    payload: bytes = b""
    retain: bool = False
    properties: tuple[tuple[str, str], ...] = ()


class Header(msgspec.Struct, frozen=True):
    """What a recording is of: a pipeline's name, the filters of its inputs and, where predictions
    were recorded too, of its outputs; when it began, in seconds since 1970."""

    pipeline: str
    started: float
    inputs: list[str]
    outputs: list[str] = []


class Writer:
    """A new recording, readable by its owner only. Raises OSError, FileExistsError among them."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
        self._encode = msgspec.msgpack.Encoder().encode
        self._put(MAGIC + _framed(self._encode(header)))

    def append(self, events: Iterable[Event]) -> None:
        """Add events: a crash of this process loses none of them, one of the machine those since
        the last `sync`."""
        self._put(b"".join(_framed(self._encode(e)) for e in events))

    def sync(self) -> None:
        """Have the disk hold what was added."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End the recording."""
        self.sync()
        self._file.close()

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class Reader:
    """A recording's header, and its events in order.

    `position` of `size` bytes are read; after the last event `torn` is how many bytes at the end
    are no whole frame. Raises RecordingError, naming the file, if it is none, or OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.torn = path, 0
        with path.open("rb") as file:
            self.size, self.position = os.fstat(file.fileno()).st_size, len(MAGIC)
            if file.read(len(MAGIC)) != MAGIC:
                raise RecordingError(f"{path}: not a recording of edge-rnn")
            frame = _read(file, self.size - self.position)
            try:
                self.header = msgspec.msgpack.decode(frame or b"", type=Header)
            except msgspec.MsgspecError as e:
                raise RecordingError(f"{path}: its header is not whole: {e}") from e
            self.position = self._begin = file.tell()

    def __iter__(self) -> Iterator[Event]:
        decode = msgspec.msgpack.Decoder(Event).decode
        self.position = self._begin
        with self.path.open("rb", buffering=1 << 20) as file:
            file.seek(self._begin)
            while (frame := _read(file, self.size - self.position)) is not None:
                self.position += _FRAME.size + len(frame)
                try:
                    yield decode(frame)
                except msgspec.MsgspecError as e:
                    raise RecordingError(f"{self.path}: byte {self.position}: {e}") from e
        self.torn = self.size - self.position


def _framed(data: bytes) -> bytes:
    return _FRAME.pack(len(data), crc32(data)) + data


def _read(file: BinaryIO, left: int) -> bytes | None:
    """The next frame, None where there is no whole one."""
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    length, checksum = _FRAME.unpack(head)
    if not 0 < length <= min(MAX_FRAME_BYTES, left - _FRAME.size):
        return None
    data = file.read(length)
    return data if crc32(data) == checksum else None
