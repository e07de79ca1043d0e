"""Runs a Keras model with Keras, to check a conversion against its source."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edge_rnn.graph import F32, Schedule
from edge_rnn_converters.hdf5 import Hdf5
from edge_rnn_converters.keras.file import Json, KerasFile
from edge_rnn_converters.source import CannotRunError, SourceRun

_BACKENDS = ("jax", "tensorflow", "torch")


@dataclass(frozen=True, slots=True)
class Fed:
    """An input of the Keras model: `width` columns of x, which are rows of `shape`.

    It takes the last `steps` rows of a sequence (None: all of them), or, where `once`, the last row
    without an axis of steps.
    """

    width: int
    shape: tuple[int, ...]
    steps: int | None
    once: bool

    def of(self, rows: F32) -> F32:
        """What the input gets for a sequence's rows (T, width)."""
        taken: F32 = rows[-1] if self.once else rows[-(self.steps or len(rows)) :]
        return taken.reshape(self.shape if self.once else (-1, *self.shape))


@dataclass(frozen=True, slots=True, eq=False)
class KerasRunner:
    """Runs the model in `file`, which has `inputs` and takes a `batch` (None: of any size).

    `window`: it is run on so many steps; None: on sequences of any length. `ends`: it answers for
    a sequence's last step only. `schedule`: when the converted model has its outputs; None: when a
    window is whole.
    """

    file: KerasFile
    inputs: tuple[Fed, ...]
    batch: int | None
    window: int | None
    ends: bool
    schedule: Schedule | None

    def __call__(self, x: F32) -> SourceRun:
        """x (T, I) -> the source's outputs: every step's, or those of a few prefixes' last steps.

        Raises CannotRunError when Keras is not installed, is of another major version (it would
        read hard_sigmoid as another function), or can't load the file.
        """
        if self.window is not None and self.window > len(x):
            raise CannotRunError(f"its window of {self.window} steps is longer than the check's")
        with quiet():
            keras, model = self._load()
            runs = [self._predict(keras, model, x[:n]) for n in self._lengths(len(x))]
        return SourceRun(
            f"keras {keras.__version__} ({keras.config.backend()})",
            np.concatenate([steps for steps, _ in runs]),
            np.concatenate([y for _, y in runs]),
        )

    def _lengths(self, T: int) -> list[int]:
        if self.window is not None or not self.ends:
            return [self.window or T]
        first, period = self.schedule or Schedule()
        due = range(first, T, period)
        return sorted({due[i] + 1 for i in (0, len(due) // 3, -1)}) if due else []

    def _load(self) -> tuple[Any, Any]:
        keras = import_keras()
        if keras.__version__.split(".")[0] != self.file.version.split(".")[0]:
            raise CannotRunError(
                f"the file is from keras {self.file.version}, keras {keras.__version__} is "
                "installed"
            )
        if strange := sorted(_strangers(_untrained(self.file.config))):
            raise CannotRunError(f"the file names objects that are not Keras's: {strange[0]}")
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = copied(self.file, Path(folder))
                return keras, keras.models.load_model(path, compile=False)
        except Exception as e:
            # Keras raises what its backend raises; whichever it is, there is nothing to compare.
            raise CannotRunError(f"keras {keras.__version__} can't load it: {e}") from e

    def _predict(self, keras: Any, model: Any, x: F32) -> tuple[Any, F32]:
        """(the steps that it answers for, its outputs side by side)."""
        columns = np.split(x, np.cumsum([i.width for i in self.inputs])[:-1], axis=1)
        fed = [
            np.repeat(i.of(rows)[None], self.batch or 1, axis=0)
            for i, rows in zip(self.inputs, columns, strict=True)
        ]
        for layer in model.layers:
            if getattr(layer, "stateful", False):
                layer.reset_states() if hasattr(layer, "reset_states") else layer.reset_state()
        made = model(fed if len(fed) > 1 else fed[0], training=False)
        made = list(made) if isinstance(made, list | tuple) else [made]
        y = [np.asarray(keras.ops.convert_to_numpy(a), np.float32)[0] for a in made]
        shapes = [shape[1:] for shape in _shapes(model.output_shape)]
        rows = [a.reshape(-1, a.size // (len(a) if len(s) > 1 else 1))
                for a, s in zip(y, shapes, strict=True)]  # fmt: skip
        return self._placed(len(x), rows)

    def _placed(self, T: int, rows: list[F32]) -> tuple[Any, F32]:
        """The outputs' rows at the steps that they belong to: all, or the sequence's last."""
        n = len(rows[0])
        if self.schedule is not None:
            first, period = self.schedule
            steps = np.arange(first, T, period)
        else:
            steps = np.arange(T)
        if self.ends or n != len(steps):
            last = int(steps[-1]) if self.schedule is not None else T - 1
            return np.array([last]), np.concatenate([a[-1:] for a in rows], axis=1)
        return steps, np.concatenate(rows, axis=1)


def _shapes(shape: Any) -> list[tuple[int | None, ...]]:
    return list(shape) if isinstance(shape, list) else [shape]


def copied(file: KerasFile, folder: Path) -> Path:
    """The model in a new file of our own writing, weights alone: libhdf5, with which Keras reads,
    can hang on a damaged one."""
    if file.hdf5 is None:
        raise CannotRunError("loading a SavedModel would run what stands in it")
    weights = folder / "model.h5"
    _copy(file.hdf5, weights)
    if "model_weights" in file.hdf5.groups:
        return weights
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("config.json", json.dumps(_untrained(file.config)))
        z.writestr("metadata.json", json.dumps({"keras_version": file.version}))
        z.write(weights, "model.weights.h5")
    return path


_LEFT = ("optimizer", "optimizer_weights", "top_level_model_weights")


def _copy(h5: Hdf5, path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as f:
        for name in sorted(h5.groups):
            if name.split("/")[0] not in _LEFT:
                group = f.require_group(name or "/")
                for key in h5.attributes(name):
                    if key != "training_config":
                        group.attrs[key] = h5.attribute(name, key)
        for name in h5.datasets:
            if name.split("/")[0] not in _LEFT:
                f[name] = h5.array(name)


def _untrained(config: Json) -> Json:
    """The configuration without what the model was trained with."""
    return {key: value for key, value in config.items() if key != "compile_config"}


def _strangers(value: Any) -> set[str]:
    """Modules that the configuration names anywhere and that are not Keras's."""
    if isinstance(value, list):
        return {name for item in value for name in _strangers(item)}
    if not isinstance(value, dict):
        return set()
    inner = {name for item in value.values() for name in _strangers(item)}
    module = value.get("module")
    ours = module is None or str(module).split(".")[0] == "keras"
    return inner if ours or "class_name" not in value else inner | {str(module)}


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
