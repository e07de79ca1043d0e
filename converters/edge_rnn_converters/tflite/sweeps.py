"""TFLite operators that sweep along an axis: padding, convolution, pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_rnn_converters.tflite.file import Operator
from edge_rnn_converters.tflite.translate import Translation, operator


@operator("PAD PADV2 MIRROR_PAD", "before convolutions and pooling")
def _pad(t: Translation, o: Operator) -> None:
    pads = t.constant(t.known(o, 1, "paddings").T.reshape(-1))
    more = [t.name(o.inputs[2])] if o.kind == "PADV2" else []
    mirror = o.kind == "MIRROR_PAD"
    if mirror and o.options["mode"]:
        raise t.refuse(o, "mode", "is symmetric, which repeats the edge", "train with reflect")
    mode = "reflect" if mirror else "constant"
    t.result(o, "Pad", t.name(o.inputs[0]), pads, *more, mode=mode)


@operator("CONV_2D DEPTHWISE_CONV_2D", "along one axis, as Keras' Conv1D becomes it")
def _convolution(t: Translation, o: Operator) -> None:
    """Over (batch, height, width, channels) of which one is of length one."""
    flat = _flat(t, o)
    w = np.squeeze(t.known(o, 1, "weights"), 1 + flat)  # (N, K, C), or of depthwise (1, K, N)
    channels = t.tensor(o.inputs[0]).shape[3]
    w = w.transpose(0, 2, 1) if o.kind == "CONV_2D" else w.transpose(2, 0, 1)
    groups = (channels or w.shape[1]) // w.shape[1]
    bias = [t.name(o.inputs[2])] if len(o.inputs) > 2 and o.inputs[2] >= 0 else []
    inputs = [t.constant(np.ascontiguousarray(w), np.float32), *bias]
    _along(t, o, "Conv", flat, inputs, kernel=w.shape[2], group=groups)


@operator("AVERAGE_POOL_2D MAX_POOL_2D", "along one axis, as Keras' pooling becomes it")
def _pool(t: Translation, o: Operator) -> None:
    flat = _flat(t, o)
    kind = "AveragePool" if o.kind == "AVERAGE_POOL_2D" else "MaxPool"
    kernel = int((o.options["filterHeight"], o.options["filterWidth"])[1 - flat])
    _, *sizes, channels = t.tensor(o.inputs[0]).shape
    if kernel > (sizes[1 - flat] or kernel):
        raise t.refuse(o, "filter", "is longer than the input", "use a shorter one")
    if kind == "AveragePool" and o.options["padding"] == 1 and channels and _padded(t, o):
        # The mean of what was put in front too: a stream can do that as a convolution.
        w = t.constant(np.full((channels, 1, kernel), 1 / kernel), np.float32)
        _along(t, o, "Conv", flat, [w], kernel=kernel, group=channels)
    else:
        _along(t, o, kind, flat, [], kernel=kernel)


def _padded(t: Translation, o: Operator) -> bool:
    """Does the operator read what a PAD made?"""
    maker = {op.outputs[0]: op for op in t.operators}
    name = t.name(o.inputs[0])
    while name in maker and maker[name].kind == "Reshape":
        name = maker[name].inputs[0]
    return name in maker and maker[name].kind == "Pad"


def _flat(t: Translation, o: Operator) -> int:
    """Which of height (0) and width (1) is of length one. Raises UnsupportedError if none is."""
    shape = t.tensor(o.inputs[0]).shape
    for which in (0, 1):
        if len(shape) == 4 and shape[1 + which] == 1:
            return which
    raise t.refuse(o, "input", "is an image: both its axes are longer than one", "use Conv1D")


def _along(
    t: Translation, o: Operator, kind: str, flat: int, inputs: list[str], kernel: int, **more: Any
) -> None:
    """A convolution or pooling over the axis that is not flat: (1, n, C) <-> ONNX's (1, C, n)."""
    side = "WH"[flat]
    if "dilationWFactor" in o.options:
        more["dilations"] = [int(o.options[f"dilation{side}Factor"])]
    same = o.options["padding"] == 0
    x = t.op(o, "Squeeze", t.name(o.inputs[0]), t.constant([1 + flat]))
    x = t.op(o, "Transpose", x, perm=[0, 2, 1])
    y = t.op(
        o, kind, x, *inputs, kernel_shape=[kernel], strides=[int(o.options[f"stride{side}"])],
        auto_pad="SAME_UPPER" if same else "VALID", **more,
    )  # fmt: skip
    y = t.op(o, "Transpose", y, perm=[0, 2, 1])
    t.result(o, "Unsqueeze", y, t.constant([1 + flat]))
