"""A file that crashes or hangs what reads it ends in an error of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_rnn.errors import ModelError
from edge_rnn_converters.guard import Limits, guarded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "m.h5"
    file.write_bytes(b"x")
    return file


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_that_of_the_command(code: int, path: Path) -> None:
    assert guarded(path, python(f"raise SystemExit({code})")) == code


def test_a_crash_is_an_error_of_ours(path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.h5: what reads such files crashed on it \(SIGSEGV\)"):
        guarded(path, python("import ctypes; ctypes.string_at(0)"))


def test_a_hang_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "of", lambda path: Limits(0.3, 1 << 40))
    with pytest.raises(ModelError, match=r"m\.h5: reading it took more than 0 s of processor"):
        guarded(path, python("while True: pass"))


def test_a_hoard_of_memory_ends(path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.h5: reading it took more than 1\.1 GB of memory"):
        guarded(path, python("x = b'x' * (1 << 31); input()"))


def test_what_comes_after_reading_may_take_its_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Limits, "of", lambda path: Limits(2, 1 << 40))
    code = (
        "import time; from edge_rnn_converters.guard import has_read; has_read()\n"
        "while time.process_time() < 3: pass"
    )
    assert guarded(path, python(code)) == 0


def test_large_files_and_folders_may_take_more(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(10_000_000))
    expected = Limits(11, (1 << 30) + 80_000_000)
    assert Limits.of(tmp_path / "weights") == Limits.of(tmp_path) == expected


def test_ctrl_c_ends_both(path: Path) -> None:
    inner = "import time; print('on', flush=True); time.sleep(60)"
    outer = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from edge_rnn_converters.guard import guarded\n"
        f"sys.exit(guarded(Path({str(path)!r}), [sys.executable, '-c', {inner!r}]))"
    )
    process = subprocess.Popen(
        python(outer),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == b"on\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 130
    process.stdout.close()


def test_convert_guards_what_it_reads(tmp_path: Path) -> None:
    """A file that hangs HDF5 itself, made of a good one; the command ends with our error."""
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07")
    done = subprocess.run(
        [sys.executable, "-m", "edge_rnn", "convert", "m.onnx", "-o", "m.ernn"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "has no graph" in done.stderr
    assert not (tmp_path / "m.ernn").exists()
