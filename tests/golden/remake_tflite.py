"""Makes the files in `tflite/`, what TensorFlow's converter makes of Keras layers.

    pip install tensorflow-cpu==2.21.0 && python remake_tflite.py   # Keras 3: loops over time
    pip install tensorflow-cpu==2.15.1 && python remake_tflite.py   # Keras 2: fused operators

Each TensorFlow makes the files named for its Keras. Weights are random, so that files remade by
another version compute the same kind of thing, not the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "tflite"


def network(keras: Any, layers: list[Any], steps: int = 12, width: int = 5) -> Any:
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((steps, width), batch_size=1), *layers])
    for v in model.variables:
        v.assign((rng.normal(size=v.shape) * 0.5).astype(np.float32))
    return model


def file(tf: Any, model: Any, precision: str) -> bytes:
    """precision: float32; hybrid, weights in int8; int8, all in int8."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "int8":
        rng = np.random.default_rng(0)
        rows = [rng.normal(size=model.input_shape).astype(np.float32) for _ in range(30)]
        converter.representative_dataset = lambda: ([row] for row in rows)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def keras3(L: Any, net: Callable[..., Any]) -> dict[str, tuple[Any, str]]:
    def every(layer: Any, **more: Any) -> list[Any]:
        return [layer(7, return_sequences=True, **more), L.Dense(3)]

    cells = [L.LSTMCell(6), L.GRUCell(5)]
    wide = {"width": 32}
    return {
        "lstm": (net(every(L.LSTM)), "float32"),
        "gru": (
            net([L.GRU(7, return_sequences=True), L.Dense(3, activation="softmax")]),
            "float32",
        ),
        "gru_before": (
            net([L.GRU(7, reset_after=False), L.Dense(3, activation="relu")]),
            "float32",
        ),
        "rnn": (net(every(L.SimpleRNN)), "float32"),
        "norm": (net([L.GRU(7, return_sequences=True), L.LayerNormalization()]), "float32"),
        "two": (net([L.LSTM(7, return_sequences=True), L.GRU(6)]), "float32"),
        "cells": (net([L.RNN(cells, return_sequences=True)]), "float32"),
        "lstm_unrolled": (net([L.LSTM(7, unroll=True), L.Dense(3)], 5), "float32"),
        "gru_unrolled": (net(every(L.GRU, unroll=True), 5), "float32"),
        "lstm_stateful": (net(every(L.LSTM, stateful=True), 1), "float32"),
        "gru_stateful": (net(every(L.GRU, stateful=True), 4), "float32"),
        "bilstm": (net([L.Bidirectional(L.LSTM(7, return_sequences=True)), L.Dense(3)]), "float32"),
        "lstm_hybrid": (net([L.LSTM(32, return_sequences=True), L.Dense(32)], **wide), "hybrid"),
        "gru_hybrid": (net([L.GRU(32, return_sequences=True), L.Dense(32)], **wide), "hybrid"),
    }


def keras2(L: Any, net: Callable[..., Any]) -> dict[str, tuple[Any, str]]:
    def lstm() -> list[Any]:
        return [L.LSTM(7, return_sequences=True), L.Dense(3)]

    conv = [L.Conv1D(6, 3, padding="causal", activation="relu"), *lstm()]
    wide = [L.LSTM(32, return_sequences=True), L.Dense(3)]
    return {
        "lstm_fused": (net(lstm()), "float32"),
        "conv_fused": (net(conv), "float32"),
        "bilstm_fused": (net([L.Bidirectional(L.LSTM(7, return_sequences=True)), L.Dense(3)]),
                         "float32"),
        "lstm_fused_hybrid": (net(wide, width=32), "hybrid"),
        "lstm_fused_int8": (net([L.LSTM(16, return_sequences=True), L.Dense(3)], width=8), "int8"),
        "dense_int8": (net([L.Dense(8, activation="relu"), L.Dense(3)]), "int8"),
    }  # fmt: skip


def columns(tf: Any) -> bytes:
    """A GRU in a loop over x[:, t], whose steps are not the first axis."""
    rng = np.random.default_rng(0)
    w, r, b = (tf.constant(rng.normal(0, 0.5, s), tf.float32) for s in ((5, 21), (7, 21), (21,)))

    @tf.function(input_signature=[tf.TensorSpec([1, 12, 5], name="x")])
    def run(x: Any) -> Any:
        h, rows = tf.zeros([1, 7]), tf.TensorArray(tf.float32, 12, element_shape=[1, 7])
        for t in tf.range(12):
            xz, xr, xn = tf.split(x[:, t] @ w + b, 3, axis=1)
            hz, hr, hn = tf.split(h @ r, 3, axis=1)
            z = tf.sigmoid(xz + hz)
            h = z * h + (1 - z) * tf.tanh(xn + tf.sigmoid(xr + hr) * hn)
            rows = rows.write(t, h)
        return tf.transpose(rows.stack(), [1, 0, 2])

    function = run.get_concrete_function()
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], run).convert())


def main() -> None:
    import tensorflow as tf

    keras = tf.keras
    makers = keras3 if int(tf.__version__.split(".")[1]) >= 16 else keras2
    made = makers(keras.layers, lambda layers, *a, **k: network(keras, layers, *a, **k))
    wanted = sys.argv[1:] or ["columns", *made]
    FOLDER.mkdir(exist_ok=True)
    for name in wanted:
        blob = columns(tf) if name == "columns" else file(tf, *made[name])
        (FOLDER / f"{name}.tflite").write_bytes(blob)


if __name__ == "__main__":
    main()
