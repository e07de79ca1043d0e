"""A network between the daemon and its broker that can be made bad.

One thread for each direction of a connection; no TLS. `disorder` knows as much of MQTT as where a
packet ends and which ones are messages.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_PUBLISH = 3
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no farewell


class Proxy:
    """Listens on `port` and forwards to the target.

    rate: bytes a second, 0 for as many as come. disorder: messages come twice and in another order.
    """

    def __init__(self, target: int, seed: int = 0) -> None:
        self._target, self._random = target, random.Random(seed)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.rate, self.disorder = 0, False
        self.connections = 0
        self._open = threading.Event()
        self._open.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lost: set[socket.socket] = set()
        self._all: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Every connection breaks, on both sides."""
        for pair in self._pairs:
            for sock in pair:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    sock.shutdown(socket.SHUT_RD)  # who waits for it no longer does
                sock.close()
        self._pairs.clear()

    def stall(self) -> None:
        """Nothing comes through, until `go_on`."""
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    def forget(self) -> None:
        """The connections are half open: the daemon's side hears of nothing, ever."""
        for near, far in self._pairs:
            self._lost.add(near)
            with suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.go_on()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.reset()
        for sock in self._all:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            self._all.append(near)
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._all.append(far)
            self.connections += 1
            self._pairs.append((near, far))
            forward, disorderly = lambda data: data, Disorder(self._random)
            self._pump(near, far, near, forward)
            self._pump(far, near, near, lambda d, m=disorderly: m(d) if self.disorder else d)

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        near: socket.socket,
        change: Callable[[bytes], bytes],
    ) -> None:
        def run() -> None:
            with suppress(OSError):
                while data := source.recv(max(1, self.rate // 20) if self.rate else 1 << 16):
                    self._open.wait()
                    if self.rate:
                        time.sleep(len(data) / self.rate)
                    if near not in self._lost:
                        sink.sendall(change(data))
            if near not in self._lost:
                for sock in (source, sink):
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=run, daemon=True).start()


class Disorder:
    """Shuffles the messages among the packets that it is given together, and doubles some."""

    def __init__(self, r: random.Random) -> None:
        self._random, self._buffer = r, b""

    def __call__(self, data: bytes) -> bytes:
        self._buffer += data
        packets = []
        while size := _packet_size(self._buffer):
            packets.append(self._buffer[:size])
            self._buffer = self._buffer[size:]
        messages = [p for p in packets if p[0] >> 4 == _PUBLISH]
        messages += [p for p in messages if self._random.random() < 0.1]
        self._random.shuffle(messages)
        return b"".join([*(p for p in packets if p[0] >> 4 != _PUBLISH), *messages])


def _packet_size(data: bytes) -> int:
    """Of the packet that the data begin with; 0 if it is not all there."""
    length = 0
    for i, byte in enumerate(data[1:5]):
        length |= (byte & 127) << 7 * i
        if byte < 128:
            size = 2 + i + length
            return size if size <= len(data) else 0
    return 0
