"""Where the project keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$EDGE_RNN_CACHE, else $XDG_CACHE_HOME/edge-rnn, else ~/.cache/edge-rnn."""
    if own := os.environ.get("EDGE_RNN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-rnn"
