"""The Keras layers that convert, each as the nodes that it becomes; `LAYERS` has them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_rnn.errors import ModelError
from edge_rnn.graph import F32, Act, Activation, Dense, Embedding, Matrix, Node, Scale, Softmax
from edge_rnn_converters import gates
from edge_rnn_converters.keras.graph import Layer
from edge_rnn_converters.refused import KERAS_REFUSED, KERAS_REFUSED_VALUES, UNKNOWN

EPSILON = 1e-7
"""keras.config.epsilon(), the floor of a Normalization's standard deviation."""


_INERT = frozenset(
    (
        "name", "trainable", "dtype", "batch_shape", "batch_input_shape", "input_shape",
        "input_dim", "input_length", "seed", "implementation", "caching_device", "autocast",
        "unit_forget_bias", "zero_output_for_mask", "mask_zero", "go_backwards", "time_major",
        "return_state", "renorm_clipping", "renorm_momentum", "fused", "virtual_batch_size",
        "synchronized",
    )
)  # fmt: skip
"""Attributes that change nothing at inference, or whose refused values are refused by name."""


@dataclass(frozen=True, slots=True)
class At:
    """Where a layer stands: it reads the value `source` of `width` and makes `name`.

    `first`: it reads the model's input; `index`: that input is one index a step; `ended`: it sees
    the last step only, as after return_sequences=False.
    """

    source: str
    width: int
    name: str
    first: bool
    index: bool
    ended: bool


Builder: TypeAlias = Callable[[Layer, At], list[Node]]


@dataclass(frozen=True, slots=True)
class Known:
    """A layer class that converts: how, which attributes it reads, what the manual says of it."""

    build: Builder
    reads: frozenset[str]
    doc: str


LAYERS: dict[str, Known] = {}


def _layer(kinds: str, reads: str, doc: str) -> Callable[[Builder], Builder]:
    def register(build: Builder) -> Builder:
        LAYERS.update({kind: Known(build, frozenset(reads.split()), doc) for kind in kinds.split()})
        return build

    return register


@_layer(
    "Dropout SpatialDropout1D GaussianDropout GaussianNoise AlphaDropout ActivityRegularization",
    "rate stddev noise_shape l1 l2 data_format",
    "does nothing at inference; dropped",
)
def _dropped(layer: Layer, at: At) -> list[Node]:
    return []


_RECURRENT = "units activation use_bias return_sequences stateful unroll dropout recurrent_dropout "


@_layer("SimpleRNN", _RECURRENT, "")
def _rnn(layer: Layer, at: At) -> list[Node]:
    act = _act(layer, "activation", "tanh")
    return [gates.rnn(at.name, at.source, _cell(layer, at, 1), act)]


@_layer("LSTM", _RECURRENT + "recurrent_activation", "")
def _lstm(layer: Layer, at: At) -> list[Node]:
    gate, act = _act(layer, "recurrent_activation", "sigmoid"), _act(layer, "activation", "tanh")
    return [gates.lstm(at.name, at.source, _cell(layer, at, 4), gate, act, act)]


@_layer("GRU", _RECURRENT + "recurrent_activation reset_after", "`reset_after` true and false")
def _gru(layer: Layer, at: At) -> list[Node]:
    after = layer.flag("reset_after")
    gate, act = _act(layer, "recurrent_activation", "sigmoid"), _act(layer, "activation", "tanh")
    cell = _cell(layer, at, 3, two_biases=after)
    return [gates.gru(at.name, at.source, cell, "after" if after else "before", gate, act)]


def _cell(layer: Layer, at: At, blocks: int, two_biases: bool = False) -> gates.Cell:
    """The weights of a recurrent layer: kernel (I, kH), recurrent kernel (H, kH), bias."""
    if at.ended:
        raise layer.refuse(
            "input", "it reads the one last step of the layer before",
            "set return_sequences=True there",
        )  # fmt: skip
    H = _size(layer, "units")
    bias = (2, blocks * H) if two_biases else (blocks * H,)
    shapes = [(at.width, blocks * H), (H, blocks * H)]
    w, u, *b = _shaped(layer, *shapes, *([bias] if layer.flag("use_bias", True) else []))
    both = gates.keras_biases(b[0] if b else np.zeros(bias, np.float32), blocks * H)
    return gates.Cell("keras", w.T, u.T, *both)


@_layer("Dense", "units activation use_bias", "")
def _dense(layer: Layer, at: At) -> list[Node]:
    N = _size(layer, "units")
    w, *b = _shaped(layer, (at.width, N), *([(N,)] if layer.flag("use_bias", True) else []))
    softmax = layer.config.get("activation") == "softmax"
    act = "linear" if softmax else _act(layer, "activation", "linear")
    bias = b[0] if b else np.zeros(N, np.float32)
    dense = Dense(at.name, at.source, Matrix(np.ascontiguousarray(w.T)), bias, act)
    return [dense, Softmax(f"{at.name}.softmax", at.name)] if softmax else [dense]


@_layer("TimeDistributed", "layer", "around Dense")
def _time_distributed(layer: Layer, at: At) -> list[Node]:
    inner = layer.inner()
    if inner.kind != "Dense" or at.ended:
        raise layer.refuse(f"layer {inner}", "only Dense converts here", "apply it without wrapper")
    check(inner)
    return _dense(inner, at)


@_layer("Activation", "activation", "")
def _activation(layer: Layer, at: At) -> list[Node]:
    if layer.config.get("activation") == "softmax":
        return [Softmax(at.name, at.source)]
    return [Activation(at.name, at.source, _act(layer, "activation", "linear"))]


@_layer("ReLU", "max_value negative_slope threshold", "plain, or `max_value=6`")
def _relu(layer: Layer, at: At) -> list[Node]:
    for attribute in ("negative_slope", "threshold"):
        if value := layer.config.get(attribute):
            raise layer.refuse(f"{attribute}={value}", "only 0 converts", "use a plain ReLU")
    top = layer.config.get("max_value")
    if top not in (None, 6):
        raise layer.refuse(f"max_value={top}", "only None and 6 convert", "use one of those")
    return [Activation(at.name, at.source, "relu" if top is None else "relu6")]


@_layer("Softmax", "axis", "over the features")
def _softmax(layer: Layer, at: At) -> list[Node]:
    _check_axis(layer, at)
    return [Softmax(at.name, at.source)]


@_layer("Embedding", "input_dim output_dim", "as the first layer")
def _embedding(layer: Layer, at: At) -> list[Node]:
    if not (at.first and at.index):
        raise layer.refuse(
            "input", "it must read the model's input of shape (batch, steps)",
            "make it the first layer",
        )  # fmt: skip
    (table,) = _shaped(layer, (_size(layer, "input_dim"), _size(layer, "output_dim")))
    return [Embedding(at.name, at.source, Matrix(table))]


@_layer("Normalization", "axis invert mean variance", "adapted, or with given mean and variance")
def _normalization(layer: Layer, at: At) -> list[Node]:
    """(x - mean) / max(sqrt(variance), epsilon), or x max(sqrt(variance), epsilon) + mean."""
    if layer.config.get("axis") not in (None, []):
        _check_axis(layer, at)
    given = [layer.config.get("mean"), layer.config.get("variance")]
    stored = layer.weights[:2] if given[0] is None else given
    mean, variance = (
        _numbers(layer, at, value, what)
        for value, what in zip(stored, ("mean", "variance"), strict=True)
    )
    deviation = np.maximum(np.sqrt(variance), EPSILON)
    if layer.flag("invert"):
        return [_scale(at, 0, deviation, mean)]
    return [_scale(at, mean, 1 / deviation, 0)]


@_layer("Rescaling", "scale offset", "")
def _rescaling(layer: Layer, at: At) -> list[Node]:
    scale = _numbers(layer, at, layer.config.get("scale"), "scale")
    return [_scale(at, 0, scale, _numbers(layer, at, layer.config.get("offset", 0), "offset"))]


@_layer("BatchNormalization", "axis momentum epsilon center scale renorm", "its moving averages")
def _batch_normalization(layer: Layer, at: At) -> list[Node]:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, with the moving mean and variance."""
    _check_axis(layer, at)
    has = [layer.flag("scale", True), layer.flag("center", True), True, True]
    stored = iter(_shaped(layer, *[(at.width,)] * sum(has)))
    gamma, beta, mean, variance = (
        next(stored).astype(np.float64) if here else default
        for here, default in zip(has, (1.0, 0.0, 0.0, 1.0), strict=True)
    )
    return [_scale(at, mean, gamma / np.sqrt(variance + layer.number("epsilon", 1e-3)), beta)]


def check(layer: Layer) -> None:
    """Refuse what is known not to convert, and whatever is set that we have never heard of.

    Raises UnsupportedError naming the layer and attribute.
    """
    if layer.kind not in LAYERS:
        raise layer.refuse("class", *KERAS_REFUSED.get(layer.kind, UNKNOWN))
    for (attribute, refused), why in KERAS_REFUSED_VALUES.items():
        if layer.config.get(attribute) == refused:
            raise layer.refuse(f"{attribute}={refused}", *why)
    _check_dtype(layer)
    for attribute, value in layer.config.items():
        known = attribute in LAYERS[layer.kind].reads or attribute in _INERT
        training_only = attribute.endswith(("_initializer", "_regularizer", "_constraint"))
        if not known and not training_only and value not in (None, False, 0, [], {}):
            raise layer.refuse(f"{attribute}={value!r}", *UNKNOWN)


def _act(layer: Layer, attribute: str, default: str) -> Act:
    name = layer.text(attribute, default)
    act = gates.keras_act(name, layer.version)
    if act is None:
        why = f"not an activation edge-rnn has ({', '.join(gates.KERAS_ACTS)})"
        raise layer.refuse(f"{attribute}={name}", why, "train with one of those")
    return act


def _shaped(layer: Layer, *shapes: tuple[int, ...]) -> list[F32]:
    """The layer's weights, if they have these shapes. Raises ModelError."""
    found = [w.shape for w in layer.weights]
    if found != list(shapes):
        raise ModelError(f"{layer}: its weights have shapes {found}, expected {list(shapes)}")
    return list(layer.weights)


def _size(layer: Layer, attribute: str) -> int:
    return int(layer.number(attribute, 0))


def _scale(at: At, offset: ArrayLike, scale: ArrayLike, shift: ArrayLike) -> Scale:
    """A Scale node; each part is one number or one a feature, rounded to float32 here only."""
    with np.errstate(over="ignore"):  # validation names an infinite one
        parts = [np.array(a, np.float64).astype(np.float32) for a in (offset, scale, shift)]
    wide = [np.ascontiguousarray(np.broadcast_to(a, (at.width,))) for a in parts]
    return Scale(at.name, at.source, *wide)


def _numbers(layer: Layer, at: At, value: Any, what: str) -> NDArray[np.float64]:
    """One number for all features or one each, as float64 to compute with."""
    try:
        numbers = np.asarray(value, np.float64)
        return np.broadcast_to(numbers.reshape(-1) if numbers.ndim else numbers, (at.width,))
    except (TypeError, ValueError) as e:
        why = "expected one number, or one a feature"
        raise layer.refuse(f"{what}={value!r}", why, "save it with numbers") from e


def _check_axis(layer: Layer, at: At) -> None:
    axis = layer.config.get("axis", -1)
    axes = axis if isinstance(axis, list) else [axis]
    if axes not in ([-1], [1 if at.ended else 2]):
        raise layer.refuse(f"axis={axis}", "only the features' axis, -1, converts", "use axis=-1")


def _check_dtype(layer: Layer) -> None:
    dtype = layer.config.get("dtype")
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    if name not in (None, "float32"):
        why = "its results would differ from float32's"
        raise layer.refuse(f"dtype {name}", why, "save the model with the float32 policy")
