"""Remakes keras2.h5, keras2.keras and keras2.npz with TensorFlow 2.15, the last with Keras 2:

pip install tensorflow-cpu==2.15.1; python -m tests.golden.remake_keras2

The files hold one model with what Keras 2 keeps in ways of its own; the arrays its inputs and
outputs, and what cuDNN's layers answer, through Keras's own translation of their weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
H, I, T = 5, 3, 12


def main() -> None:
    import tensorflow as tf
    from keras.src.saving.legacy import hdf5_format

    keras = tf.keras
    layers, rng = keras.layers, np.random.default_rng(5)

    def model() -> Any:
        x = layers.Input((T, I), name="x")
        inner = keras.Sequential(
            [layers.Dense(I, name="inner_dense"), layers.BatchNormalization(name="inner_norm")],
            name="inner",
        )
        y = layers.Add(name="residual")([inner(x), x])
        y = layers.Bidirectional(layers.LSTM(H, return_sequences=True), name="both")(y)
        cells = [layers.LSTMCell(4), layers.GRUCell(4), layers.SimpleRNNCell(H)]
        y = layers.RNN(cells, return_sequences=True, name="cells")(y)
        y = layers.TimeDistributed(layers.Dense(4, "hard_sigmoid"), name="each")(y)
        y = layers.SeparableConv1D(4, 3, padding="same", activation="swish", name="sep")(y)
        y = layers.UnitNormalization(name="unit")(layers.LeakyReLU(alpha=0.2, name="leaky")(y))
        y = layers.GRU(H, recurrent_activation="hard_sigmoid", name="gru")(y)
        return keras.Model(x, layers.Dense(2, "softmax", name="head")(y))

    made = model()
    made.set_weights([np.abs(rng.normal(0.1, 0.5, w.shape)) if "variance" in v.name
                      else rng.normal(0, 0.5, w.shape)
                      for v, w in zip(made.weights, made.get_weights(), strict=True)])  # fmt: skip
    made.save(FOLDER / "keras2.h5")
    made.save(FOLDER / "keras2.keras")
    x = rng.normal(size=(4, T, I)).astype(np.float32)
    arrays = {"x": x, "y": made.predict(x)}
    for kind, blocks in ((layers.LSTM, 4), (layers.GRU, 3)):
        layer, name = kind(H, return_sequences=True), kind.__name__.lower()
        layer(x)
        shapes = ((I, blocks * H), (H, blocks * H), (2 * blocks * H,))
        weights = [rng.normal(0, 0.5, shape).astype(np.float32) for shape in shapes]
        arrays.update(dict(zip((f"{name}_{part}" for part in "wub"), weights, strict=True)))
        layer.set_weights(hdf5_format._convert_rnn_weights(layer, weights))
        arrays[f"{name}_y"] = layer(x).numpy()
    np.savez_compressed(FOLDER / "keras2.npz", **arrays)


if __name__ == "__main__":
    main()
