"""Daemons by fork: one process imports and compiles, then forks a daemon for each start.

    with Forge(folder) as forge:
        daemon = forge.start(config, ["die", "before the commit", 3, 0])

What is forked is `edge-rnn run --json CONFIG` with its own sockets and files, in milliseconds in
place of seconds. Before that it makes the preparations asked for, which `hobbles` names.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Forked:
    """A daemon that was forked. Its pidfd makes sure that nobody else is ever signalled."""

    def __init__(self, pid: int, log: Path, replies: IO[bytes]) -> None:
        self.pid, self.log_path, self._replies = pid, log, replies
        self._fd = os.pidfd_open(pid)
        self._status: int | None = None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait(self, seconds: float = PATIENCE) -> bool:
        """Whether it has ended, after so many seconds at most."""
        return self._status is not None or bool(select.select([self._fd], [], [], seconds)[0])

    def send(self, number: signal.Signals) -> None:
        if not self.wait(0):
            signal.pidfd_send_signal(self._fd, number)

    def status(self) -> int:
        """How it ended: its exit code, or less than 0 for a signal; waits for that."""
        if self._status is None:
            assert self.wait(), f"still running after {PATIENCE} s:\n{self.log[-3000:]}"
            self._status = int(self._replies.readline())
            os.close(self._fd)
        return self._status

    def kill(self) -> int:
        self.send(signal.SIGKILL)
        return self.status()

    def stop(self) -> int:
        self.send(signal.SIGTERM)
        return self.status()

    def limit(self, name: str, value: int) -> None:
        """Change one of its soft limits, such as RLIMIT_FSIZE."""
        number = getattr(resource, name)
        _, hard = resource.prlimit(self.pid, number)
        resource.prlimit(self.pid, number, (value, hard))


class Forge:
    """Forks one daemon at a time; its end is theirs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.delivery.forge"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._last: Forked | None = None

    def start(self, config: Path, *preparations: list[Any]) -> Forked:
        """A daemon of this configuration, whose log grows beside it."""
        assert self._last is None or self._last.status() is not None
        assert self._process.stdin
        assert self._process.stdout
        log = config.with_suffix(".log")
        log.touch()
        request = {"config": str(config), "log": str(log), "preparations": preparations}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        self._last = Forked(int(self._process.stdout.readline()), log, self._process.stdout)
        return self._last

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._last is not None:
            self._last.kill()
        self._process.communicate(timeout=PATIENCE)


def serve() -> None:
    """Fork as told by lines of stdin; answer the child's pid, and its status when it has ended."""
    import edge_rnn.cli.serving  # noqa: F401
    import tests.delivery.hobbles  # noqa: F401
    from edge_rnn.kernels import step

    _ = step.function
    gc.collect()
    gc.freeze()  # or each child's collector copies the parent's pages
    for line in sys.stdin.buffer:
        pid = os.fork()
        if not pid:
            _become_daemon(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become_daemon(request: dict[str, Any]) -> None:
    from edge_rnn.cli import main
    from tests.delivery.hobbles import HOBBLES

    code = 70
    try:
        _end_with_parent()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for fd, target in (nothing, 0), (log, 1), (log, 2):
            os.dup2(fd, target)
        for name, *arguments in request["preparations"]:
            HOBBLES[name](*arguments)
        main(["run", "--json", request["config"]])
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    _end_with_parent()
    serve()
