"""Object code: what of it is loaded, and calls of it with what it does not take."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_rnn import Session
from edge_rnn.graph import Dense, Input, Matrix, Model
from edge_rnn.kernels import WRONG_TYPE, touch
from edge_rnn.kernels.cache import compile_for, compiling, object_code
from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.kernels.entries import fma_peak, stream
from edge_rnn.kernels.limits import ROOM, SUMS
from tests.core.test_limits import room

SMALL = "limits"
"""A library that is compiled in two seconds."""


def compiles() -> bool:
    """Does a call of `object_code` compile?"""
    names: list[str] = []
    with compiling(names.append):
        assert object_code(SMALL)[:4] == b"\x7fELF"
    return bool(names)


@pytest.mark.process
def test_only_a_whole_file_of_ones_own_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_RNN_CACHE", str(tmp_path))
    assert compiles()
    assert not compiles()
    path = compile_for(LEVEL, SMALL, tmp_path)
    whole = path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == [SMALL]
    assert path.stat().st_mode & 0o777 == 0o644
    path.write_bytes(whole[:-1])
    assert compiles()
    assert path.read_bytes() == whole
    path.chmod(0o664)
    with pytest.warns(RuntimeWarning, match=f"{path} is not loaded: .* others can write it"):
        assert compiles()
    assert not compiles()
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.warns(RuntimeWarning, match="belongs to another user"):
            assert compiles()


@pytest.mark.process
def test_where_code_cannot_be_kept_it_is_compiled_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGE_RNN_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="set EDGE_RNN_CACHE to a writable"):
        assert compiles()


def test_arrays_of_another_type_are_refused() -> None:
    words, y = np.ones(SUMS, np.int32), room()
    assert stream(words, 1, y) == words.nbytes
    assert y.sum() == SUMS
    for bad in (None, 7, "text", [1], object, words.tolist(), np.int32(3), words.astype(np.int64)):
        assert stream(bad, 1, y) == WRONG_TYPE
        assert stream(words, 1, bad) == WRONG_TYPE
    assert stream(words[::2], 1, y) == WRONG_TYPE
    assert stream(words[None], 1, y) == WRONG_TYPE
    assert stream(words.astype(">i4"), 1, y) == WRONG_TYPE
    assert fma_peak(words, words, 1, y) == WRONG_TYPE
    assert touch(np.zeros(2, np.int64), np.zeros(0, np.int64), 0.0) == WRONG_TYPE


@pytest.mark.jit
def test_numbers_of_another_type_are_errors() -> None:
    words, y = np.ones(SUMS, np.int32), np.zeros(ROOM, np.float32)
    assert stream(words, True, y) == words.nbytes
    for bad in (1.5, "1", None):
        with pytest.raises(TypeError):
            stream(words, bad, y)
    with pytest.raises(OverflowError):
        stream(words, 1 << 70, y)
    for too_few in ((), (words,), (words, 1), (words, 1, y, y)):
        assert stream(*too_few) == WRONG_TYPE


@pytest.mark.jit
@pytest.mark.parametrize("width", [64, 1024])
def test_other_threads_run_beside_a_long_step(width: int) -> None:
    weights = Matrix(np.zeros((width, width), np.float32))
    layer = Dense("y", "x", weights, np.zeros(width, np.float32))
    session = Session(Model((Input("x", width),), (layer,), ("y",)), capacity=1)
    rows = (1 << 30) // width**2
    slots, x = np.repeat(session.slots(["a"]), rows), np.zeros((rows, width), np.float32)
    begun, ended, turns = threading.Event(), threading.Event(), 0

    def work() -> None:
        begun.set()
        session.step_slots(slots, x, np.empty_like(x))
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    while not ended.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 3
