"""Files that Keras 2 wrote itself, and cuDNN's layers, against what Keras 2 computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_rnn import reference
from edge_rnn_converters.detect import detect
from edge_rnn_converters.keras.source import read
from edge_rnn_converters.source import Options
from tests.converters.keras_models import H, keras2_file
from tests.converters.runtime import run

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "keras2.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_a_model_of_what_keras_2_keeps_in_its_own_ways(
    ending: str, golden: dict[str, np.ndarray]
) -> None:
    path = GOLDEN / f"keras2.{ending}"
    source = read(path, detect(path), Options())
    assert source.framework == "keras 2.15.0"
    for x, y in zip(golden["x"], golden["y"], strict=True):
        np.testing.assert_allclose(reference.run(source.model, x)[-1], y, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_cudnns_layers(kind: str, golden: dict[str, np.ndarray], tmp_path: Path) -> None:
    name = kind.lower()
    weights = {part: golden[f"{name}_{part}"] for part in "wub"}
    config = {"units": H, "return_sequences": True, "go_backwards": False, "stateful": False}
    path = keras2_file(tmp_path / "m.h5", [(f"CuDNN{kind}", config, weights)])
    for x, y in zip(golden["x"], golden[f"{name}_y"], strict=True):
        np.testing.assert_allclose(run(path, x), y, atol=1e-5)
