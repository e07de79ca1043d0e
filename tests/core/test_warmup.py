"""What is compiled when, and what a user is told of it, in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import edge_rnn
from edge_rnn.cli import main
from edge_rnn.kernels.cache import compiling
from tests.core import models

ROOT = Path(__file__).parents[2]
NO_FOLDER = "compiled kernels can't be kept in "
SESSION = """
import sys
import numpy as np
from edge_rnn.kernels.cache import compiling
from tests.core import models

compiled = []
with compiling(compiled.append):
    from edge_rnn import Session
    for model in (models.stack("int8 int8"), models.strided("int4 int16"), models.embedding()):
        session = Session(model, capacity=2, ttl=1e9)
        x = np.zeros((3, model.input_width))
        session.run("a", x)
        session.step(["a", "b", "a"], x)
        session.step(["c"], x[:1])
        session.restore(session.snapshot())
        y, emitted = np.empty((2, model.output_width), np.float32), np.empty(2, np.bool_)
        slots = session.slots(session.streams)
        session.step_slots(slots, np.zeros((2, model.input_width), np.float32), y, emitted)
        session.reset("a" if "a" in session.streams else "c")
        session.close("c")
print(compiled, "numba" in sys.modules)
"""


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {"EDGE_RNN_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}


def command(*args: str, cache: Path) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "edge_rnn", *args]
    return subprocess.run(run, capture_output=True, text=True, cwd=ROOT, env=environment(cache))


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """(a cache folder, what a warm-up of it said)."""
    folder = tmp_path_factory.mktemp("cold") / "not" / "there"
    done = command("warmup", "--json", cache=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, json.loads(done.stdout)


@pytest.mark.jit
def test_warmup_compiles_into_the_cache(cold: tuple[Path, dict[str, object]]) -> None:
    folder, report = cold
    assert isinstance(report["compiled"], list)
    assert {"step", "touch", "evict_order"} <= set(report["compiled"])
    kept = Path(str(report["folder"]))
    assert kept.is_relative_to(folder)
    assert report["bytes"] == sum(f.stat().st_size for f in kept.rglob("*") if f.is_file()) > 0


@pytest.mark.jit
def test_a_second_warmup_finds_everything(cold: tuple[Path, dict[str, object]]) -> None:
    folder, report = cold
    again = json.loads(command("warmup", "--json", cache=folder).stdout)
    assert again["compiled"] == []
    assert (again["folder"], again["bytes"]) == (report["folder"], report["bytes"])
    text = command("warmup", cache=folder).stdout
    assert "all there" in text
    assert str(report["folder"]) in text


@pytest.mark.jit
def test_after_a_warmup_no_session_needs_the_compiler(
    cold: tuple[Path, dict[str, object]],
) -> None:
    run = [sys.executable, "-c", SESSION]
    done = subprocess.run(
        run, capture_output=True, text=True, cwd=ROOT, env=environment(cold[0]), check=True
    )
    assert done.stdout == "[] False\n"


def test_warmup_refuses_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("EDGE_RNN_CACHE", str(place))
        with pytest.raises(SystemExit) as e:
            main(["warmup"])
        assert e.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"edge-rnn: {NO_FOLDER}{place}")
        assert err.count("\n") == 1
        assert "set EDGE_RNN_CACHE to a writable folder" in err


def test_warmup_knows_its_processors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(["warmup", "--for", "z80"])
    assert e.value.code == 2
    assert "--for z80: expected one of avx512vnni, " in capsys.readouterr().err


def shown(terminal: int) -> bytes:
    """All that is written to a terminal until nobody has it open: a full one would stop its
    writers."""
    parts = []
    with suppress(OSError):  # Linux says so that the other end is closed
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts)


@pytest.mark.jit
def test_whoever_waits_at_a_terminal_is_told(tmp_path: Path) -> None:
    """Without a folder to keep them in, the kernels are compiled: stderr says so, once."""
    (tmp_path / "file").write_text("")
    edge_rnn.save(models.single("dense"), tmp_path / "m.ernn")
    ours, theirs = pty.openpty()
    run = [sys.executable, "-m", "edge_rnn", "bench", str(tmp_path / "m.ernn"), "--json"]
    with subprocess.Popen(
        [*run, "--batch", "1,2", "--seconds", "0.01"],
        stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT, env=environment(tmp_path / "file"),
    ) as child:  # fmt: skip
        os.close(theirs)
        said = shown(ours).decode()
        assert child.stdout
        report = json.loads(child.stdout.read())
    assert child.returncode == 0
    assert [t["batch"] for t in report["timings"]] == [1, 2]
    assert said.count("compiling the kernels") == 1
    assert said.count(NO_FOLDER) == 1
    assert "Traceback" not in said


def test_where_nothing_compiles_nothing_is_told() -> None:
    told: list[str] = []
    with compiling(told.append):
        pass
    assert told == []
