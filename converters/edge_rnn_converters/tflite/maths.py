"""TFLite operators that compute: sums, products, activations, reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn_converters.tflite.file import Operator
from edge_rnn_converters.tflite.translate import Translation, operator

_SAME = {
    "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "MAXIMUM": "Max",
    "LOGISTIC": "Sigmoid", "TANH": "Tanh", "RELU": "Relu", "ELU": "Elu", "HARD_SWISH": "HardSwish",
    "ABS": "Abs", "NEG": "Neg", "EXP": "Exp", "LOG": "Log", "SQRT": "Sqrt", "POW": "Pow",
    "PRELU": "PRelu", "BROADCAST_TO": "Expand", "TILE": "Tile", "SHAPE": "Shape",
    "DEQUANTIZE": "Identity", "QUANTIZE": "Identity", "LESS": "Less", "LESS_EQUAL": "LessOrEqual",
    "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "EQUAL": "Equal",
    "LOGICAL_AND": "And", "LOGICAL_OR": "Or", "LOGICAL_NOT": "Not", "FILL": "Expand",
}  # fmt: skip
_DOC = "as in ONNX"


@operator(" ".join(_SAME), _DOC)
def _same(t: Translation, o: Operator) -> None:
    inputs = o.inputs[::-1] if o.kind == "FILL" else o.inputs
    t.result(o, _SAME[o.kind], *(t.name(i) for i in inputs))


@operator("RELU6 RELU_N1_TO_1 RELU_0_TO_1", _DOC)
def _clip(t: Translation, o: Operator) -> None:
    low, high = {"RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1), "RELU_0_TO_1": (0, 1)}[o.kind]
    bounds = [t.constant(b, np.float32) for b in (low, high)]
    t.result(o, "Clip", t.name(o.inputs[0]), *bounds)


@operator("LEAKY_RELU", _DOC)
def _leaky(t: Translation, o: Operator) -> None:
    t.result(o, "LeakyRelu", t.name(o.inputs[0]), alpha=float(o.options["alpha"]))


@operator("GELU", "exact and by tanh")
def _gelu(t: Translation, o: Operator) -> None:
    text = "tanh" if o.options.get("approximate") else "none"
    t.result(o, "Gelu", t.name(o.inputs[0]), approximate=text)


@operator("RSQRT", "as one over a root")
def _rsqrt(t: Translation, o: Operator) -> None:
    """1 / sqrt(max(s, e)), as TensorFlow normalises vectors, is 1 / max(sqrt(s), sqrt(e))."""
    made = _floored(t, o.inputs[0])
    if made is None:
        t.result(o, "Reciprocal", t.op(o, "Sqrt", t.name(o.inputs[0])))
    else:
        s, e = made
        _inverse_root(t, o, t.op(o, "Sqrt", s), np.sqrt(e))


@operator("MINIMUM", _DOC)
def _minimum(t: Translation, o: Operator) -> None:
    """min(1 / v, c), as Keras normalises vectors, is 1 / max(v, 1 / c)."""
    a, b = (t.name(i) for i in o.inputs)
    inverse = next((op for op in t.operators if op.outputs[0] == a), None)
    c = t.constants.get(b)
    if inverse is not None and inverse.kind == "Reciprocal" and c is not None and np.all(c > 0):
        _inverse_root(t, o, inverse.inputs[0], 1 / c.astype(np.float64))
    else:
        t.result(o, "Min", a, b)


def _inverse_root(t: Translation, o: Operator, root: str, least: Any) -> None:
    t.result(o, "Reciprocal", t.op(o, "Max", root, t.constant(least, np.float32)))


def _floored(t: Translation, number: int) -> tuple[str, NDArray[Any]] | None:
    """(s, e) where the tensor is max(s, e) of a constant e."""
    maker = next((op for op in t.operators if op.outputs[0] == t.name(number)), None)
    if maker is None or maker.kind != "Max":
        return None
    s, e = (t.constants.get(name) for name in maker.inputs)
    return (maker.inputs[0], e) if s is None and e is not None and np.all(e >= 0) else None


@operator("SQUARE SQUARED_DIFFERENCE", "as products and differences")
def _square(t: Translation, o: Operator) -> None:
    a = t.name(o.inputs[0])
    if o.kind == "SQUARED_DIFFERENCE":
        a = t.op(o, "Sub", a, t.name(o.inputs[1]))
    t.result(o, "Mul", a, a)


@operator("SOFTMAX LOG_SOFTMAX", "over the last axis")
def _softmax(t: Translation, o: Operator) -> None:
    x, beta = t.name(o.inputs[0]), float(o.options.get("beta", 1))
    if beta != 1:
        x = t.op(o, "Mul", x, t.constant(beta, np.float32))
    t.result(o, "Softmax" if o.kind == "SOFTMAX" else "LogSoftmax", x, axis=-1)


@operator("L2_NORMALIZATION", "over the last axis")
def _l2(t: Translation, o: Operator) -> None:
    t.result(o, "LpNormalization", t.name(o.inputs[0]), axis=-1, p=2)


@operator("FULLY_CONNECTED", "by a constant; quantized weights are read as the numbers they mean")
def _fully_connected(t: Translation, o: Operator) -> None:
    """x w^T + b, w (N, I); without keepNumDims all axes of x but the last are made one."""
    if o.options.get("weightsFormat", 0):
        raise t.refuse(o, "weightsFormat", "is shuffled", "convert it with the default format")
    x, w = t.name(o.inputs[0]), t.known(o, 1, "weights")
    if w.ndim != 2:
        raise t.refuse(o, f"weights of shape {w.shape}", "expected two axes", "convert it again")
    if not o.options.get("keepNumDims") and _rank(t, o) != 2:
        x = t.op(o, "Reshape", x, t.constant([-1, w.shape[1]]))
    matrix = t.constant(np.ascontiguousarray(w.T), np.float32)
    if len(o.inputs) < 3 or o.inputs[2] < 0:
        t.result(o, "MatMul", x, matrix)
    else:
        t.result(o, "Add", t.op(o, "MatMul", x, matrix), t.name(o.inputs[2]))


def _rank(t: Translation, o: Operator) -> int:
    return len(t.tensor(o.inputs[0]).shape)


@operator("BATCH_MATMUL", "by a constant")
def _batch_matmul(t: Translation, o: Operator) -> None:
    both = []
    for number, flag in zip(o.inputs, ("adjX", "adjY"), strict=True):
        rank = len(t.tensor(number).shape)
        perm = [*range(rank - 2), rank - 1, rank - 2]
        name = t.name(number)
        if o.options.get(flag) and name in t.constants:
            name = t.constant(np.swapaxes(t.constants[name], -1, -2), np.float32)
        elif o.options.get(flag):
            name = t.op(o, "Transpose", name, perm=perm)
        both.append(name)
    t.result(o, "MatMul", *both)


_REDUCE = {"MEAN": "ReduceMean", "SUM": "ReduceSum", "REDUCE_MAX": "ReduceMax"}


@operator(" ".join(_REDUCE), "as ONNX's reductions")
def _reduce(t: Translation, o: Operator) -> None:
    axes = t.known(o, 1, "axes").reshape(-1)
    keep = int(bool(o.options.get("keepDims")))
    t.result(o, _REDUCE[o.kind], t.name(o.inputs[0]), t.constant(axes), keepdims=keep)
