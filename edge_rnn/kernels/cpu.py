"""Which of a processor's instructions the kernels are built from, chosen before any is compiled.

An instruction that the processor lacks would end the process, not raise, so the choice is made
from what it really has. EDGE_RNN_CPU forces a narrower choice, or any where the code is not run
here; a result never depends on it.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import llvmlite.binding as llvm

_AT_HWCAP, _ASIMDDP = 16, 1 << 20


@dataclass(frozen=True, slots=True)
class Level:
    """A way to compile the kernels.

    `lanes` float32 numbers fill a register; `dot` multiplies int8 numbers and adds them four by
    four; `needs` are the processor's features, all that LLVM may use of what it is told to compile
    for, the CPU `target` with more `features`. So the code runs on every processor of the level.
    """

    name: str
    machine: Literal["x86_64", "aarch64"]
    lanes: int
    dot: Literal["vnni", "maddubs", "pmaddwd", "sdot", "smull"]
    needs: tuple[str, ...]
    target: str
    features: str = ""
    halves: bool = True
    """Float16 numbers are widened by an instruction."""


_V3 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt")
_V4 = (*_V3, "avx512f", "avx512cd", "avx512vl", "avx512bw", "avx512dq")

LEVELS = {
    level.name: level
    for level in (
        Level(
            *("avx512vnni", "x86_64", 16, "vnni", (*_V4, "avx512vnni"), "x86-64-v4"),
            features="+avx512vnni",
        ),
        Level(
            *("avxvnni", "x86_64", 8, "vnni", (*_V3, "avxvnni"), "x86-64-v3"),
            features="+avxvnni",
        ),
        Level("avx2", "x86_64", 8, "maddubs", _V3, "x86-64-v3"),
        Level("sse", "x86_64", 4, "pmaddwd", (), "x86-64", halves=False),
        Level("dotprod", "aarch64", 4, "sdot", ("dotprod",), "cortex-a76"),
        Level("neon", "aarch64", 4, "smull", (), "cortex-a72"),
    )
}
"""By name, the widest of each machine first."""


def features() -> Mapping[str, bool]:
    """What this processor has, by LLVM's names."""
    if platform.machine() != "aarch64":
        return llvm.get_host_cpu_features()  # type: ignore[no-any-return]
    # LLVM's list for ARM lacks the dot product; the kernel's tells.
    capabilities = ctypes.CDLL(None).getauxval(_AT_HWCAP)
    return {"dotprod": bool(capabilities & _ASIMDDP)}


def available() -> list[str]:
    """Names of the levels that this machine can run, the widest first."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    have = features()
    return [
        level.name
        for level in LEVELS.values()
        if level.machine == machine and all(have.get(f, False) for f in level.needs)
    ]


def choose() -> Level:
    """The level to compile for: the widest, or what EDGE_RNN_CPU says.

    Raises RuntimeError for one that is none.
    """
    wanted = os.environ.get("EDGE_RNN_CPU", "")
    if wanted in LEVELS:
        return LEVELS[wanted]
    can = available()
    if not can:
        raise RuntimeError(f"edge-rnn runs on x86_64 and aarch64, not on {platform.machine()!r}")
    if wanted:
        raise RuntimeError(f"EDGE_RNN_CPU={wanted!r}: this processor can run {', '.join(can)}")
    return LEVELS[can[0]]


def check(level: Level) -> None:
    """Raises RuntimeError when this processor can't run the level's code."""
    if level.name not in (can := available()):
        raise RuntimeError(f"EDGE_RNN_CPU={level.name!r}: this processor can run {', '.join(can)}")


LEVEL = choose()
