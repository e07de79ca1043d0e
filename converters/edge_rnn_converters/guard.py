"""A stranger's file is read in a process of its own: the libraries that read it may crash or hang.

HDF5, protobuf, flatbuffers and the engines behind them are C and C++ code, and a damaged file can
end the process that reads it, without any exception. So a command that reads one does its work in
a child, and its parent says what became of it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

from edge_rnn.errors import ModelError

Work: TypeAlias = Callable[[Callable[[], None]], int]
"""Does the work and returns the exit code; calls its argument when the file has been read."""

_POLL_SECONDS = 0.05
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading a file may take: seconds of processor time, bytes of memory."""

    seconds: float
    memory: int

    @classmethod
    def of(cls, path: Path) -> Limits:
        """10 s and 1 GB, and more for a large file: a second for 10 MB, eight times its size."""
        size = sum(f.stat().st_size for f in path.rglob("*")) if path.is_dir() else 0
        size = size or path.stat().st_size
        return cls(10 + size / 10e6, (1 << 30) + 8 * size)


def guarded(path: Path, work: Work) -> int:
    """The exit code of `work`, done in a child process that is ended where it oversteps.

    Call it from the main thread. Raises ModelError, naming the file, when reading it crashed or
    took more than `Limits` allow. Where the system can't fork, the work is done in this process.
    """
    if not hasattr(os, "fork"):
        return work(lambda: None)
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(read)
        _work(work, write)
    os.close(write)
    os.set_blocking(read, False)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child has it too, and cleans up
    try:
        return _outcome(path, *_watched(child, read, Limits.of(path)))
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(read)


def _work(work: Work, told: int) -> NoReturn:
    """In the child: never returns into the parent's stack."""
    code = 1
    try:
        code = work(lambda: (os.write(told, b"."), None)[1])
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watched(child: int, told: int, limits: Limits) -> tuple[int, str]:
    """(how the child ended as `waitpid` says, what it overstepped and was ended for)."""
    reading, overstepped = True, ""
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status, overstepped
        reading = reading and not _hears(told)
        if reading and not overstepped and (overstepped := _oversteps(child, limits)):
            os.kill(child, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


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
    if (int(fields[11]) + int(fields[12])) / _TICKS > limits.seconds:
        return f"more than {limits.seconds:.0f} s of processor time"
    if resident * os.sysconf("SC_PAGE_SIZE") > limits.memory:
        return f"more than {limits.memory / 1e9:.1f} GB of memory"
    return ""


def _outcome(path: Path, status: int, overstepped: str) -> int:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    if overstepped:
        raise ModelError(f"{path.name}: reading it took {overstepped}: it is damaged or no model")
    name = signal.Signals(-code).name
    raise ModelError(f"{path.name}: what reads such files crashed on it ({name}): it is damaged")
