"""Keras 3 models, saved both ways, against what Keras computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn.graph import Window
from edge_rnn_converters import convert, convert_with_report
from tests.converters.keras_models import (
    STEPS,
    H,
    I,
    inputs,
    keras,
    layers,
    made,
    outputs,
    randomized,
)
from tests.converters.runtime import run

SEQ = {"return_sequences": True}
GATES = ["sigmoid", "hard_sigmoid", "relu6", "linear", "softsign"]
ACTS = ["tanh", "relu", "relu6", "sigmoid", "softsign", "silu", "hard_sigmoid", "linear"]

STACKS: dict[str, list[Any]] = {
    "rnn": [layers.SimpleRNN(H, **SEQ)],
    "lstm": [layers.LSTM(H, **SEQ)],
    "gru_after": [layers.GRU(H, reset_after=True, **SEQ)],
    "gru_before": [layers.GRU(H, reset_after=False, **SEQ)],
    "rnn_no_bias": [layers.SimpleRNN(H, use_bias=False, **SEQ)],
    "lstm_no_bias": [layers.LSTM(H, use_bias=False, **SEQ)],
    "gru_after_no_bias": [layers.GRU(H, use_bias=False, **SEQ)],
    "gru_before_no_bias": [layers.GRU(H, reset_after=False, use_bias=False, **SEQ)],
    "unrolled_last_step": [layers.LSTM(H, dropout=0.3)],
    "stacked_twice_a_class": [layers.GRU(H, **SEQ), layers.GRU(4, **SEQ), layers.Dense(2)],
    "dense_acts": [layers.Dense(4, "relu"), layers.LSTM(H, **SEQ), layers.Dense(3, "softmax")],
    "dense_no_bias": [layers.GRU(H), layers.Dense(3, use_bias=False)],
    "time_distributed": [layers.GRU(H, **SEQ), layers.TimeDistributed(layers.Dense(2, "tanh"))],
    "activations": [layers.GRU(H, **SEQ), layers.Activation("softsign"), layers.ReLU()],
    "relu6_softmax": [layers.GRU(H, **SEQ), layers.ReLU(max_value=6.0), layers.Softmax()],
    "activation_softmax": [layers.LSTM(H), layers.Activation("softmax")],
    "dropped": [layers.Dropout(0.5), layers.GRU(H, **SEQ), layers.GaussianNoise(1.0)],
    "normalization": [layers.Normalization(), layers.GRU(H, **SEQ)],
    "normalization_given": [
        layers.Normalization(mean=[1.0, -2.0, 0.5], variance=[4.0, 0.0, 0.25]),
        layers.GRU(H, **SEQ),
    ],
    "normalization_one": [layers.Normalization(axis=None, mean=1.5, variance=9.0), layers.GRU(H)],
    "normalization_invert": [
        layers.GRU(H, **SEQ),
        layers.Normalization(invert=True),
    ],
    "rescaling": [layers.Rescaling([0.5, 2.0, -1.0], offset=0.25), layers.GRU(H, **SEQ)],
    "rescaling_one": [layers.Rescaling(1 / 255, offset=-1), layers.GRU(H, **SEQ)],
    "batch_norm": [layers.GRU(H, **SEQ), layers.BatchNormalization()],
    "batch_norm_plain": [
        layers.BatchNormalization(center=False, scale=False, epsilon=0.1),
        layers.GRU(H),
        layers.BatchNormalization(),
    ],
    "demo": [layers.Normalization(), layers.GRU(H), layers.Dense(4, "softmax")],
}  # fmt: skip


def check(model: Any, path: Path, x: np.ndarray, tolerance: float = 1e-5) -> None:
    model.save(path)
    steps, y = outputs(model, x)
    np.testing.assert_allclose(run(path, x)[steps], y, rtol=0, atol=tolerance)


H5 = ["rnn", "lstm_no_bias", "gru_after", "stacked_twice_a_class", "time_distributed",
      "normalization", "batch_norm"]  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_a_converted_model_computes_what_keras_does(name: str, tmp_path: Path) -> None:
    model = made(*STACKS[name])
    check(model, tmp_path / "m.keras", inputs())
    if name in H5:
        model.save(tmp_path / "m.h5")
        np.testing.assert_array_equal(
            run(tmp_path / "m.h5", inputs()), run(tmp_path / "m.keras", inputs())
        )


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("make", [layers.SimpleRNN, layers.LSTM, layers.GRU])
def test_every_activation_of_a_cell(make: Any, act: str, tmp_path: Path) -> None:
    model = made(make(H, activation=act, recurrent_initializer="zeros", **SEQ))
    model.set_weights([w * 0.4 for w in model.get_weights()])  # an unbounded cell stays small
    check(model, tmp_path / "m.keras", inputs()[:10])


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("make", [layers.LSTM, layers.GRU])
def test_every_gate_activation(make: Any, gate: str, tmp_path: Path) -> None:
    model = made(make(H, recurrent_activation=gate, **SEQ))
    model.set_weights([w * 0.4 for w in model.get_weights()])
    check(model, tmp_path / "m.keras", inputs()[:10])


@pytest.mark.parametrize("act", ["swish", *ACTS])
def test_every_activation_of_a_dense_layer(act: str, tmp_path: Path) -> None:
    check(made(layers.GRU(H, **SEQ), layers.Dense(4, act)), tmp_path / "m.keras", inputs())


def test_an_embedding_takes_indices(tmp_path: Path) -> None:
    model = made(layers.Embedding(9, 4), layers.LSTM(H, **SEQ), shape=(None,), dtype="int32")
    model.save(tmp_path / "m.keras")
    x = np.random.default_rng(0).integers(0, 9, STEPS)
    y = run(tmp_path / "m.keras", x[:, None].astype(np.float32), check="require")
    np.testing.assert_allclose(y, outputs(model, x)[1], atol=1e-5)


def test_a_functional_chain(tmp_path: Path) -> None:
    x = layers.Input((None, I), name="sensors")
    hidden = layers.LSTM(H, return_sequences=True, name="first")(x)
    model = keras.Model(x, layers.Dense(2, name="head")(layers.LSTM(4, name="second")(hidden)))
    check(model, tmp_path / "m.keras", inputs())
    check(model, tmp_path / "m.h5", inputs())


def test_answering_at_the_end_only_is_said(tmp_path: Path) -> None:
    made(layers.GRU(H, name="g")).save(tmp_path / "m.keras")
    report = convert_with_report(tmp_path / "m.keras", "float32", check="require").report
    assert [note.split(":")[:2] for note in report.notes] == [
        ["GRU 'g'", " return_sequences=False"]
    ]
    assert 1 < report.source_steps < report.steps == 256


def test_a_window_in_the_file_is_said_and_checked_over_one_window(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((50, I), batch_size=4), layers.GRU(H, **SEQ)])
    model.save(tmp_path / "m.keras")
    report = convert_with_report(tmp_path / "m.keras", "float32", check="require").report
    assert "windows of 50 steps" in report.notes[0]
    assert report.source_steps == 50
    assert report.source_error is not None and report.source_error < 1e-5


def test_a_stateful_layer_starts_from_its_initial_state(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((None, I), batch_size=1), layers.LSTM(H, stateful=True)])
    model.save(tmp_path / "m.keras")
    report = convert_with_report(tmp_path / "m.keras", "float32", check="require").report
    assert report.source_error is not None and report.source_error < 1e-5


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
@pytest.mark.parametrize("backwards", [False, True])
def test_states_that_begin_at_constants(kind: str, backwards: bool, tmp_path: Path) -> None:
    start = np.random.default_rng(2).normal(size=(2, 1, H)).astype(np.float32)
    x = layers.Input((20, I))
    layer = getattr(layers, kind)(H, go_backwards=backwards, **SEQ)
    y = layer(x, initial_state=list(start) if kind == "LSTM" else start[0])
    randomized(keras.Model(x, y)).save(tmp_path / "m.keras")
    mode = Window(20, 20) if backwards else None
    report = convert_with_report(tmp_path / "m.keras", "float32", mode=mode, check="require").report
    assert report.source_error is not None and report.source_error < 1e-5


def test_the_dense_layers_take_their_activations_in(tmp_path: Path) -> None:
    made(layers.GRU(H), layers.Dense(4), layers.Activation("relu")).save(tmp_path / "m.keras")
    assert [n.OP for n in convert(tmp_path / "m.keras", check="skip").nodes] == ["gru", "dense"]


def test_the_floor_of_a_normalizations_deviation(tmp_path: Path) -> None:
    model = made(layers.Normalization(mean=[0.0, 0.0, 0.0], variance=[1e-8, 0.0, 1e-16]))
    check(model, tmp_path / "m.keras", inputs() * 1e-6)


@pytest.mark.process
def test_keras_on_jax_as_users_have_it(tmp_path: Path) -> None:
    made(layers.GRU(H, **SEQ), layers.Dense(2)).save(tmp_path / "m.keras")
    line = ["convert", "m.keras", "-o", "m.ernn", "--check", "require", "--steps", "300", "--json"]
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-m", "edge_rnn", *line],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["source_run"].endswith("(jax)") and facts["source_error"] < 1e-5
