"""Child processes that end with their parent, and the embedded broker."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edge_rnn.errors import MissingExtraError

_STOP_SECONDS = 15
_INFLIGHT = 200  # the default of 100 makes a busy daemon wait for its own acknowledgements
# The kernel signals the child when we end, however we end.
_TETHER = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@contextmanager
def python(
    *args: str, log: IO[bytes], stdout: int | IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`python ARGS` in a session of its own, so that Ctrl-C reaches only us; stopped at exit."""
    command = [sys.executable, "-c", _TETHER, *args]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log if stdout is None else stdout,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL for one that does not listen."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def embedded_broker() -> Iterator[tuple[str, int]]:
    """A broker on a free port of 127.0.0.1 -> (host, port). Raises MissingExtraError."""
    try:
        from iotcore import Broker
    except ImportError as e:
        need = "for the demo's broker (or use your own: --broker HOST:PORT)"
        raise MissingExtraError("iotcore>=0.4", extra="demo", need=need) from e
    with Broker(port=free_port(), listen="127.0.0.1", max_inflight_count=_INFLIGHT) as broker:
        yield "127.0.0.1", broker.port


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def memory_mb(pid: int) -> float:
    """Resident memory of a process in MB; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(s.split()[1]) / 1e3 for s in status.splitlines() if "VmRSS" in s), 0.0)
