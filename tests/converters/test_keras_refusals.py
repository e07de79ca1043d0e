"""What of Keras is refused: the message names the layer and the attribute."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn_converters.keras.source import LAYERS
from edge_rnn_converters.refused import (
    KERAS_REFUSED,
    KERAS_REFUSED_VALUES,
)
from tests.converters.keras_models import H, I, keras, keras2_file, layers, recurrent_config
from tests.converters.runtime import refusal

CONV = {"filters": 2, "kernel_size": [2]}
GRU = {
    "kernel": np.zeros((I, 3 * H)),
    "recurrent_kernel": np.zeros((H, 3 * H)),
    "bias": np.zeros(3 * H),
}


def keras_entry(kind: str, folder: Path, **config: Any) -> str:
    return refusal(keras2_file(folder / "m.h5", [(kind, config, {})]))


@pytest.mark.parametrize("kind", KERAS_REFUSED)
def test_keras_layers_refused_by_name(kind: str, tmp_path: Path) -> None:
    assert keras_entry(kind, tmp_path).startswith(
        f"{kind} 'layer_1': class: {KERAS_REFUSED[kind][0]}"
    )


def test_a_keras_layer_never_heard_of(tmp_path: Path) -> None:
    assert keras_entry("Quantum", tmp_path).startswith("Quantum 'layer_1': class: is not known")


@pytest.mark.parametrize(("attribute", "value"), KERAS_REFUSED_VALUES)
def test_keras_attributes_refused_by_value(attribute: str, value: Any, tmp_path: Path) -> None:
    config = recurrent_config(reset_after=False, **{attribute: value})
    path = keras2_file(tmp_path / "m.h5", [("GRU", config, GRU)])
    assert refusal(path).startswith(f"GRU 'layer_1': {attribute}={value}: ")


@pytest.mark.parametrize(
    ("kind", "config", "names"),
    [
        ("GRU", {"activation": "softmax"}, "GRU 'layer_1': activation=softmax"),
        ("LSTM", {"recurrent_activation": "glu"}, "LSTM 'layer_1': recurrent_activation=glu"),
        ("Dense", {"activation": "sparsemax"}, "Dense 'layer_1': activation=sparsemax"),
        ("Dense", {"activation": {"class_name": "My"}}, "Dense 'layer_1': activation={'class_name"),
        ("GRU", {"attention": 3}, "GRU 'layer_1': attention=3"),
        ("GRU", {"dtype": "float64"}, "GRU 'layer_1': dtype float64"),
        ("GRU", {"dtype": {"class_name": "Policy", "config": {"name": "mixed_float16"}}},
         "GRU 'layer_1': dtype mixed_float16"),
        ("ReLU", {"threshold": 1.0}, "ReLU 'layer_1': threshold=1.0"),
        ("Softmax", {"axis": 1}, "Softmax 'layer_1': axis=1"),
        ("BatchNormalization", {"axis": [1]}, "BatchNormalization 'layer_1': axis=[1]"),
        ("Normalization", {"axis": [1, 2]}, "Normalization 'layer_1': axis=[1, 2]"),
        ("Rescaling", {"scale": "big"}, "Rescaling 'layer_1': scale='big'"),
        ("Embedding", {"input_dim": 3, "output_dim": 2}, "Embedding 'layer_1': input"),
        ("TimeDistributed", {"layer": {"class_name": "Conv2D", "config": {"name": "c"}}},
         "Conv2D 'layer_1': class: reads pictures"),
        ("TimeDistributed", {"layer": {"class_name": "GRU", "config": {"name": "g"}}},
         "GRU 'layer_1': input: it reads the one last step"),
        ("Conv1D", {**CONV, "data_format": "channels_first"},
         "Conv1D 'layer_1': data_format=channels_first"),
        ("Conv1D", {**CONV, "padding": "same"}, "Conv1D 'layer_1': padding=same: its result at"),
        ("ZeroPadding1D", {"padding": [0, 2]}, "ZeroPadding1D 'layer_1': padding=[0, 2]: its "),
        ("AveragePooling1D", {"pool_size": 3, "padding": "same", "strides": 1},
         "AveragePooling1D 'layer_1': padding=same: at a window's borders"),
        ("GlobalMaxPooling1D", {}, "GlobalMaxPooling1D 'layer_1': its input: its result at"),
        ("Flatten", {}, "Flatten 'layer_1': its input: its result at a step depends"),
        ("Reshape", {"target_shape": [-1, 5]}, "Reshape 'layer_1': target_shape=[-1, 5]"),
    ],
)  # fmt: skip
def test_keras_attributes(kind: str, config: Any, names: str, tmp_path: Path) -> None:
    full = recurrent_config(**config) if kind in ("GRU", "LSTM") else config
    full.setdefault("reset_after", False) if kind == "GRU" else None
    weights = {
        "GRU": GRU,
        "LSTM": {"k": np.zeros((I, 4 * H)), "r": np.zeros((H, 4 * H)), "b": np.zeros(4 * H)},
        "Dense": {"kernel": np.zeros((I, 2)), "bias": np.zeros(2)},
        "Conv1D": {"kernel": np.zeros((2, I, 2)), "bias": np.zeros(2)},
    }
    full = {"units": 2, **full} if kind == "Dense" else full
    path = keras2_file(tmp_path / "m.h5", [(kind, full, weights.get(kind, {}))])
    assert refusal(path).startswith(names)


def test_a_cell_after_the_last_step_only(tmp_path: Path) -> None:
    first = ("GRU", recurrent_config(return_sequences=False, reset_after=False), GRU)
    second = ("GRU", recurrent_config(reset_after=False), GRU)
    message = refusal(keras2_file(tmp_path / "m.h5", [first, second]))
    assert message.startswith("GRU 'layer_2': input: it reads the one last step")


@pytest.mark.parametrize("shape", [(None, None, None), (None, 3, 4, 5), (None, 7)])
def test_input_shapes(shape: tuple[int | None, ...], tmp_path: Path) -> None:
    entry = ("GRU", recurrent_config(reset_after=False), {**GRU, "kernel": np.zeros((1, 3 * H))})
    message = refusal(keras2_file(tmp_path / "m.h5", [entry], shape=shape))
    assert message.startswith(("InputLayer 'layer_0': shape", "GRU 'layer_1': input"))


def strided_branch(x: Any) -> Any:
    every_second = [layers.Conv1D(2, 1, strides=2, name=name)(x) for name in "ab"]
    late = layers.Conv1D(2, 3, strides=2, name="c")(x)
    return keras.Model(x, layers.Add(name="add")([*every_second, late]))


def end_and_steps(x: Any) -> Any:
    both = [layers.GRU(2)(x), layers.Dense(2)(layers.GRU(2)(x))]
    return keras.Model(x, [layers.Add()(both), x])


def cells_state(x: Any) -> Any:
    _, _, c = layers.LSTM(2, return_state=True, name="lstm")(x)
    return keras.Model(x, layers.Dense(2)(c))


def attention(x: Any) -> Any:
    return keras.Model(x, layers.Attention(name="look")([x, x]))


def broadcast(x: Any) -> Any:
    return keras.Model(x, layers.Multiply(name="gate")([x, layers.Dense(1)(x)]))


def over_steps(x: Any) -> Any:
    return keras.Model(x, layers.Concatenate(axis=1, name="longer")([x, x]))


def initial_state(x: Any) -> Any:
    return keras.Model(x, layers.GRU(I, name="led")(x, initial_state=layers.GRU(I)(x)))


def plain_op(x: Any) -> Any:
    return keras.Model(x, keras.ops.softmax(layers.GRU(2, return_sequences=True)(x)))


class Gru(layers.GRU):
    pass


Gru.__name__ = "GRU"


def stateful(x: Any) -> Any:
    x = layers.Input((9, I), batch_size=1)
    start = np.ones((1, 2), np.float32)
    return keras.Model(x, layers.GRU(2, stateful=True, name="kept")(x, initial_state=start))


def own_class(x: Any) -> Any:
    return keras.Model(x, Gru(2, name="mine")(x))


def monte_carlo(x: Any) -> Any:
    return keras.Model(x, layers.Dropout(0.5, name="mc")(x, training=True))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (strided_branch, "Add 'add': inputs: are not there at the same steps"),
        (end_and_steps, "model: outputs: an input is an output"),
        (cells_state, "LSTM 'lstm': return_state=True: its cell's state is used"),
        (attention, "Attention 'look': class: weighs all steps of a window"),
        (broadcast, "Multiply 'gate': inputs: differ in shape: (3,), (1,)"),
        (over_steps, "Concatenate 'longer': axis=1"),
        (initial_state, "GRU 'led': call argument initial_state: is computed"),
        (stateful, "GRU 'kept': stateful=True: keeps its state"),
        (plain_op, "Softmax 'softmax"),
        (own_class, "GRU 'mine': module"),
        (monte_carlo, "Dropout 'mc': call argument training"),
    ],
)
def test_keras_graphs(make: Callable[[Any], Any], names: str, tmp_path: Path) -> None:
    make(layers.Input((None, I), name="x")).save(tmp_path / "m.keras")
    assert refusal(tmp_path / "m.keras").startswith(names)


def test_a_subclassed_keras_model(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as z:
        z.writestr("config.json", json.dumps({"class_name": "MyNet", "config": {}}))
        z.writestr("metadata.json", json.dumps({"keras_version": "3.5.0"}))
        z.writestr("model.weights.h5", h5_bytes(tmp_path))
    assert refusal(tmp_path / "m.keras").startswith("model class 'MyNet': class_name")


def h5_bytes(folder: Path) -> bytes:
    return keras2_file(folder / "any.h5", []).read_bytes()


def test_nothing_is_both_supported_and_refused() -> None:
    assert not set(LAYERS) & set(KERAS_REFUSED)
