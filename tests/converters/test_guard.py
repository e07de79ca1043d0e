"""A file that crashes or hangs what reads it ends in an error of ours."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_rnn.errors import ModelError
from edge_rnn_converters.guard import Limits, guarded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "m.h5"
    file.write_bytes(b"x")
    return file


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_that_of_the_work(code: int, path: Path) -> None:
    assert guarded(path, lambda read: code) == code


def test_the_work_may_exit(path: Path) -> None:
    assert guarded(path, lambda read: sys.exit(2)) == 2


def test_an_exception_is_shown_and_fails(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert guarded(path, lambda read: 1 // 0) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def crash(read: Callable[[], None]) -> int:
    faulthandler.disable()  # pytest's would print a page
    ctypes.string_at(0)
    return 0


def test_a_crash_is_an_error_of_ours(path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.h5: what reads such files crashed on it \(SIGSEGV\)"):
        guarded(path, crash)


def hang(read: Callable[[], None]) -> int:
    while True:
        pass


def test_a_hang_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "of", lambda path: Limits(0.2, 1 << 40))
    with pytest.raises(ModelError, match=r"m\.h5: reading it took more than 0 s of processor"):
        guarded(path, hang)


def hoard(read: Callable[[], None]) -> int:
    kept = []
    while True:
        kept.append(bytes(range(256)) * 4000)


def test_a_hoard_of_memory_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "of", lambda path: Limits(60, 1 << 30))
    with pytest.raises(ModelError, match=r"m\.h5: reading it took more than 1\.1 GB of memory"):
        guarded(path, hoard)


def slow_after_reading(read: Callable[[], None]) -> int:
    read()
    end = time.process_time() + 0.8
    while time.process_time() < end:
        pass
    return 0


def test_what_comes_after_reading_may_take_its_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Limits, "of", lambda path: Limits(0.3, 1 << 40))
    assert guarded(path, slow_after_reading) == 0


def test_large_files_and_folders_may_take_more(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(10_000_000))
    expected = Limits(11, (1 << 30) + 80_000_000)
    assert Limits.of(tmp_path / "weights") == Limits.of(tmp_path) == expected


def test_ctrl_c_ends_both(path: Path) -> None:
    script = (
        "import time; from pathlib import Path; from edge_rnn_converters.guard import guarded\n"
        f"raise SystemExit(guarded(Path({str(path)!r}), lambda read: (print('on', flush=True),"
        " time.sleep(60), 0)[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None and process.stdout.readline() == b"on\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 130
    process.stdout.close()
