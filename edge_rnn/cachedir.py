"""Where the project keeps what it can make or fetch again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """$EDGE_RNN_CACHE, else $XDG_CACHE_HOME/edge-rnn, else ~/.cache/edge-rnn."""
    if own := os.environ.get("EDGE_RNN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-rnn"


def writable(folder: Path) -> Path:
    """The folder, made if it isn't there. Raises OSError where nothing can be written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def no_cache(folder: Path, e: OSError) -> str:
    """What a user is told of a cache folder that is not writable."""
    return (
        f"compiled kernels can't be kept in {folder} ({e.strerror}): every start compiles "
        "anew; set EDGE_RNN_CACHE to a writable folder"
    )
