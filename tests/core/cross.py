"""Compile the kernels for another processor, into the cache that a Python there looks into.

    python -m tests.core.cross LEVEL FOLDER

Numba runs here, and LLVM makes the other processor's machine code, as it would there; none of it is
executed here. An emulated Python takes a quarter of an hour for what this takes a minute for. It
leans on Numba's insides; should they change, the emulated Python finds nothing and compiles itself.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import pickle
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba

ROOT = Path(__file__).parents[2]
TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


def pretend(level: str) -> Any:
    """Make the kernels believe that this processor is of an edge_rnn.kernels.cpu level."""
    path = ROOT / "edge_rnn/kernels/cpu.py"
    spec = importlib.util.spec_from_file_location("edge_rnn.kernels.cpu", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.LEVEL = module.LEVELS[level]
    return module.LEVEL


def retarget(level: Any) -> None:
    """Make Numba's machine code that of the level's processor."""
    config: Any = numba.config
    config.CPU_NAME, config.CPU_FEATURES = level.target, ""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.get_process_triple = lambda: TRIPLES[level.machine]


def entries() -> Iterator[tuple[str, Any]]:
    """(name, dispatcher) of the kernels that Python calls: those that are kept in the cache."""
    for path in sorted((ROOT / "edge_rnn/kernels").glob("*.py")):
        module = f"edge_rnn.kernels.{path.stem}"
        for name, found in vars(import_module(module)).items():
            kept = hasattr(getattr(found, "_cache", None), "_cache_file")
            if kept and found.py_func.__module__ == module:
                yield f"{path.stem}.{name}", found


def signatures() -> str:
    """What a session calls the entries with."""
    from edge_rnn.cli.warmup import rehearse

    rehearse()
    used = {name: entry.signatures for name, entry in entries()}
    return base64.b64encode(pickle.dumps(used)).decode()


def main(level: str, folder: str, told: str = "") -> None:
    """A second process compiles: in this one the kernels have chosen their level."""
    if not told:
        os.environ["EDGE_RNN_CACHE"], told = folder, signatures()
        os.execv(sys.executable, [sys.executable, "-m", "tests.core.cross", level, folder, told])
    retarget(pretend(level))
    used = pickle.loads(base64.b64decode(told))
    for name, entry in entries():
        for signature in used[name]:
            entry.compile(signature)


if __name__ == "__main__":
    main(*sys.argv[1:])
