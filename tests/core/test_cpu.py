"""The level that kernels are built for: chosen from what is there, and never seen in a result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from edge_rnn.kernels.cpu import LEVELS, available, check, choose
from tests import bits

ROOT = Path(__file__).parents[2]


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


def test_any_level_can_be_compiled_for_and_only_some_run(monkeypatch: pytest.MonkeyPatch) -> None:
    other = next(name for name in LEVELS if name not in available())
    monkeypatch.setenv("EDGE_RNN_CPU", other)
    assert choose() == LEVELS[other]
    with pytest.raises(RuntimeError, match=rf"EDGE_RNN_CPU='{other}': this processor can run"):
        check(LEVELS[other])
    check(LEVELS[available()[-1]])


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
