"""A described network in Keras's own layers: the arrays as they were saved, no order of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from edge_rnn.graph import F32, Schedule
from edge_rnn_converters.keras.run import import_keras, quiet
from edge_rnn_converters.source import CannotRunError, SourceRun
from edge_rnn_converters.weights import schema
from edge_rnn_converters.weights.layer import Place
from edge_rnn_converters.weights.names import ORDERED

_ACTS = {
    "linear": "linear", "relu": "relu", "relu6": "relu6", "tanh": "tanh", "sigmoid": "sigmoid",
    "softsign": "softsign", "silu": "silu", "elu": "elu", "selu": "selu", "softplus": "softplus",
    "mish": "mish", "hard_swish": "hard_silu", "hard_tanh": "hard_tanh",
    "hard_sigmoid_relu6": "hard_sigmoid", "log_sigmoid": "log_sigmoid",
    "exponential": "exponential",
}  # fmt: skip
"""Keras 3's names."""


@dataclass(frozen=True, slots=True, eq=False)
class KerasRunner:
    """Runs the layers one after the other. Between them stands an array (T, width), or, of a
    frame, (T, positions, channels)."""

    places: Sequence[Place]
    schedule: Schedule

    def __call__(self, x: F32) -> SourceRun:
        """x (T, I) -> every output. Raises CannotRunError without Keras, or where it has no such
        layer."""
        with quiet():
            keras = import_keras()
            value = keras.ops.convert_to_tensor(x)
            for place in self.places:
                value = _forward(place.keys, place, keras, value)
            y = np.asarray(keras.ops.convert_to_numpy(_flat(keras, value)), np.float32)
        framework = f"keras {keras.__version__} ({keras.config.backend()})"
        steps = self.schedule.first + self.schedule.period * np.arange(len(y))
        return SourceRun(framework, steps, y)


def _flat(keras: Any, x: Any) -> Any:
    """A frame's positions and channels as the features of each step, as Flatten makes them."""
    return keras.ops.reshape(x, (x.shape[0], -1))


def _act(act: str) -> str:
    if act not in _ACTS:
        raise CannotRunError(f"Keras has no {act}")
    return _ACTS[act]


def _filled(place: Place, layer: Any, x: Any) -> Any:
    """The layer with its arrays, applied to x."""
    layer.build(x.shape)
    layer.set_weights([place.arrays[r] for r in ORDERED[place.kind] if r in place.arrays])
    return layer(x)


@singledispatch
def _forward(keys: schema.Layer, place: Place, keras: Any, x: Any) -> Any:
    """One layer."""
    raise CannotRunError(f"Keras has no {place.kind}")


@_forward.register(schema.Rnn)
@_forward.register(schema.Lstm)
@_forward.register(schema.Gru)
def _(keys: schema.Rnn | schema.Lstm | schema.Gru, place: Place, keras: Any, x: Any) -> Any:
    cells = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
    options: dict[str, Any] = {"activation": _act(keys.activation)}
    if not isinstance(keys, schema.Rnn):
        options["recurrent_activation"] = _act(keys.recurrent_activation)
    if isinstance(keys, schema.Gru):
        after = "bias" in place.arrays and place.arrays["bias"].ndim == 2
        options["reset_after"] = keys.reset == "after" if keys.reset else after
    units = len(place.arrays["recurrent_kernel"])
    layer = cells[keys.KIND](
        units, use_bias="bias" in place.arrays, return_sequences=True, **options
    )
    return _filled(place, layer, _flat(keras, x)[None])[0]


@_forward.register
def _(keys: schema.Linear, place: Place, keras: Any, x: Any) -> Any:
    units, biased = place.arrays["kernel"].shape[1], "bias" in place.arrays
    layer = keras.layers.Dense(units, _act(keys.activation), use_bias=biased)
    return _filled(place, layer, _flat(keras, x))


@_forward.register
def _(keys: schema.Conv1d, place: Place, keras: Any, x: Any) -> Any:
    taps, channels, rows = place.arrays["kernel"].shape
    if keys.frame:
        x = _frame(keras, x, channels)
        if keys.padding not in (0, "valid"):
            x = keras.ops.pad(x, ((0, 0), (keys.padding, keys.padding), (0, 0)))
    layer = keras.layers.Conv1D(
        rows, taps, keys.stride, "causal" if keys.padding == "causal" else "valid",
        dilation_rate=keys.dilation, groups=keys.groups, activation=_act(keys.activation),
        use_bias="bias" in place.arrays,
    )  # fmt: skip
    return _filled(place, layer, x) if keys.frame else _filled(place, layer, x[None])[0]


def _frame(keras: Any, x: Any, channels: int) -> Any:
    """A message's numbers, all channels of a position side by side, as (T, positions, channels)."""
    return x if x.ndim == 3 else keras.ops.reshape(x, (x.shape[0], -1, channels))


@_forward.register
def _(keys: schema.Pool, place: Place, keras: Any, x: Any) -> Any:
    if keys.padding != "valid":
        raise CannotRunError("Keras has no causal pool")
    kind = "MaxPooling1D" if isinstance(keys, schema.MaxPool) else "AveragePooling1D"
    layer = getattr(keras.layers, kind)(keys.kernel, keys.stride or keys.kernel)
    return layer(_frame(keras, x, 1)) if keys.frame else layer(x[None])[0]


@_forward.register
def _(keys: schema.Embedding, place: Place, keras: Any, x: Any) -> Any:
    layer = keras.layers.Embedding(*place.arrays["embeddings"].shape)
    return _filled(place, layer, x[:, 0])


@_forward.register(schema.LayerNorm)
@_forward.register(schema.RmsNorm)
@_forward.register(schema.BatchNorm)
def _(keys: schema.LayerNorm, place: Place, keras: Any, x: Any) -> Any:
    options = {} if keys.epsilon is None else {"epsilon": keys.epsilon}
    if not isinstance(keys, schema.RmsNorm):
        options |= {"scale": "gamma" in place.arrays, "center": "beta" in place.arrays}
    kinds = {"layer_norm": "Layer", "rms_norm": "RMS", "batch_norm": "Batch"}
    return _filled(place, getattr(keras.layers, f"{kinds[place.kind]}Normalization")(**options), x)


@_forward.register
def _(keys: schema.PRelu, place: Place, keras: Any, x: Any) -> Any:
    return _filled(place, keras.layers.PReLU(), x)


@_forward.register
def _(keys: schema.Activation, place: Place, keras: Any, x: Any) -> Any:
    if keys.act in ("sqrt", "square", "abs", "log"):
        return getattr(keras.ops, keys.act)(x)
    return keras.layers.Activation(_act(keys.act))(x)


@_forward.register
def _(keys: schema.L2Norm, place: Place, keras: Any, x: Any) -> Any:
    return keras.layers.UnitNormalization()(x)


@_forward.register
def _(keys: schema.Softmax, place: Place, keras: Any, x: Any) -> Any:
    return keras.layers.Softmax()(x)


@_forward.register
def _(keys: schema.LogSoftmax, place: Place, keras: Any, x: Any) -> Any:
    return keras.ops.log_softmax(x)


@_forward.register
def _(keys: schema.Pad, place: Place, keras: Any, x: Any) -> Any:
    mode = {"zero": "constant", "reflect": "reflect"}[keys.mode]
    widths = ((0, 0), (keys.before, keys.after), (0, 0))
    return keras.ops.pad(_frame(keras, x, 1), widths, mode)


@_forward.register
def _(keys: schema.Magnitude, place: Place, keras: Any, x: Any) -> Any:
    a, b = keras.ops.split(x, 2, axis=2)
    return keras.ops.sqrt(a * a + b * b)
