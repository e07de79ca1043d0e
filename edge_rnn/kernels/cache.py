"""Where compiled kernels are kept between starts.

Numba judges a cached function by its own file alone, so a changed helper would go unnoticed:
the folder's name carries a hash of all kernel sources and of the versions that compile them.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import event as numba_event

from edge_rnn.cachedir import cache_dir, no_cache, writable
from edge_rnn.kernels.cpu import LEVEL

log = logging.getLogger(__name__)
_COMPILING = "numba:compile"
_events: Any = numba_event  # untyped


def sources_hash() -> str:
    """16 hex digits over the kernels' sources and the versions of what compiles them."""
    h = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {np.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        h.update(path.read_bytes())
    return h.hexdigest()[:16]


def kernels_dir() -> Path:
    """Where what is compiled of these sources for this processor is kept."""
    return cache_dir() / "kernels" / f"{sources_hash()}-{LEVEL.name}"


@contextmanager
def compile_cache() -> Iterator[None]:
    """Point Numba's cache at our folder while our kernels are declared, and only then."""
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_usable(kernels_dir()))
    try:
        yield
    finally:
        config.CACHE_DIR = before


def _usable(folder: Path) -> Path:
    try:
        return writable(folder)
    except OSError as e:
        warnings.warn(no_cache(folder, e), RuntimeWarning, stacklevel=3)
        return Path(tempfile.mkdtemp(prefix="edge-rnn-kernels-"))


class _Watch(numba_event.Listener):
    """Calls `tell` with the name of a function of ours that begins to be compiled, unless it is the
    body of a vector operation, which has none."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def on_start(self, event: Any) -> None:
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith("edge_rnn.") and function.__name__ != "<lambda>":
            self.tell(function.__name__)

    def on_end(self, event: Any) -> None:
        pass


@contextmanager
def compiling(tell: Callable[[str], None]) -> Iterator[None]:
    """Have `tell` called with the name of each kernel that is compiled, when that begins; of those
    that are found in the cache it does not hear."""
    with _events.install_listener(_COMPILING, _Watch(tell)):
        yield


def announce() -> None:
    """Log, once a process, that kernels are being compiled, when that begins: it takes a while."""

    @cache
    def say() -> None:
        log.info("compiling the kernels, once: about half a minute, longer on a small board")

    _events.register(_COMPILING, _Watch(lambda _: say()))
