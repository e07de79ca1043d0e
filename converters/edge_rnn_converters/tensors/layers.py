"""Operators that compute with the stream: dense layers, scales, activations, embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_rnn.graph import F32, Act, Activation, Dense, Embedding, Matrix, Scale, Softmax
from edge_rnn_converters import gates
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.moves import pick
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, constant, weights
from edge_rnn_converters.tensors.values import (
    Filled,
    Known,
    Opaque,
    State,
    Stream,
    Value,
    with_dims,
)

operator = Operators()

_CHAIN = "export a model whose layers form one chain"


@operator("MatMul", "by a constant")
def _matmul(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if not isinstance(args[0], Stream | State):
        if any(isinstance(a, Stream | State) for a in args):
            raise op.refuse("first input", "is a constant", "export x @ W, not W @ x")
        return [Opaque(op.outputs[0])]
    return [_dense(trace, op, args[0], weights(op, args[1], "second input"), None)]


@operator("Gemm", "by a constant, transA=0")
def _gemm(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if op.integer("transA", 0):
        raise op.refuse("transA=1", "it mixes the steps", "export with transA=0")
    w = weights(op, args[1], "B")
    w = w.T if op.integer("transB", 0) else w
    bias = weights(op, args[2], "C") if len(args) > 2 and args[2] is not None else None
    if bias is not None and bias.size not in (1, w.shape[-1]):
        raise op.refuse(f"C of shape {bias.shape}", "expected one bias an output", _CHAIN)
    alpha, beta = op.number("alpha", 1), op.number("beta", 1)
    scaled = None if bias is None else (beta * bias.astype(np.float64)).astype(np.float32)
    w = (alpha * w.astype(np.float64)).astype(np.float32)
    return [_dense(trace, op, args[0], w, scaled)]


def _dense(trace: Trace, op: Op, value: Value | None, w: F32, bias: F32 | None) -> Stream:
    """x w + bias, w (I, N)."""
    x = as_stream(op, value, "first input")
    if w.ndim != 2:
        raise op.refuse(f"weights of shape {w.shape}", "expected two dimensions", _CHAIN)
    last = len(x.dims) - 1
    trace.features(x, last, w.shape[0])
    b = np.zeros(w.shape[1], np.float32)
    if bias is not None:
        b += bias.reshape(-1)
    matrix = Matrix(np.ascontiguousarray(w.T))
    name = trace.emit(op, x, lambda name: Dense(name, x.value, matrix, b), w.shape[1])
    return Stream(name, (*x.dims[:last], trace.feature_axis(name)), x.last)


@operator("Add Sub Mul Div", "by a constant")
def _arithmetic(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    a, b = (v.stream if isinstance(v, State) and v.stream else v for v in args)
    if isinstance(a, Known) and isinstance(b, Known):
        return [_folded(op, a.array, b.array)]
    if not isinstance(a, Stream | State) and not isinstance(b, Stream | State):
        return [Opaque(op.outputs[0])]
    if isinstance(b, Stream) and isinstance(a, Known):
        return [_scaled(trace, op, b, weights(op, a, "first input"), reverse=True)]
    if isinstance(a, Stream) and isinstance(b, Known):
        return [_scaled(trace, op, a, weights(op, b, "second input"), reverse=False)]
    why = "it combines the stream with a value that is not a constant in the file"
    raise op.refuse("inputs", why, _CHAIN)


_UFUNCS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}


def _folded(op: Op, a: NDArray[Any], b: NDArray[Any]) -> Value:
    if object in (a.dtype, b.dtype) or max(a.size, b.size) > 1 << 24:
        return Opaque(op.outputs[0])
    if op.kind != "Div":
        return Known(_UFUNCS[op.kind](a, b))
    return Known(np.divide(a, b) if a.dtype.kind == "f" else a // b)


def _scaled(trace: Trace, op: Op, x: Stream, c: F32, reverse: bool) -> Stream:
    c64 = c.astype(np.float64)
    match op.kind, reverse:
        case "Add", _:
            return _scale(trace, op, x, 0, 1, c64)
        case "Sub", False:
            return _scale(trace, op, x, c64, 1, 0)
        case "Sub", True:
            return _scale(trace, op, x, 0, -1, c64)
        case "Mul", _:
            return _scale(trace, op, x, 0, c64, 0)
        case "Div", False if np.all(c64):
            return _scale(trace, op, x, 0, 1 / c64, 0)
    raise op.refuse("inputs", "it divides by the stream or by zero", _CHAIN)


def _scale(
    trace: Trace, op: Op, x: Stream, offset: ArrayLike, scale: ArrayLike, shift: ArrayLike
) -> Stream:
    """A Scale node whose constants are numbers, or arrays along the features' axis alone."""
    parts = [_along_features(trace, op, x, np.asarray(a)) for a in (offset, scale, shift)]
    name = trace.emit(
        op, x, lambda name: Scale(name, x.value, parts[0], parts[1], parts[2]), len(parts[0])
    )
    return Stream(name, x.dims, x.last)


def _along_features(trace: Trace, op: Op, x: Stream, c: NDArray[Any]) -> F32:
    rank = len(x.dims)
    wide = [i + rank - c.ndim for i, n in enumerate(c.shape) if n != 1]
    if len(wide) > 1 or c.ndim > rank:
        raise op.refuse(f"constant of shape {c.shape}", "expected one number a feature", _CHAIN)
    width = trace.features(x, wide[0], c.size) if wide else trace.width(x)
    with np.errstate(over="ignore"):  # validation names an infinite one
        return np.ascontiguousarray(np.broadcast_to(c.reshape(-1), (width,)).astype(np.float32))


@operator("BatchNormalization", "its moving averages")
def _batch_normalization(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    """scale (x - mean) / sqrt(var + epsilon) + B; the features are dimension 1."""
    x = as_stream(op, args[0], "X")
    if op.integer("training_mode", 0):
        raise op.refuse("training_mode=1", "is on", "export the model for inference")
    gamma, beta, mean, var = (
        weights(op, a, n).astype(np.float64)
        for a, n in zip(args[1:5], ("scale", "B", "mean", "var"), strict=True)
    )
    if len(x.dims) < 2 or trace.features(x, 1, len(gamma)) != len(gamma):
        raise op.refuse("X", "its dimension 1 is not the features", _CHAIN)
    scale = gamma / np.sqrt(var + op.number("epsilon", 1e-5))
    arrays = [a.astype(np.float32) for a in (mean, scale, beta)]
    name = trace.emit(op, x, lambda name: Scale(name, x.value, *arrays), len(gamma))
    return [Stream(name, x.dims, x.last)]


@operator("Relu Tanh Sigmoid Softsign HardSigmoid", "")
def _activation(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    alpha, beta = op.number("alpha", 0.2), op.number("beta", 0.5)
    act = gates.onnx_act(op.kind, alpha, beta)
    if act is None:
        why = "only alpha 0.2 (Keras 2) or 1/6 (PyTorch, Keras 3) with beta 0.5 convert"
        raise op.refuse(f"alpha={alpha:g}, beta={beta:g}", why, "train with one of those")
    return [_activated(trace, op, args[0], act)]


def _activated(trace: Trace, op: Op, value: Value | None, act: Act) -> Stream:
    x = as_stream(op, value, "input")
    width = trace.width(x)
    name = trace.emit(op, x, lambda name: Activation(name, x.value, act), width)
    return Stream(name, x.dims, x.last)


@operator("Clip", "from 0 to 6, or from 0")
def _clip(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    low, high = (_bound(op, args, i, n) for i, n in ((1, "min"), (2, "max")))
    act: Act | None = {(0.0, 6.0): "relu6", (0.0, None): "relu"}.get((low, high))  # type: ignore[arg-type, assignment]
    if act is None:
        why = "only 0 to 6, and 0 without an upper end, convert"
        raise op.refuse(f"min={low}, max={high}", why, "train with ReLU or ReLU6")
    return [_activated(trace, op, args[0], act)]


def _bound(op: Op, args: list[Value | None], index: int, name: str) -> float | None:
    """An end of a Clip: attribute or input; float32's largest number is none."""
    value = op.attributes.get(name)
    if index < len(args) and args[index] is not None:
        value = float(constant(op, args[index], name).reshape(()))
    return None if value is None or abs(value) >= np.finfo(np.float32).max else float(value)


@operator("Softmax", "over the features")
def _softmax(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    x = as_stream(op, args[0], "input")
    at = op.integer("axis", trace.softmax_axis) % len(x.dims)
    if trace.softmax_axis == 1 and at != len(x.dims) - 1:
        why = "before operator set 13 it also covers every later axis"
        raise op.refuse(f"axis={at}", why, "export with operator set 13 or later")
    width = trace.features(x, at)
    name = trace.emit(op, x, lambda name: Softmax(name, x.value), width)
    return [Stream(name, x.dims, x.last)]


@operator("Gather", "a table by the input (an embedding); of states; the stream's last step")
def _gather(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    data, index, at = args[0], args[1], op.integer("axis", 0)
    if isinstance(index, Stream):
        return [_embedding(trace, op, data, index, at)]
    if isinstance(index, Known) and index.array.dtype.kind == "i" and data is not None:
        return [pick(trace, op, data, index.array, at)]
    if isinstance(data, Stream | State):
        raise op.refuse("indices", "are not constants", "export a fixed index")
    return [data if isinstance(data, Filled) else Opaque(op.outputs[0])]


def _embedding(trace: Trace, op: Op, data: Value | None, x: Stream, at: int) -> Stream:
    table = weights(op, data, "data")
    if at or table.ndim != 2 or x.value not in trace.inputs:
        why = "an embedding takes rows of a table by the model's input itself"
        raise op.refuse(f"axis={at}, data of shape {table.shape}", why, _CHAIN)
    trace.widths[x.value] = 1
    trace.indices.add(x.value)
    rows = Matrix(np.ascontiguousarray(table))
    name = trace.emit(op, x, lambda name: Embedding(name, x.value, rows), table.shape[1])
    return with_dims(Stream(name, x.dims), (*x.dims, trace.feature_axis(name)))
