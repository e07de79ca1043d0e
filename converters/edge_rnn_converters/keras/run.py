"""Runs a Keras model with Keras, to check a conversion against its source."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edge_rnn.graph import F32
from edge_rnn_converters.source import CannotRunError, SourceRun, prefixes

_BACKENDS = ("jax", "tensorflow", "torch")


@dataclass(frozen=True, slots=True)
class KerasRunner:
    """Runs the file at `path`, written by Keras `version`, whose input declares `batch` and
    `steps` (None: any); `last_only`: it answers for a sequence's last step only."""

    path: Path
    version: str
    batch: int | None
    steps: int | None
    last_only: bool

    def __call__(self, x: F32) -> SourceRun:
        """x (T, I) -> the source's outputs: every step's, or those of a few prefixes' last steps.

        Raises CannotRunError when Keras is not installed, is of another major version (it would
        read hard_sigmoid as another function), or can't load the file.
        """
        if self.steps is not None and self.steps > len(x):
            raise CannotRunError(f"its window of {self.steps} steps is longer than the check's")
        lengths = self._lengths(len(x))
        with quiet():
            keras, model = self._load()
            runs = [self._predict(keras, model, x[:n]) for n in lengths]
        steps = [[n - 1] if self.last_only else range(n) for n in lengths]
        return SourceRun(
            f"keras {keras.__version__} ({keras.config.backend()})",
            np.concatenate([np.array(s, np.int64) for s in steps]),
            np.concatenate(runs),
        )

    def _lengths(self, T: int) -> list[int]:
        if self.steps is not None or not self.last_only:
            return [self.steps or T]
        return prefixes(T)

    def _load(self) -> tuple[Any, Any]:
        keras = import_keras()
        if keras.__version__.split(".")[0] != self.version.split(".")[0]:
            raise CannotRunError(
                f"the file is from keras {self.version}, keras {keras.__version__} is installed"
            )
        try:
            return keras, keras.models.load_model(self.path, compile=False)
        except Exception as e:
            # Keras raises what its backend raises; whichever it is, there is nothing to compare.
            raise CannotRunError(f"keras {keras.__version__} can't load it: {e}") from e

    def _predict(self, keras: Any, model: Any, x: F32) -> F32:
        row = x[:, 0] if len(model.input_shape) == 2 else x
        batch = np.repeat(row[None], self.batch or 1, axis=0)
        for layer in model.layers:
            if getattr(layer, "stateful", False):
                layer.reset_states() if hasattr(layer, "reset_states") else layer.reset_state()
        y = np.asarray(keras.ops.convert_to_numpy(model(batch, training=False)), np.float32)[0]
        rows: F32 = y.reshape(-1, y.shape[-1])
        return rows


def import_keras() -> Any:
    """Keras, on a backend that is there; its own choice, TensorFlow, often is not."""
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ:
        backend = next((b for b in _BACKENDS if find_spec(b)), None)
        if backend is None:
            raise CannotRunError("keras has no backend installed (jax, tensorflow or torch)")
        os.environ["KERAS_BACKEND"] = backend
    try:
        import keras
    except ImportError as e:
        raise CannotRunError("keras is not installed: pip install keras jax") from e
    return keras


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of frameworks are about themselves, not about the conversion."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
