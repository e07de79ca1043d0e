"""A stranger's file is read in a process of its own: the libraries that read it may crash or hang.

HDF5, protobuf, flatbuffers and the engines behind them are C and C++ code, and a damaged file can
end the process that reads it, without any exception. So a command that reads one does its work in
a child, and its parent says what became of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edge_rnn.errors import ModelError

_TOLD = "EDGE_RNN_GUARD"
"""In a guarded process: the file descriptor that its guard listens to."""

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading a file may take: seconds of processor time, bytes of memory."""

    seconds: float
    memory: int

    @classmethod
    def of(cls, path: Path) -> Limits:
        """10 s and 1 GB, and more for a large file: a second for 10 MB, eight times its size.
        Loading TensorFlow for a SavedModel takes 5 s and 0.7 GB by itself: 20 s, 1 GB more."""
        size = sum(f.stat().st_size for f in path.rglob("*")) if path.is_dir() else 0
        size = size or path.stat().st_size
        tensorflow = (path / "saved_model.pb").is_file()
        return cls(10 + 20 * tensorflow + size / 10e6, (1 + tensorflow << 30) + 8 * size)


def guarding() -> bool:
    """Is this process guarded already?"""
    return _TOLD in os.environ


def has_read() -> None:
    """Tell the guard, if there is one, that the file has been read: from here on only crashes
    are its business."""
    if (told := os.environ.get(_TOLD)) is not None:
        os.write(int(told), b".")


class Guarded(click.Command):
    """A command with an argument `source`, a stranger's file. Where it is the whole program, whose
    arguments are then the context's `obj`, a guarded process does its work."""

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Command.invoke`. Raises ModelError as `guarded`."""
        if ctx.obj is not None and not guarding():
            ctx.exit(guarded(ctx.params["source"], [sys.executable, "-m", "edge_rnn", *ctx.obj]))
        return super().invoke(ctx)


def guarded(path: Path, command: Sequence[str]) -> int:
    """The exit code of a command that reads the file, which is ended where it oversteps.

    Raises ModelError, naming the file, when the command crashed, or took more than `Limits` allow
    before it said that it `has_read`.
    """
    read, write = os.pipe()
    os.set_blocking(read, False)
    child = subprocess.Popen(command, env={**os.environ, _TOLD: str(write)}, pass_fds=(write,))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child has it too, and cleans up
    try:
        overstepped = _watched(child, read, Limits.of(path))
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(read)
        os.close(write)
    return _outcome(path, child.returncode, overstepped)


def _watched(child: subprocess.Popen[bytes], told: int, limits: Limits) -> str:
    """Wait for the child's end -> what it overstepped and was ended for, if anything."""
    reading, overstepped = True, ""
    while child.poll() is None:
        reading = reading and not _hears(told)
        if reading and not overstepped and (overstepped := _oversteps(child.pid, limits)):
            child.kill()
        time.sleep(_POLL_SECONDS)
    return overstepped


def _hears(told: int) -> bool:
    try:
        return bool(os.read(told, 1))
    except BlockingIOError:
        return False


def _oversteps(child: int, limits: Limits) -> str:
    """What the child takes too much of, if anything; what can't be measured is not limited."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        resident = int(Path(f"/proc/{child}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return ""
    if (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > limits.seconds:
        return f"more than {limits.seconds:.0f} s of processor time"
    if resident * os.sysconf("SC_PAGE_SIZE") > limits.memory:
        return f"more than {limits.memory / 1e9:.1f} GB of memory"
    return ""


def _outcome(path: Path, code: int, overstepped: str) -> int:
    if code >= 0:
        return code
    if overstepped:
        raise ModelError(f"{path.name}: reading it took {overstepped}: it is damaged or no model")
    if code == -signal.SIGINT:
        return 130
    name = signal.Signals(-code).name
    raise ModelError(f"{path.name}: what reads such files crashed on it ({name}): it is damaged")
