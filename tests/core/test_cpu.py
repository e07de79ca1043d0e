"""The level that kernels are built for: chosen from what is there, and never seen in a result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import numba
import pytest

from edge_rnn.kernels import compile_cache, cpu
from edge_rnn.kernels.cpu import LEVELS, available, choose
from tests import bits
from tests.effort import JIT

ROOT = Path(__file__).parents[2]


def test_kernels_are_kept_elsewhere_where_no_folder_can_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGE_RNN_CACHE", str(tmp_path / "file"))
    before = numba.config.CACHE_DIR
    with pytest.warns(RuntimeWarning, match="set EDGE_RNN_CACHE to a writable"), compile_cache():
        assert Path(numba.config.CACHE_DIR).is_dir()
    assert before == numba.config.CACHE_DIR


@cache
def lines_here() -> str:
    """What tests.bits prints, computed in this process."""
    return "".join(f"{name} {bits.digest(model, x)}\n" for name, model, x in bits.cases())


@pytest.mark.jit
@pytest.mark.process
@pytest.mark.parametrize("level", available())
def test_every_level_computes_the_same_bits(level: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bits"],
        cwd=ROOT,
        env={**os.environ, "EDGE_RNN_CPU": level},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == lines_here()


def test_the_widest_is_chosen_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_RNN_CPU", raising=False)
    assert choose() == LEVELS[available()[0]]
    monkeypatch.setenv("EDGE_RNN_CPU", available()[0])
    assert choose() == LEVELS[available()[0]]


def test_a_level_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RNN_CPU", "mmx")
    with pytest.raises(RuntimeError, match=r"EDGE_RNN_CPU='mmx': this processor can run .*"):
        choose()


def test_with_the_jit_off_any_level_can_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = next(name for name in LEVELS if name not in available())
    monkeypatch.setenv("EDGE_RNN_CPU", other)
    if JIT:
        with pytest.raises(RuntimeError, match=f"EDGE_RNN_CPU='{other}'"):
            choose()
    else:
        assert choose() == LEVELS[other]


def test_a_narrower_level_is_compiled_for_its_own_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 0)
    for name in ("CPU_NAME", "CPU_FEATURES"):
        monkeypatch.setattr(numba.config, name, None)
    monkeypatch.setattr(cpu, "available", lambda: ["dotprod", "neon"])
    monkeypatch.setenv("EDGE_RNN_CPU", "neon")
    assert choose() == LEVELS["neon"]
    assert (numba.config.CPU_NAME, numba.config.CPU_FEATURES) == ("cortex-a72", "")


@pytest.mark.parametrize(("machine", "always"), [("aarch64", "neon"), ("x86_64", "sse")])
def test_each_machine_has_a_level_without_needs(
    machine: str, always: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert available()[-1] == always
    assert {LEVELS[name].machine for name in available()} == {machine}


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(RuntimeError, match="runs on x86_64 and aarch64, not on 'riscv64'"):
        choose()
