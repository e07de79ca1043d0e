"""What the operator tells a running daemon: stop, or read the configuration again."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """SIGTERM and SIGINT set `stop`, SIGHUP asks for a reload; a second SIGINT exits at once.

    `fileno` becomes readable with each, so that a wait ends. For the main thread.
    """

    def __init__(self) -> None:
        self.stop = False
        self._reload = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handle) for number in _HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """What to wait for."""
        return self._read

    def wake(self) -> None:
        """End a wait, from another thread."""
        with contextlib.suppress(BlockingIOError):  # full: it is readable
            os.write(self._write, b"\0")

    def drain(self) -> None:
        """Make `fileno` unreadable until the next signal."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 512):
                pass

    def take_reload(self) -> bool:
        """Whether a reload was asked for since the last call."""
        asked, self._reload = self._reload, False
        return asked

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        elif number == signal.SIGINT and self.stop:
            os._exit(130)
        else:
            self.stop = True
