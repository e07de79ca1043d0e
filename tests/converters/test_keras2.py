"""Keras-2 files: read by their layout, their hard_sigmoid by its old meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters import convert, convert_with_report
from tests.converters.keras_models import H, I, inputs, keras2_file, recurrent_config
from tests.converters.runtime import run

Curve = Callable[[np.ndarray], np.ndarray]
SIGMOIDS: dict[tuple[str, str], Curve] = {
    ("2.4.0", "hard_sigmoid"): lambda v: np.clip(0.2 * v + 0.5, 0, 1),
    ("3.0.0", "hard_sigmoid"): lambda v: np.clip(v + 3, 0, 6) / 6,
    ("2.4.0", "sigmoid"): lambda v: 1 / (1 + np.exp(-v)),
}


def weights(kind: str) -> dict[str, np.ndarray]:
    k = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}[kind]
    rng = np.random.default_rng(2)
    shapes = {"kernel": (I, k * H), "recurrent_kernel": (H, k * H), "bias": (k * H,)}
    return {name: rng.normal(0, 0.8, shape).astype(np.float32) for name, shape in shapes.items()}


def lstm(x: np.ndarray, w: dict[str, np.ndarray], gate: Curve) -> np.ndarray:
    """Keras's LSTM, written from its manual: kernel columns i, f, c, o."""
    h, c, y = np.zeros(H), np.zeros(H), []
    for x_t in x:
        s = x_t @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
        i, f, g, o = s[:H], s[H : 2 * H], s[2 * H : 3 * H], s[3 * H :]
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        y.append(h)
    return np.array(y)


def gru(x: np.ndarray, w: dict[str, np.ndarray], gate: Curve) -> np.ndarray:
    """Keras's GRU with reset_after=False: columns z, r, h; the reset comes before the product."""
    U, h, y = w["recurrent_kernel"], np.zeros(H), []
    for x_t in x:
        s = x_t @ w["kernel"] + w["bias"]
        z = gate(s[:H] + h @ U[:, :H])
        r = gate(s[H : 2 * H] + h @ U[:, H : 2 * H])
        candidate = np.tanh(s[2 * H :] + (r * h) @ U[:, 2 * H :])
        h = z * h + (1 - z) * candidate
        y.append(h)
    return np.array(y)


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize(("version", "name"), SIGMOIDS)
@pytest.mark.parametrize(("kind", "cell"), [("LSTM", lstm), ("GRU", gru)])
def test_both_meanings_of_hard_sigmoid(
    kind: str, cell: Any, version: str, name: str, functional: bool, tmp_path: Path
) -> None:
    w = weights(kind)
    config = recurrent_config(recurrent_activation=name, reset_after=False)
    if kind == "LSTM":
        del config["reset_after"]
    path = tmp_path / "m.h5"
    keras2_file(path, [(kind, config, w)], version=version, functional=functional)
    expected = cell(inputs(), w, SIGMOIDS[version, name])
    np.testing.assert_allclose(run(path, inputs()), expected, atol=1e-5)


def test_the_first_layer_of_an_old_file_declares_the_input(tmp_path: Path) -> None:
    w = weights("LSTM")
    config = recurrent_config(batch_input_shape=[None, None, I])
    path = keras2_file(tmp_path / "m.h5", [("LSTM", config, w)], declare_input=False)
    expected = lstm(inputs(), w, SIGMOIDS["2.4.0", "sigmoid"])
    np.testing.assert_allclose(run(path, inputs()), expected, atol=1e-5)


def test_weight_names_split_over_several_attributes(tmp_path: Path) -> None:
    w = weights("SimpleRNN")
    config = recurrent_config()
    del config["recurrent_activation"]
    path = keras2_file(tmp_path / "m.h5", [("SimpleRNN", config, w)])
    with h5py.File(path, "r+") as f:
        attributes = f["model_weights/layer_1"].attrs
        names = attributes["weight_names"]
        del attributes["weight_names"]
        attributes["weight_names0"], attributes["weight_names1"] = names[:2], names[2:]
    assert convert(path, check="skip").nodes[0].OP == "rnn"


def test_batch_normalization_with_a_list_of_axes(tmp_path: Path) -> None:
    stored = {
        "gamma": np.array([1, 2, 3]), "beta": np.array([0, 1, 0]),
        "moving_mean": np.array([1, 1, 1]), "moving_variance": np.array([4, 4, 4]),
    }  # fmt: skip
    config = {"axis": [2], "epsilon": 0.0, "center": True, "scale": True, "momentum": 0.99}
    path = keras2_file(tmp_path / "m.h5", [("BatchNormalization", config, stored)])
    x = inputs()
    expected = (x - 1) / 2 * [1, 2, 3] + [0, 1, 0]
    np.testing.assert_allclose(run(path, x), expected, atol=1e-5)


def test_another_keras_is_not_asked_what_it_would_answer_wrongly(tmp_path: Path) -> None:
    path = keras2_file(tmp_path / "m.h5", [("LSTM", recurrent_config(), weights("LSTM"))])
    report = convert_with_report(path, "float32").report
    assert report.source_run is report.source_error is None
    assert "the file is from keras 2.4.0" in report.notes[-1]
    with pytest.raises(UnsupportedError, match=r"check=require: .*keras 2\.4\.0"):
        convert(path, check="require")


@pytest.mark.parametrize("version", ["1.2.2", "", "4.0.0"])
def test_a_keras_of_unknown_meaning_is_refused(version: str, tmp_path: Path) -> None:
    entry = ("LSTM", recurrent_config(), weights("LSTM"))
    path = keras2_file(tmp_path / "m.h5", [entry], version=version)
    with pytest.raises(UnsupportedError, match="keras_version"):
        convert(path)
