"""Keras models for the tests: Keras 3 makes and saves them, Keras-2 files are written by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

STEPS, I, H = 40, 3, 5
layers = keras.layers


def inputs(width: int = I, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(STEPS, width)).astype(np.float32)


def made(*stack: Any, shape: tuple[int | None, ...] = (None, I), dtype: str = "float32") -> Any:
    """A Sequential model with seeded random weights, variances positive."""
    model = keras.Sequential([layers.Input(shape, dtype=dtype), *stack])
    return randomized(model)


def randomized(model: Any) -> Any:
    """The model with seeded random weights, variances positive; recurrent ones half as large, so
    that what has no bound does not grow, and roundings with it, from step to step."""
    rng = np.random.default_rng(3)
    for variable in model.variables:
        if "seed_generator" in variable.path or "count" in variable.path:
            continue
        value = rng.normal(0, 0.3 if "recurrent" in variable.path else 0.6, variable.shape)
        variable.assign(np.abs(value) + 0.1 if "variance" in variable.path else value)
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def outputs(model: Any, x: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Steps and what Keras computes for them; a model that answers at the end is asked twice."""
    with np.errstate(over="ignore"):  # of Keras's sigmoid on NumPy, far from zero
        if len(model.output_shape) == 3:
            return list(range(len(x))), np.asarray(model(x[None], training=False))[0]
        ends = [2, len(x) - 1]
        return ends, np.concatenate([np.asarray(model(x[None, : n + 1])) for n in ends])


def keras2_file(
    path: Path,
    entries: Sequence[tuple[str, dict[str, Any], dict[str, np.ndarray]]],
    shape: tuple[int | None, ...] = (None, None, I),
    version: str = "2.4.0",
    functional: bool = False,
    declare_input: bool = True,
) -> Path:
    """An .h5 file as Keras 2 writes one: (class, config, weights in Keras's order) a layer."""
    listed = [("InputLayer", {"batch_input_shape": shape, "dtype": "float32"}, {})] * declare_input
    listed += entries
    config = []
    for n, (kind, settings, _) in enumerate(listed):
        entry: dict[str, Any] = {"class_name": kind, "config": {"name": f"layer_{n}", **settings}}
        if functional:
            entry["name"] = f"layer_{n}"
            entry["inbound_nodes"] = [[[f"layer_{n - 1}", 0, 0, {}]]] if n else []
        config.append(entry)
    model: dict[str, Any] = {"name": "m", "layers": config}
    if functional:
        model["input_layers"] = [["layer_0", 0, 0]]
        model["output_layers"] = [[f"layer_{len(listed) - 1}", 0, 0]]
    kind = "Functional" if functional else "Sequential"
    with h5py.File(path, "w") as f:
        f.attrs["keras_version"] = version.encode()
        f.attrs["backend"] = b"tensorflow"
        f.attrs["model_config"] = json.dumps({"class_name": kind, "config": model}).encode()
        for n, (_, _, weights) in enumerate(listed):
            group = f.create_group(f"model_weights/layer_{n}")
            names = [f"layer_{n}/{name}:0" for name in weights]
            group.attrs["weight_names"] = np.array([name.encode() for name in names], "S")
            for name, value in zip(names, weights.values(), strict=True):
                group[name] = value.astype(np.float32)
    return path


def recurrent_config(**settings: Any) -> dict[str, Any]:
    """What Keras 2 writes of a recurrent layer, time_major and all."""
    return {
        "trainable": True, "dtype": "float32", "return_sequences": True, "return_state": False,
        "go_backwards": False, "stateful": False, "unroll": False, "time_major": False,
        "units": H, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True,
        "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
        "kernel_regularizer": None, "dropout": 0.1, "recurrent_dropout": 0.0, "implementation": 2,
        **settings,
    }  # fmt: skip
