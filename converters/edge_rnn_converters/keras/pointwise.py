"""The Keras layers that see one step by itself: dense, normalising, activations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_rnn.graph import (
    F32,
    Act,
    Activation,
    Add,
    Conv1d,
    Dense,
    Embedding,
    FrameConv,
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Matrix,
    PRelu,
    RmsNorm,
    Scale,
    Softmax,
)
from edge_rnn_converters import gates
from edge_rnn_converters.keras.graph import Layer
from edge_rnn_converters.keras.layers import apply, check_axis, check_vector, layer, shaped
from edge_rnn_converters.keras.network import Network, Value

EPSILON = 1e-7
"""keras.config.epsilon(), the floor of a Normalization's standard deviation."""

_UNIT_NORM_EPSILON = {2: 1e-6, 3: 1e-12}
"""Keras 2 has l2_normalize's 1e-12 under the root, Keras 3 beside it (`keras.ops.normalize`)."""


@layer(
    "Dropout SpatialDropout1D GaussianDropout GaussianNoise AlphaDropout ActivityRegularization "
    "Identity",
    "rate stddev noise_shape l1 l2 data_format",
    "does nothing at inference; dropped",
    each=True,
    front=True,
)
def _dropped(layer: Layer, net: Network, x: Value) -> Value:
    return x


@layer("Masking", "mask_value", "of the model's input, before recurrent layers", front=True)
def _masking(layer: Layer, net: Network, x: Value) -> Value:
    return net.masked(layer, x, layer.number("mask_value", 0))


@layer("Dense", "units activation use_bias", "after Flatten: over the window", each=True)
def dense(layer: Layer, net: Network, x: Value) -> Value:
    """W x + b of each step, of each position of a step, or of all steps of a window."""
    N, rows = layer.count("units"), max(x.flat, 1)
    inputs = x.shape[-1] if not x.flat else x.width * x.flat
    w, *b = shaped(layer, (inputs, N), *([(N,)] if layer.flag("use_bias", True) else []))
    weights = Matrix(np.ascontiguousarray(w.T)), b[0] if b else np.zeros(N, np.float32)
    act = in_node(layer, "activation")
    if x.flat:
        name = net.put(
            Conv1d, layer.name, x.name, *weights, rows, padding="valid", act=act or "linear"
        )
        y = replace(x.window(name, N, rows, 1), flat=0)
    elif len(x.shape) > 1:
        name = net.put(FrameConv, layer.name, x.name, *weights, 1, act=act or "linear")
        y = x.features(name, N)
    else:
        name = net.put(Dense, layer.name, x.name, *weights, act or "linear")
        y = x.features(name, N)
    return y if act else activated(layer, net, y, layer.config["activation"])


@layer("Embedding", "input_dim output_dim mask_zero", "of a model input of indices")
def _embedding(layer: Layer, net: Network, x: Value) -> Value:
    if x.shape != ():
        raise layer.refuse(
            "input", "it must read a model input of shape (batch, steps)",
            "give it an Input of its own",
        )  # fmt: skip
    (table,) = shaped(layer, (layer.count("input_dim"), layer.count("output_dim")))
    if layer.flag("mask_zero"):
        x = net.masked(layer, x, 0.0)
    name, D = net.put(Embedding, layer.name, x.name, Matrix(table)), table.shape[1]
    return replace(x, name=name, shape=(1, D) if x.ended else (D,))


def in_node(layer: Layer, attribute: str, default: str = "linear") -> Act | None:
    """The activation as a node can have it in itself, None if it takes nodes of its own."""
    spec = layer.config.get(attribute, default)
    return gates.keras_act(default if spec is None else str(spec), layer.version)


def activated(layer: Layer, net: Network, x: Value, spec: Any) -> Value:
    """An activation, by its name or as a layer, as nodes of its own.

    Raises UnsupportedError for what we lack.
    """
    name = f"{layer.name}.activation"
    if isinstance(spec, dict) and spec.get("class_name") in _AS_ACTIVATIONS:
        return apply(replace(layer.part(spec, ()), name=name, inside=False), net, [x])[0]
    act = gates.keras_act(str(spec), layer.version)
    if act is not None:
        return replace(x, name=net.put(Activation, name, x.name, act))
    if spec in ("softmax", "log_softmax"):
        check_vector(layer, x)
        kind = Softmax if spec == "softmax" else LogSoftmax
        return replace(x, name=net.put(kind, f"{layer.name}.{spec}", x.name))
    if spec == "leaky_relu":
        return _leaky(net, name, x, 0.2)
    why = f"not an activation edge-rnn has ({', '.join(gates.KERAS_ACTS)})"
    raise layer.refuse(f"activation={spec}", why, "train with one of those")


_AS_ACTIVATIONS = ("ReLU", "LeakyReLU", "ELU", "Softmax", "Activation")


@layer("Activation", "activation", "", each=True)
def _activation(layer: Layer, net: Network, x: Value) -> Value:
    spec = layer.config.get("activation", "linear")
    act = in_node(layer, "activation")
    if act is not None:
        return replace(x, name=net.put(Activation, layer.name, x.name, act))
    _check_softmax(layer, x, spec)
    return activated(layer, net, x, spec)


@layer("Softmax", "axis", "over the features")
def _softmax(layer: Layer, net: Network, x: Value) -> Value:
    check_axis(layer, x)
    check_vector(layer, x)
    return replace(x, name=net.put(Softmax, layer.name, x.name))


def _check_softmax(layer: Layer, x: Value, spec: Any) -> None:
    if x.flat and "softmax" in str(spec):
        raise layer.refuse(f"activation={spec}", "over a flattened window", "put a Dense between")


@layer("ReLU", "max_value negative_slope threshold", "threshold=0", each=True)
def _relu(layer: Layer, net: Network, x: Value) -> Value:
    """x where it is positive, else negative_slope x; at most max_value."""
    if layer.config.get("threshold"):
        why = "below it the result jumps to another line, which no node here does"
        raise layer.refuse(f"threshold={layer.config['threshold']}", why, "train with threshold=0")
    slope, top = layer.config.get("negative_slope") or 0, layer.config.get("max_value")
    if slope:
        y = _leaky(net, layer.name, x, float(slope))
        return y if top is None else _at_most(net, layer.name, y, float(top))
    if top is None or top == 6:
        act = "relu" if top is None else "relu6"
        return replace(x, name=net.put(Activation, layer.name, x.name, act))
    y = replace(x, name=net.put(Activation, layer.name, x.name, "relu"))
    return _at_most(net, layer.name, y, float(top))


def _at_most(net: Network, name: str, x: Value, top: float) -> Value:
    """min(x, top) = top - relu(top - x)."""
    down = scaled(net, name, x, top, -1, 0)
    cut = replace(down, name=net.put(Activation, name, down.name, "relu"))
    return scaled(net, name, cut, 0, -1, top)


@layer("LeakyReLU", "alpha negative_slope", "", each=True)
def _leaky_relu(layer: Layer, net: Network, x: Value) -> Value:
    slope = layer.number("alpha", 0.3) if "alpha" in layer.config else None
    return _leaky(net, layer.name, x, layer.number("negative_slope", slope or 0.3))


def _leaky(net: Network, name: str, x: Value, slope: float) -> Value:
    return replace(x, name=net.put(PRelu, name, x.name, np.full(x.width, slope, np.float32)))


@layer("PReLU", "shared_axes", "the same at each step")
def _prelu(layer: Layer, net: Network, x: Value) -> Value:
    (alpha,) = layer.weights
    slopes = alpha.reshape(-1, x.shape[-1]) if alpha.size > 1 else alpha
    if not x.ended and len(alpha.shape) > 1 and (slopes != slopes[:1]).any():
        why = "each step of the window has a slope of its own"
        raise layer.refuse("alpha", why, "train it with shared_axes=[1]")
    slope = np.broadcast_to(alpha if x.ended else slopes[0], x.shape)
    return replace(x, name=net.put(PRelu, layer.name, x.name, np.array(slope).reshape(-1)))


@layer("ELU", "alpha", "", each=True)
def _elu(layer: Layer, net: Network, x: Value) -> Value:
    """x > 0: x, else alpha (e^x - 1); that is alpha elu(x) + (1 - alpha) relu(x)."""
    alpha, name = layer.number("alpha", 1), layer.name
    elu = replace(x, name=net.put(Activation, name, x.name, "elu"))
    if alpha == 1:
        return elu
    relu = replace(x, name=net.put(Activation, name, x.name, "relu"))
    parts = [scaled(net, name, elu, 0, alpha, 0), scaled(net, name, relu, 0, 1 - alpha, 0)]
    return replace(x, name=net.put(Add, name, parts[0].name, (parts[1].name,)))


@layer("Normalization", "axis invert mean variance", "adapted, or with given mean and variance")
def _normalization(layer: Layer, net: Network, x: Value) -> Value:
    """(x - mean) / max(sqrt(variance), epsilon), or x max(sqrt(variance), epsilon) + mean."""
    if layer.config.get("axis") not in (None, []):
        check_axis(layer, x)
    given = [layer.config.get("mean"), layer.config.get("variance")]
    stored = layer.weights[:2] if given[0] is None else given
    mean, variance = (
        _numbers(layer, x, value, what)
        for value, what in zip(stored, ("mean", "variance"), strict=True)
    )
    deviation = np.maximum(np.sqrt(variance), EPSILON)
    if layer.flag("invert"):
        return scaled(net, layer.name, x, 0, deviation, mean)
    return scaled(net, layer.name, x, mean, 1 / deviation, 0)


@layer("Rescaling", "scale offset", "")
def _rescaling(layer: Layer, net: Network, x: Value) -> Value:
    scale = _numbers(layer, x, layer.config.get("scale"), "scale")
    offset = _numbers(layer, x, layer.config.get("offset", 0), "offset")
    return scaled(net, layer.name, x, 0, scale, offset)


@layer("BatchNormalization", "axis momentum epsilon center scale renorm", "its moving averages")
def _batch_normalization(layer: Layer, net: Network, x: Value) -> Value:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, with the moving mean and variance."""
    check_axis(layer, x)
    has = [layer.flag("scale", True), layer.flag("center", True), True, True]
    stored = iter(shaped(layer, *[(x.shape[-1],)] * sum(has)))
    gamma, beta, mean, variance = (
        next(stored).astype(np.float64) if here else default
        for here, default in zip(has, (1.0, 0.0, 0.0, 1.0), strict=True)
    )
    scale = gamma / np.sqrt(variance + layer.number("epsilon", 1e-3))
    return scaled(net, layer.name, x, mean, scale, beta)


@layer("LayerNormalization", "axis epsilon center scale", "over the features")
def _layer_normalization(layer: Layer, net: Network, x: Value) -> Value:
    check_axis(layer, x)
    check_vector(layer, x)
    gain, bias = np.ones(x.width, np.float32), np.zeros(x.width, np.float32)
    has = [layer.flag("scale", True), layer.flag("center", True)]
    stored = iter(shaped(layer, *[(x.width,)] * sum(has)))
    gain, bias = (next(stored) if here else a for here, a in zip(has, (gain, bias), strict=True))
    epsilon = layer.number("epsilon", 1e-3)
    return replace(x, name=net.put(LayerNorm, layer.name, x.name, gain, bias, epsilon))


@layer("RMSNormalization", "axis epsilon", "over the features")
def _rms_normalization(layer: Layer, net: Network, x: Value) -> Value:
    check_axis(layer, x)
    check_vector(layer, x)
    (gain,) = shaped(layer, (x.width,))
    epsilon = layer.number("epsilon", 1e-6)
    return replace(x, name=net.put(RmsNorm, layer.name, x.name, gain, epsilon))


@layer("UnitNormalization", "axis", "over the features")
def _unit_normalization(layer: Layer, net: Network, x: Value) -> Value:
    check_axis(layer, x)
    check_vector(layer, x)
    epsilon = _UNIT_NORM_EPSILON[layer.version]
    return replace(x, name=net.put(L2Norm, layer.name, x.name, epsilon))


def scaled(
    net: Network, name: str, x: Value, offset: ArrayLike, scale: ArrayLike, shift: ArrayLike
) -> Value:
    """(x - offset) scale + shift, each part one number or one a feature; float32 from here on."""
    with np.errstate(over="ignore"):  # validation names an infinite one
        parts = [np.array(a, np.float64).astype(np.float32) for a in (offset, scale, shift)]
    wide: list[F32] = [np.array(np.broadcast_to(a, x.shape)).reshape(-1) for a in parts]
    return replace(x, name=net.put(Scale, name, x.name, *wide))


def _numbers(layer: Layer, x: Value, value: Any, what: str) -> NDArray[np.float64]:
    """One number for all features or one each, as float64 to compute with."""
    try:
        numbers = np.asarray(value, np.float64)
        flat = numbers.reshape(-1) if numbers.ndim else numbers
        return np.broadcast_to(flat, (x.shape[-1],))
    except (TypeError, ValueError) as e:
        why = "expected one number, or one a feature"
        raise layer.refuse(f"{what}={value!r}", why, "save it with numbers") from e
