"""Where compiled kernels are kept between starts.

Numba judges a cached function by its own file alone, so a changed helper would go unnoticed:
the folder's name carries a hash of all kernel sources and of the versions that compile them.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np

from edge_rnn.cachedir import cache_dir
from edge_rnn.kernels.cpu import LEVEL


def sources_hash() -> str:
    """16 hex digits over the kernels' sources and the versions of what compiles them."""
    h = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {np.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        h.update(path.read_bytes())
    return h.hexdigest()[:16]


@contextmanager
def compile_cache() -> Iterator[None]:
    """Point Numba's cache at our folder while our kernels are declared, and only then."""
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_usable(cache_dir() / "kernels" / f"{sources_hash()}-{LEVEL.name}"))
    try:
        yield
    finally:
        config.CACHE_DIR = before


def _usable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as e:
        warnings.warn(
            f"compiled kernels can't be kept in {folder} ({e.strerror}): every start compiles "
            "anew; set EDGE_RNN_CACHE to a writable folder",
            RuntimeWarning,
            stacklevel=3,
        )
        return Path(tempfile.mkdtemp(prefix="edge-rnn-kernels-"))
