"""What the compiler makes of the dot products, for processors that need not be here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
CPUS = {
    "cortex-a76": ("dotprod", "sdot", 7),
    "cortex-a72": ("neon", "smlal", 19),
    "cortex-a53": ("neon", "smlal", 19),
    "haswell": ("avx2", "vpmaddubsw", None),
    "alderlake": ("avxvnni", "vpdpbusd", None),
    "icelake-server": ("avx512vnni", "vpdpbusd", None),
}
"""Level, the instruction that must be there, instructions allowed for 64 multiply-adds."""


@cache
def loops(cpu: str) -> dict[str, dict]:
    """The innermost loop of each tile, compiled for the processor in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.assembly", CPUS[cpu][0], cpu],
        cwd=ROOT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "0"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("cpu", CPUS)
def test_the_inner_loops_keep_everything_in_registers(cpu: str) -> None:
    found = loops(cpu)
    assert {"one row", "int16"} <= set(found)
    assert {tile: loop["on_stack"] for tile, loop in found.items()} == {tile: [] for tile in found}


@pytest.mark.parametrize("cpu", CPUS)
def test_the_expected_instruction_multiplies(cpu: str) -> None:
    found, (_, instruction, _) = loops(cpu), CPUS[cpu]
    for tile in ("one row", "one row, two blocks", "two rows", "four rows"):
        assert tile not in found or instruction in found[tile]["names"]


@pytest.mark.parametrize("cpu", [c for c in CPUS if CPUS[c][2]])
def test_instructions_for_64_multiply_adds_at_batch_1(cpu: str) -> None:
    found, most = loops(cpu), CPUS[cpu][2]
    loop = found.get("one row, two blocks", found["one row"])
    assert 64 * loop["instructions"] / loop["multiply_adds"] <= most
