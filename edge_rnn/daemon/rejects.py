"""Messages set aside: a file of JSON lines that never grows beyond its bounds."""

from __future__ import annotations

import base64
import os
from io import FileIO
from pathlib import Path

import msgspec

MAX_KEPT_BYTES = 4096


class _Line(msgspec.Struct, omit_defaults=True, kw_only=True):
    time: float
    topic: str
    reason: str
    detail: str
    bytes: int
    payload: str | None = None
    payload_base64: str | None = None


class RejectFile:
    """Appends to `path` and moves it to `path`.1 before it exceeds `max_bytes`.

    The two together hold at most twice that and one message. Raises OSError if it can't be written.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._file = self._open()

    def write(self, time: float, topic: str, reason: str, detail: str, payload: bytes) -> None:
        """Set one message aside; time in seconds since 1970, a long payload only in part."""
        line = _Line(time=time, topic=topic, reason=reason, detail=detail, bytes=len(payload))
        kept = payload[:MAX_KEPT_BYTES]
        try:
            line.payload = kept.decode()
        except UnicodeDecodeError:
            line.payload_base64 = base64.b64encode(kept).decode()
        encoded = msgspec.json.encode(line) + b"\n"
        if self._file.tell() + len(encoded) > self.max_bytes and self._file.tell():
            self._rotate()
        self._file.write(encoded)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        self.path.replace(f"{self.path}.1")
        self._file = self._open()

    def _open(self) -> FileIO:
        fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return FileIO(fd, "ab")
