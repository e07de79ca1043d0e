"""SavedModels for the tests of signatures, written by Keras 3 and TensorFlow in a process of its
own: the tests' own Keras computes with NumPy.

    KERAS_BACKEND=tensorflow python -m tests.converters.signature_models FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def write(folder: Path) -> None:
    """Write them all into the folder, with what each computes beside it."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.converters.signature_models", str(folder)]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)


def _keras(folder: Path) -> None:
    import keras
    import numpy as np

    layers = keras.layers

    def export(name: str, shape: tuple[int | None, ...], *stack: Any, **options: Any) -> None:
        model = keras.Sequential([keras.Input(shape, **options), *stack])
        model.export(folder / name, verbose=False)

    export("gru", (None, 6), layers.GRU(8, return_sequences=True), layers.Dense(3, "softmax"))
    export("gru_before", (None, 6), layers.GRU(8, reset_after=False, return_sequences=True))
    export("lstm", (20, 6), layers.LSTM(8), layers.Dense(3))
    export("rnn", (None, 6), layers.SimpleRNN(8, return_sequences=True), layers.Dense(2))
    export("unrolled", (10, 6), layers.GRU(8, unroll=True, return_sequences=True))
    export("stacked", (None, 6), layers.LSTM(8, return_sequences=True), layers.GRU(4))
    rnn, before = layers.SimpleRNN(8, return_sequences=True), layers.GRU(4, reset_after=False)
    export("open", (None, 6), rnn, before)
    causal = layers.Conv1D(8, 5, padding="causal", activation="relu")
    export("conv", (None, 6), causal, layers.LSTM(8, return_sequences=True), layers.Dense(2))
    norm = layers.LayerNormalization()
    norm.build((None, None, 8))
    norm.set_weights([np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8)])
    export("norm", (None, 6), layers.GRU(8, return_sequences=True), norm)
    export("indices", (None,), layers.Embedding(20, 6), layers.LSTM(8), dtype="int32")
    export("batch", (20, 6), layers.LSTM(8, return_sequences=True), batch_size=4)
    export("both", (None, 6), layers.Bidirectional(layers.GRU(4, return_sequences=True)))
    a, b = keras.Input((None, 6), name="b"), keras.Input((None, 2), name="a")
    y = layers.GRU(8, return_sequences=True)(layers.Concatenate()([a, b]))
    keras.Model([a, b], [layers.Dense(2)(y), layers.Dense(1)(a)]).export(
        folder / "several", verbose=False
    )


def _modules(folder: Path) -> None:
    import numpy as np
    import tensorflow as tf

    class Cell(tf.Module):
        state: Any

        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.kernel = tf.Variable(rng.normal(0, 0.3, (6, 8)), dtype=tf.float32)
            self.recurrent = tf.Variable(rng.normal(0, 0.3, (8, 8)), dtype=tf.float32)
            self.four = tf.Variable(rng.normal(0, 0.3, (6, 32)), dtype=tf.float32)
            self.fours = tf.Variable(rng.normal(0, 0.3, (8, 32)), dtype=tf.float32)
            self.bias = tf.Variable(rng.normal(0, 0.3, 8), dtype=tf.float32)

        def step(self, x: Any, h: Any) -> Any:
            return tf.tanh(x @ self.kernel + h @ self.recurrent + self.bias)

        @tf.function(input_signature=[tf.TensorSpec([1, 10, 6], name="x")])
        def written_out(self, x: Any) -> Any:
            h, rows = tf.zeros([1, 8]), []
            for t in range(10):
                h = self.step(x[:, t], h)
                rows.append(h)
            return {"y": tf.stack(rows, 1)}

        @tf.function(input_signature=[tf.TensorSpec([None, None, 6], name="x")])
        def loop(self, x: Any) -> Any:
            """Reads x[:, t]."""
            batch, steps = tf.shape(x)[0], tf.shape(x)[1]
            h, rows = (
                tf.zeros([batch, 8]),
                tf.TensorArray(tf.float32, steps, element_shape=[None, 8]),
            )
            for t in tf.range(steps):
                h = self.step(x[:, t], h)
                rows = rows.write(t, h)
            return {"y": tf.transpose(rows.stack(), [1, 0, 2])}

        @tf.function(input_signature=[tf.TensorSpec([1, 10, 6], name="x")])
        def last(self, x: Any) -> Any:
            h = tf.zeros([1, 8])
            for t in tf.range(10):
                h = self.step(x[:, t], h)
            return {"y": h}

        @tf.function(input_signature=[tf.TensorSpec([None, 1, 6], name="x")])
        def scan(self, x: Any) -> Any:
            """Steps come first, and the second state is kept in a list that nothing reads."""

            def cell(states: Any, row: Any) -> Any:
                i, f, g, o = tf.split(row @ self.four + states[0] @ self.fours, 4, axis=1)
                c = tf.sigmoid(f) * states[1] + tf.sigmoid(i) * tf.tanh(g)
                return tf.sigmoid(o) * tf.tanh(c), c

            zeros = tf.zeros([1, 8])
            return {"y": tf.scan(cell, x, (zeros, zeros))[0]}

        state_too = tf.TensorSpec([1, 6], name="x"), tf.TensorSpec([1, 8], name="h")

        @tf.function(input_signature=state_too)
        def one_step(self, x: Any, h: Any) -> Any:
            h = self.step(x, h)
            return {"y": h @ tf.transpose(self.kernel), "h": h}

        @tf.function(input_signature=[tf.TensorSpec([1, None], tf.int32, name="x")])
        def choosing(self, x: Any) -> Any:
            """As an embedding counts indices below zero from the end, but at three."""
            return {"y": tf.gather(self.kernel, tf.where(x < 3, x + 3, x))}

        @tf.function(input_signature=[tf.TensorSpec([1, None, 6], name="x")])
        def printing(self, x: Any) -> Any:
            tf.print("a message")
            return {"y": x @ self.kernel}

        @tf.function(input_signature=[tf.TensorSpec([1, 6], name="x")])
        def keeping(self, x: Any) -> Any:
            return {"y": self.state.assign(self.step(x, self.state))}

    module = Cell()
    module.state = tf.Variable(tf.zeros([1, 8]))
    names = ("written_out", "loop", "last", "scan", "one_step", "choosing", "printing", "keeping")
    signatures = {name: getattr(module, name) for name in names}
    tf.saved_model.save(module, str(folder / "module"), signatures=signatures)


if __name__ == "__main__":
    _keras(Path(sys.argv[1]))
    _modules(Path(sys.argv[1]))
