"""Remakes the SavedModel folders saved/model and saved/bare, and saved/bare.npz, with Keras 2:

pip install tensorflow-cpu==2.15.1; python -m tests.golden.remake_saved

The first holds the model of keras2.h5 as Keras saves it unless it is told otherwise, the other one
a model without traces. Of each is kept what is read of it, and that is not saved_model.pb.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
H, I, T = 4, 3, 8


def main() -> None:
    import tensorflow as tf

    keras = tf.keras
    layers, rng = keras.layers, np.random.default_rng(6)
    keep(keras.models.load_model(FOLDER / "keras2.h5", compile=False), "model")
    bare = keras.Sequential([
        layers.LSTM(H, return_sequences=True, input_shape=(None, I)),
        layers.BatchNormalization(),
        layers.GRU(H, return_sequences=True, dropout=0.2, trainable=False),
        layers.SimpleRNN(H, return_sequences=True),
        layers.Dense(2),
    ])  # fmt: skip
    bare.compile("adam", "mse")
    x = rng.normal(size=(1, T, I)).astype(np.float32)
    bare.fit(x, np.zeros((1, T, 2)), epochs=1, verbose=0)  # its optimizer's variables are saved too
    bare.set_weights([rng.normal(0, 0.5, w.shape) if w.ndim > 1 else np.abs(w)
                      for w in bare.get_weights()])  # fmt: skip
    y = bare(x, training=False).numpy()
    np.savez_compressed(FOLDER / "saved" / "bare.npz", x=x[0], y=y[0])
    keep(bare, "bare", save_traces=False)


def keep(model: Any, name: str, **options: Any) -> None:
    """Save it, without the files that are not read."""
    folder = FOLDER / "saved" / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save(folder, **options)
    for path in ("saved_model.pb", "fingerprint.pb"):
        (folder / path).unlink()
    (folder / "assets").rmdir()


if __name__ == "__main__":
    main()
