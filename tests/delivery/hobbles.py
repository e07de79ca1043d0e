"""What is done to a daemon before it starts: death at a write boundary, and other troubles."""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_rnn.daemon.outbox import Outbox
from edge_rnn.daemon.service import Service
from edge_rnn.journal import Journal
from edge_rnn.mqtt import Link
from edge_rnn.payload import Encoder
from tests.delivery import power

_SET_SYSTEM_CALL = 18  # which pointer in https://www.sqlite.org/c3ref/vfs.html
_KEPT: list[Any] = []  # what C calls
LONGEST_COMMIT = 0.004


BOUNDARIES: dict[str, tuple[str, str, str]] = {
    "opening the state file": ("journal", "load", "after"),
    "before the commit": ("journal", "commit", "before"),
    "inside the commit": ("journal", "_post", "before"),
    "about the commit": ("journal", "commit", "about"),
    "in a checkpoint": ("journal", "commit", "checkpoint"),
    "after the commit": ("journal", "commit", "after"),
    "before acknowledging": ("link", "ack", "before"),
    "acknowledged": ("link", "ack", "after"),
    "while sending": ("link", "publish", "after"),
    "inside a packet": ("socket", "send", "torn"),
    "sent": ("outbox", "send", "after"),
    "before what arrived is forgotten": ("journal", "commit", "before"),
    "after what arrived was forgotten": ("journal", "commit", "after"),
    "while stopping": ("service", "_flush", "before"),
    "power loss": ("journal", "commit", "power"),
    "power loss in a checkpoint": ("journal", "commit", "checkpoint"),
}
"""Where a process can die: whose method, and which side of it.

about: at some microsecond while the commit runs, by another process's hand; checkpoint: the same
while each commit also writes the database itself; torn: after a part of the bytes; power: after the
commit, whose writes `power.tear` then undoes in part.
"""


def _forgets(_: Journal, commit: Any, letters: Any = (), delivered: Any = (), *more: Any) -> bool:
    return bool(delivered)


CALLS: dict[str, Callable[..., bool]] = {
    "inside a packet": lambda _, data, *__: len(data) > 4,
    "before what arrived is forgotten": _forgets,
    "after what arrived was forgotten": _forgets,
}
"""Of some boundaries: which calls come to it."""


def die(boundary: str, count: int, seed: int) -> None:
    """Have the process be killed when it comes to the boundary for the count-th time."""
    owner, name, side = BOUNDARIES[boundary]
    comes = CALLS.get(boundary, lambda *_, **__: True)
    reached = 0

    def plant(kind: type) -> None:
        original: Callable[..., Any] = getattr(kind, name)

        def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal reached
            reached += comes(self, *args, **kwargs)
            if reached < count:
                return original(self, *args, **kwargs)
            return SIDES[side](original, random.Random(seed), self, *args, **kwargs)

        setattr(kind, name, killed)

    if boundary == "while stopping":
        _at_commit(count, lambda: os.kill(os.getpid(), signal.SIGTERM))
        count = 1
    plant({"journal": Journal, "link": Link, "outbox": Outbox, "service": Service,
           "socket": socket.socket}[owner])  # fmt: skip


def _now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _before(original: Callable[..., Any], r: random.Random, *args: Any, **kwargs: Any) -> None:
    _now()


def _after(original: Callable[..., Any], r: random.Random, self: Any, *args: Any, **k: Any) -> None:
    original(self, *args, **k)
    if hasattr(self, "flush"):
        self.flush()  # what was written is what a kill leaves on the way
    _now()


def _about(original: Callable[..., Any], r: random.Random, *args: Any, **kwargs: Any) -> None:
    """Another process kills us while this runs, or a moment later."""
    victim, moment = os.getpid(), r.uniform(0, LONGEST_COMMIT)
    if not os.fork():
        time.sleep(moment)
        os.kill(victim, signal.SIGKILL)
        os._exit(0)
    original(*args, **kwargs)
    time.sleep(60)


def _checkpoint(original: Callable[..., Any], r: random.Random, self: Any, *args: Any) -> None:
    self._db.execute("PRAGMA wal_autocheckpoint = 1")
    _about(original, r, self, *args)


def _torn(original: Callable[..., Any], r: random.Random, self: Any, data: Any, *args: Any) -> None:
    original(self, bytes(data)[: r.randint(1, len(data) - 1)], *args)
    _now()


def _power(original: Callable[..., Any], r: random.Random, self: Any, *args: Any) -> None:
    """Note how much of the log is safe before the commit whose writes are torn then."""
    power.note_safe(Path(f"{self.path}-wal"))
    original(self, *args)
    _now()


SIDES: dict[str, Callable[..., Any]] = {
    "before": _before,
    "after": _after,
    "about": _about,
    "checkpoint": _checkpoint,
    "torn": _torn,
    "power": _power,
}


def _at_commit(count: int, do: Callable[[], None]) -> None:
    original, commits = Journal.commit, 0

    def commit(self: Journal, *args: Any, **kwargs: Any) -> Any:
        nonlocal commits
        commits += 1
        if commits == count:
            do()
        return original(self, *args, **kwargs)

    Journal.commit = commit  # type: ignore[method-assign]


def wall_clock(file: str) -> None:
    """The wall clock is off by as many seconds as the file says at that moment."""
    true_time, true_time_ns = time.time, time.time_ns
    time.time = lambda: true_time() + float(Path(file).read_text())
    time.time_ns = lambda: true_time_ns() + int(1e9 * float(Path(file).read_text()))


def out_of_memory(count: int) -> None:
    """There is none for the count-th prediction: its batch is stepped and half answered."""
    original, made = Encoder.encode, 0

    def encode(self: Encoder, *args: Any, **kwargs: Any) -> bytes:
        nonlocal made
        made += 1
        if made == count:
            raise MemoryError
        return original(self, *args, **kwargs)

    Encoder.encode = encode  # type: ignore[method-assign]


def failing_writes(toggle: str, number: int) -> None:
    """While the file `toggle` is there, what SQLite writes fails with this `errno`."""
    lib = ctypes.CDLL(_sqlite3.__file__)
    lib.sqlite3_vfs_find.restype = ctypes.POINTER(ctypes.c_void_p)
    vfs = lib.sqlite3_vfs_find(None)
    set_call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    kind = ctypes.CFUNCTYPE(
        *(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64),
        use_errno=True,
    )

    def write(fd: int, data: int, size: int, at: int) -> int:
        if Path(toggle).exists():
            ctypes.set_errno(number)
            return -1
        return os.pwrite(fd, ctypes.string_at(data, size), at)

    _KEPT.append(kind(write))
    for name in (b"pwrite", b"pwrite64"):
        set_call(vfs[_SET_SYSTEM_CALL])(vfs, name, _KEPT[-1])


HOBBLES: dict[str, Callable[..., None]] = {
    "die": die,
    "wall clock": wall_clock,
    "out of memory": out_of_memory,
    "failing writes": failing_writes,
}
