"""Requests to a running daemon: a Unix socket beside its state file, for its owner only.

A message is its length, 8 bytes little-endian, and MessagePack. One request a connection; the
daemon answers between two batches.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_rnn.errors import EdgeRnnError, StateError
from edge_rnn.keeper.requests import Answer, Done, Fault, Request, Rows, Streams

MAX_MESSAGE_BYTES = 1 << 30
PATIENCE = 60.0
_READING = 10.0
_LENGTH = struct.Struct("<Q")
_CREDENTIALS = struct.Struct("3i")

T = TypeVar("T")
log = logging.getLogger(__name__)


def socket_path(state_file: Path) -> Path:
    """Where the daemon of a state file listens."""
    return state_file.with_name(f"{state_file.name}.sock")


def ask(state_file: Path, request: Request) -> Rows | Streams | Done:
    """Have the daemon that uses this file answer.

    Raises FileNotFoundError or ConnectionStateError where none listens, StateError for what it
    refuses, or OSError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s, _short(state_file) as path:
        s.settimeout(PATIENCE)
        s.connect(path)
        _send(s, msgspec.msgpack.encode(request))
        answer: Answer = _receive(s, Answer)
    if isinstance(answer, Fault):
        raise StateError(f"{state_file}: {answer.problem}")
    return answer


class Counter:
    """Takes requests for a daemon, whose main thread answers them by `serve`.

    wake: called from another thread when there is something to serve. Raises OSError.
    """

    def __init__(self, state_file: Path, wake: Callable[[], None]) -> None:
        self._path, self._wake = socket_path(state_file), wake
        self._asked: queue.SimpleQueue[tuple[Request, Future[Answer]]] = queue.SimpleQueue()
        self._path.unlink(missing_ok=True)  # the file's lock is ours: what is there is left over
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            with _short(state_file) as path:
                self._socket.bind(path)
            self._socket.listen()
        except OSError:
            self._socket.close()
            raise
        finally:
            os.umask(before)
        self._thread = threading.Thread(target=self._listen, name="requests", daemon=True)
        self._thread.start()

    def serve(self, answer: Callable[[Request], Answer]) -> None:
        """Answer what has been asked so far."""
        with contextlib.suppress(queue.Empty):
            while True:
                request, reply = self._asked.get_nowait()
                reply.set_result(answered(answer, request))

    def close(self) -> None:
        """Take no more."""
        with contextlib.suppress(OSError):  # a disk that takes nothing: the next start removes it
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the wait in accept
        self._socket.close()
        self.serve(lambda request: Fault("the daemon is stopping"))
        self._thread.join(1.0)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    self._take(connection)
                except (OSError, EdgeRnnError) as e:
                    log.debug("a request came to nothing: %s", e)

    def _take(self, s: socket.socket) -> None:
        s.settimeout(_READING)
        raw = s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(raw)[1] not in (0, os.geteuid()):
            return
        request: Request = _receive(s, Request)
        reply: Future[Answer] = Future()
        self._asked.put((request, reply))
        self._wake()
        s.settimeout(PATIENCE)
        _send(s, msgspec.msgpack.encode(reply.result(PATIENCE)))


def answered(answer: Callable[[Request], Answer], request: Request) -> Answer:
    """The answer, be it why there is none."""
    try:
        return answer(request)
    except (EdgeRnnError, OSError) as e:
        return Fault(str(e))


@contextlib.contextmanager
def _short(state_file: Path) -> Iterator[str]:
    """The socket's path by its folder's descriptor: a Unix socket's has 107 bytes at most."""
    path = socket_path(state_file)
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def _send(s: socket.socket, data: bytes) -> None:
    s.sendall(_LENGTH.pack(len(data)))
    s.sendall(data)


def _receive(s: socket.socket, kind: Any) -> Any:
    (length,) = _LENGTH.unpack(_read(s, _LENGTH.size))
    if length > MAX_MESSAGE_BYTES:
        raise StateError(f"a message of {length} bytes, at most {MAX_MESSAGE_BYTES} are taken")
    try:
        return msgspec.msgpack.decode(_read(s, length), type=kind)
    except msgspec.MsgspecError as e:
        raise StateError(f"not what another version of edge-rnn would understand: {e}") from e


def _read(s: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = s.recv(min(count - len(data), 1 << 20))
        if not part:
            raise StateError("the other side has hung up")
        data += part
    return bytes(data)
