"""The Keras layers that see several steps and are not recurrent: convolution, pooling, padding."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from edge_rnn.graph import F32, Conv1d, Dense, FrameConv, FramePool, Matrix, Pool, Take
from edge_rnn_converters.keras.graph import Layer
from edge_rnn_converters.keras.layers import check_vector, layer, shaped
from edge_rnn_converters.keras.network import MAX_TAPS, Network, Value
from edge_rnn_converters.keras.pointwise import activated, in_node

_CONV = "kernel_size strides padding data_format dilation_rate activation use_bias filters groups "
_LOWEST = -3.4028234663852886e38
"""Stands where a maximum is to see nothing."""


@layer("Conv1D", _CONV, "causal and valid; same: in windows", front=True)
def _conv1d(layer: Layer, net: Network, x: Value) -> Value:
    k, N, groups = layer.count("kernel_size"), layer.count("filters"), layer.count("groups", 1)
    shapes = [(k, x.shape[-1] // max(groups, 1), N), (N,)]
    w, *b = shaped(layer, *shapes[: 1 + layer.flag("use_bias", True)])
    return _convolved(layer, net, x, w, b[0] if b else np.zeros(N, np.float32), groups)


@layer("DepthwiseConv1D", _CONV + "depth_multiplier", "as Conv1D", front=True)
def _depthwise(layer: Layer, net: Network, x: Value) -> Value:
    k, m, C = layer.count("kernel_size"), layer.count("depth_multiplier", 1), x.shape[-1]
    w, *b = shaped(layer, *[(k, C, m), (C * m,)][: 1 + layer.flag("use_bias", True)])
    bias = b[0] if b else np.zeros(C * m, np.float32)
    return _convolved(layer, net, x, w.reshape(k, 1, C * m), bias, C)


@layer("SeparableConv1D", _CONV + "depth_multiplier", "as Conv1D", front=True)
def _separable(layer: Layer, net: Network, x: Value) -> Value:
    """A depthwise convolution, then a dense layer at each step, which has bias and activation."""
    k, m, C = layer.count("kernel_size"), layer.count("depth_multiplier", 1), x.shape[-1]
    N = layer.count("filters")
    w, point, *b = shaped(
        layer, *[(k, C, m), (1, C * m, N), (N,)][: 2 + layer.flag("use_bias", True)]
    )
    first = replace(layer, config={**layer.config, "activation": "linear"})
    deep = np.zeros(C * m, np.float32)
    y = _convolved(first, net, x, w.reshape(k, 1, C * m), deep, C)
    bias = b[0] if b else np.zeros(N, np.float32)
    plain = {**layer.config, "padding": "valid", "strides": 1, "dilation_rate": 1}
    return _convolved(replace(layer, config=plain), net, y, point, bias, 1)


def _convolved(layer: Layer, net: Network, x: Value, w: F32, b: F32, groups: int) -> Value:
    """Convolution with w (taps, features of a group, N) over steps, or the positions of a step."""
    _check_last(layer)
    if layer.kind != "Conv1D" and layer.config.get("groups") not in (None, 1):
        raise layer.refuse("groups", "has no meaning in Keras", "leave it 1")
    k, stride = len(w), layer.count("strides", 1)
    dilation, N = layer.count("dilation_rate", 1), w.shape[2]
    matrix = Matrix(np.ascontiguousarray(w.transpose(2, 0, 1).reshape(N, -1)))
    act = in_node(layer, "activation")
    if x.ended:
        y = _along_positions(layer, net, x, (matrix, b), k, act or "linear", groups)
    elif (k, stride, groups, x.before) == (1, 1, 1, 0):
        check_vector(layer, x)
        y = x.features(net.put(Dense, layer.name, x.name, matrix, b, act or "linear"), N)
    else:
        check_vector(layer, x)
        window = (k - 1) * dilation + 1
        x, padding = _framed(layer, net, x, window, stride, 0.0)
        net.remembering.append((layer, x))
        name = net.put(
            Conv1d, layer.name, x.name, matrix, b, k, stride, dilation, groups, padding,
            act or "linear",
        )  # fmt: skip
        y = x.window(name, N, window, stride)
    return y if act else activated(layer, net, y, layer.config["activation"])


def _framed(
    layer: Layer, net: Network, x: Value, window: int, stride: int, fill: float
) -> tuple[Value, str]:
    """What to run a window over, and how: the rows that Keras pads in front of or around x.

    Rows of zeros in front that just fill the first window are what "causal" sees there.
    """
    padding = layer.text("padding", "valid")
    if padding == "causal":
        x = net.settled(layer, x)
        return replace(x, before=window - 1), "causal"
    if padding == "same":
        x = net.settled(layer, x)
        before, after = _around(layer, net, x, window, stride)
        if before or after:
            x = net.padded(layer, "padding=same", x, before, after, fill)
    elif padding != "valid":
        raise layer.refuse(f"padding={padding}", "is not one of Keras's", "use causal or valid")
    elif x.before and x.before == window - 1 and not fill:
        return x, "causal"
    x = net.settled(layer, x)
    if x.steps is not None and x.steps < window:
        raise layer.refuse(f"{x.steps} steps", f"are less than its window of {window}", "give more")
    return x, "valid"


def _around(layer: Layer, net: Network, x: Value, window: int, stride: int) -> tuple[int, int]:
    """Rows that padding="same" puts in front and behind, as TensorFlow counts them."""
    if stride == 1:
        total = window - 1
    else:
        steps = net.whole(layer, f"padding=same with strides={stride}", x)
        total = max((-(-steps // stride) - 1) * stride + window - steps, 0)
    return total // 2, total - total // 2


def _along_positions(
    layer: Layer, net: Network, x: Value, weights: tuple[Matrix, F32], k: int, act: Any, groups: int
) -> Value:
    """Convolution along the positions of one step, as TimeDistributed(Conv1D) has it."""
    stride, N = layer.count("strides", 1), len(weights[1])
    x = _positions(layer, net, x, k, stride)
    if groups != 1 or layer.count("dilation_rate", 1) != 1:
        why = "within a step only plain convolutions convert"
        raise layer.refuse("groups or dilation_rate", why, "use groups=1 and dilation_rate=1")
    name = net.put(FrameConv, layer.name, x.name, *weights, k, stride, act)
    return replace(x, name=name, shape=((x.shape[0] - k) // stride + 1, N))


def _positions(layer: Layer, net: Network, x: Value, k: int, stride: int) -> Value:
    """The positions of a step with the zeros that the layer's padding puts around them."""
    if len(x.shape) != 2:
        raise layer.refuse(
            "input", "it reads the one last step of the layer before, or a vector without steps",
            "set return_sequences=True there",
        )  # fmt: skip
    L = x.shape[0]
    before, after = 0, 0
    match layer.text("padding", "valid"):
        case "same":
            total = max((-(-L // stride) - 1) * stride + k - L, 0)
            before, after = total // 2, total - total // 2
        case "causal":
            before = k - 1
    return _taken(layer, net, x, before, after) if before or after else x


def _taken(layer: Layer, net: Network, x: Value, before: int, after: int) -> Value:
    """The positions with zeros in front and behind; a negative number cuts."""
    L, C = x.shape
    if not 0 < L + before + after <= MAX_TAPS // C:
        raise layer.refuse("padding", f"makes {L + before + after} positions of {L}", "use less")
    rows = np.arange(-before, L + after)
    places = np.where((rows < 0) | (rows >= L), -1, rows * C)[:, None]
    wide = np.where(places < 0, -1, places + np.arange(C)).reshape(-1).astype(np.float32)
    name = net.put(Take, f"{layer.name}.pad", x.name, wide)
    return replace(x, name=name, shape=(len(rows), C))


_POOL = "pool_size strides padding data_format"


@layer("MaxPooling1D", _POOL, "valid; same: in windows", front=True)
def _max_pooling(layer: Layer, net: Network, x: Value) -> Value:
    return _pooled(layer, net, x, "max")


@layer("AveragePooling1D", _POOL, "valid; in windows: same, where that pads nothing", front=True)
def _average_pooling(layer: Layer, net: Network, x: Value) -> Value:
    return _pooled(layer, net, x, "average")


def _pooled(layer: Layer, net: Network, x: Value, kind: str) -> Value:
    _check_last(layer)
    k = layer.count("pool_size", 2)
    stride = layer.count("strides", k) if layer.config.get("strides") else k
    if x.ended:
        return _pooled_positions(layer, net, x, kind, k, stride)
    check_vector(layer, x)
    if kind == "average" and layer.text("padding", "valid") == "same":
        _check_unpadded(layer, net, x, k, stride)
    fill = _LOWEST if kind == "max" else 0.0
    x, padding = _framed(layer, net, x, k, stride, fill)
    net.remembering.append((layer, x))
    if (
        padding == "causal" and x.width * k <= MAX_TAPS
    ):  # of a pool it leaves out what is not there, and here that is zeros
        w = Matrix(np.full((x.width, k), 1 / k, np.float32))
        b = np.zeros(x.width, np.float32)
        name = net.put(Conv1d, layer.name, x.name, w, b, k, stride, 1, x.width, "causal")
    else:
        x = net.settled(layer, x)
        name = net.put(Pool, layer.name, x.name, kind, k, stride, "valid")
    return x.window(name, x.width, k, stride)


def _check_unpadded(layer: Layer, net: Network, x: Value, k: int, stride: int) -> None:
    if any(_around(layer, net, net.settled(layer, x), k, stride)):
        why = "at a window's borders it is the mean of fewer steps, which no node here does"
        raise layer.refuse("padding=same", why, "use padding='valid'")


def _pooled_positions(
    layer: Layer, net: Network, x: Value, kind: str, k: int, stride: int
) -> Value:
    if layer.text("padding", "valid") != "valid":
        why = "within a step only pooling without padding converts"
        raise layer.refuse("padding", why, "use padding='valid'")
    x = _positions(layer, net, x, k, stride)
    L, C = x.shape
    name = net.put(FramePool, layer.name, x.name, kind, C, k, stride)
    return replace(x, name=name, shape=((L - k) // stride + 1, C))


@layer("GlobalMaxPooling1D", "data_format keepdims", "over a window")
def _global_max(layer: Layer, net: Network, x: Value) -> Value:
    return _global(layer, net, x, "max")


@layer("GlobalAveragePooling1D", "data_format keepdims", "over a window")
def _global_average(layer: Layer, net: Network, x: Value) -> Value:
    return _global(layer, net, x, "average")


def _global(layer: Layer, net: Network, x: Value, kind: str) -> Value:
    _check_last(layer)
    ended = not layer.flag("keepdims")
    if x.ended and len(x.shape) == 2:
        L, C = x.shape
        name = net.put(FramePool, layer.name, x.name, kind, C, L, 1)
        return replace(x, name=name, shape=(C,) if ended else (1, C))
    if x.ended:
        raise layer.refuse("input", "there are no steps to pool", "leave it out")
    check_vector(layer, x)
    n = net.whole(layer, "its input", x)
    net.remembering.append((layer, x))
    y = x.window(net.put(Pool, layer.name, x.name, kind, n, 1, "valid"), x.width, n, 1)
    return replace(y, ended=ended)


@layer("ZeroPadding1D", "padding data_format", "in front of a layer's window; else in windows")
def _zero_padding(layer: Layer, net: Network, x: Value) -> Value:
    _check_last(layer)
    before, after = _pair(layer, "padding")
    if x.ended:
        _positions(layer, net, x, 1, 1)
        return _taken(layer, net, x, before, after)
    check_vector(layer, x)
    if after:
        return net.padded(layer, f"padding={layer.config['padding']}", x, before, after)
    return replace(x, before=before)


@layer("Cropping1D", "cropping data_format", "")
def _cropping(layer: Layer, net: Network, x: Value) -> Value:
    _check_last(layer)
    before, after = _pair(layer, "cropping")
    if x.ended:
        _positions(layer, net, x, 1, 1)
        return _taken(layer, net, x, -before, -after)
    check_vector(layer, x)
    net.remembering.append((layer, x))
    return net.cropped(layer.name, x, before, after)


@layer("Flatten", "data_format", "of a window before Dense; of a step")
def _flatten(layer: Layer, net: Network, x: Value) -> Value:
    _check_last(layer)
    if x.ended:
        return replace(x, shape=(x.width,))
    n = net.whole(layer, "its input", x)
    if n > 1:
        net.remembering.append((layer, x))
    return replace(x, shape=(x.width,), ended=True, flat=n if n > 1 else 0)


@layer("Reshape", "target_shape", "where steps stay steps, or as Flatten")
def _reshape(layer: Layer, net: Network, x: Value) -> Value:
    target = [int(size) for size in layer.config["target_shape"]]
    if x.ended:
        if -1 in target:
            target[target.index(-1)] = x.width // max(-prod(target), 1)
        if prod(target) != x.width or min(target) < 1:
            why = f"makes another number of numbers of {x.width}"
            raise layer.refuse(f"target_shape={target}", why, "keep as many")
        return replace(x, shape=tuple(target))
    if len(target) == 1:
        return _flatten(replace(layer, config={}), net, x)
    row = x.width // max(-prod(target[1:]), 1) if -1 in target[1:] else -1
    shape = tuple(row if size == -1 else size for size in target[1:])
    if prod(shape) != x.width or target[0] not in (-1, x.steps):
        why = f"makes other steps of {x.steps} of {x.shape}"
        raise layer.refuse(f"target_shape={target}", why, "keep the steps")
    return replace(x, shape=shape)


def _pair(layer: Layer, attribute: str) -> tuple[int, int]:
    value = layer.config.get(attribute, [1, 1])
    before, after = value if isinstance(value, list) else (value, value)
    return int(before), int(after)


def _check_last(layer: Layer) -> None:
    if layer.config.get("data_format", "channels_last") not in ("channels_last", None):
        why = "puts the features before the steps"
        raise layer.refuse("data_format=channels_first", why, "use channels_last")
