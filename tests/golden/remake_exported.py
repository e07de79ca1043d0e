"""Remakes the SavedModel folder saved/exported and saved/exported.npz with Keras 3 and TensorFlow:
in a virtual environment with `tensorflow==2.21.0`, `KERAS_BACKEND=tensorflow python
tests/golden/remake_exported.py`."""

import shutil
from pathlib import Path

import keras
import numpy as np

HERE = Path(__file__).parent / "saved"

keras.utils.set_random_seed(1)
model = keras.Sequential(
    [keras.Input((None, 3)), keras.layers.GRU(4, return_sequences=True), keras.layers.Dense(2)]
)
model.export(HERE / "exported", verbose=False)
shutil.rmtree(HERE / "exported" / "assets")
(HERE / "exported" / "fingerprint.pb").unlink()
x = np.random.default_rng(0).normal(size=(1, 12, 3)).astype(np.float32)
np.savez(HERE / "exported.npz", x=x[0], y=np.asarray(model(x))[0])
