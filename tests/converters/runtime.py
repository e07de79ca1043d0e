"""What the runtime makes of a file, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn import Session
from edge_rnn.errors import UnsupportedError
from edge_rnn_converters import convert


def run(path: Path, x: np.ndarray, **options: Any) -> np.ndarray:
    """Convert in float32 and step a stream through x (T, I)."""
    model = convert(path, quantize="float32", **{"check": "skip", **options})
    return Session(model, capacity=1).run("s", x)


def refusal(path: Path) -> str:
    """The message that refuses the file; it has a way out."""
    with pytest.raises(UnsupportedError) as caught:
        convert(path, check="skip")
    assert "; " in str(caught.value)
    return str(caught.value)
