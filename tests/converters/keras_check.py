"""A converted Keras model against Keras itself, over one window or stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_rnn import reference
from edge_rnn.graph import Embedding, Model
from edge_rnn_converters.detect import detect
from edge_rnn_converters.keras.source import read
from edge_rnn_converters.source import Options, Source
from tests.converters.keras_models import randomized

T = 20


def agrees(model: Any, path: Path, window: int | None = None, tolerance: float = 1e-5) -> Source:
    """Save the model, with random weights, and compare what the file converts to, in the float64
    reference, with what Keras computes."""
    randomized(model).save(path)
    source = read(path, detect(path), Options(window=window))
    x = sample(source.model)
    ran = source.run(x)
    if source.model.looks_ahead:
        y = reference.run(source.model, x[: window or source.regime.window])[-len(ran.y) :]
    else:
        first, period = source.model.schedule
        y = reference.run(source.model, x)[(ran.steps - first) // period]
    assert y.size and y.shape == ran.y.shape
    np.testing.assert_allclose(y, ran.y, rtol=0, atol=tolerance)
    return source


def sample(model: Model, steps: int = T) -> np.ndarray:
    """Random inputs, indices for an embedding."""
    rng = np.random.default_rng(0)
    tables = {n.input: len(n.table.data) for n in model.nodes if isinstance(n, Embedding)}
    return np.concatenate(
        [
            rng.integers(0, tables[i.name], (steps, 1)) if i.name in tables
            else rng.normal(size=(steps, i.width))
            for i in model.inputs
        ],
        axis=1,
    ).astype(np.float32)  # fmt: skip
