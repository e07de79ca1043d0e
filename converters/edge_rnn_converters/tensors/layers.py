"""Operators that compute with the stream: dense layers, softmax, embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import (
    F32,
    Conv1d,
    Dense,
    Embedding,
    FrameConv,
    LogSoftmax,
    Matrix,
    Node,
    Scale,
    Softmax,
)
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, weights
from edge_rnn_converters.tensors.values import Dim, Opaque, Role, State, Stream, Value
from edge_rnn_converters.tensors.vectors import arranged, few_enough

operator = Operators()

CHAIN = "export a model of layers that convert"


@operator("MatMul", "by a constant")
def _matmul(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if not isinstance(args[0], Stream | State):
        if any(isinstance(a, Stream | State) for a in args):
            raise op.refuse("first input", "is a constant", "export x @ W, not W @ x")
        return [Opaque(op.outputs[0])]
    return [dense(trace, op, args[0], weights(op, args[1], "second input"), None)]


@operator("com.microsoft.FusedMatMul", "by a constant, transA=0")
def _fused_matmul(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    for attribute in ("transA", "transBatchA", "transBatchB"):
        if op.integer(attribute, 0):
            raise op.refuse(f"{attribute}=1", "it mixes the steps", f"export with {attribute}=0")
    w = weights(op, args[1], "second input")
    return [dense(trace, op, args[0], _scaled(op, w.T if op.integer("transB", 0) else w), None)]


@operator("Gemm", "by a constant, transA=0")
def _gemm(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if op.integer("transA", 0):
        raise op.refuse("transA=1", "it mixes the steps", "export with transA=0")
    w = weights(op, args[1], "B")
    w = w.T if op.integer("transB", 0) else w
    bias = weights(op, args[2], "C") if len(args) > 2 and args[2] is not None else None
    if bias is not None and bias.size not in (1, w.shape[-1]):
        raise op.refuse(f"C of shape {bias.shape}", "expected one bias an output", CHAIN)
    beta = op.number("beta", 1)
    scaled = None if bias is None else (beta * bias.astype(np.float64)).astype(np.float32)
    return [dense(trace, op, args[0], _scaled(op, w), scaled)]


def _scaled(op: Op, w: F32) -> F32:
    return (op.number("alpha", 1) * w.astype(np.float64)).astype(np.float32)


def dense(trace: Trace, op: Op, value: Value | None, w: F32, bias: F32 | None) -> Stream:
    """x w + bias over the last dimension, w (I, N); at each position, if a step has several."""
    x = as_stream(trace, op, value, "first input")
    while w.ndim > 2 and w.shape[0] == 1:
        w = w[0]
    if w.ndim != 2:
        raise op.refuse(f"weights of shape {w.shape}", "expected two dimensions", CHAIN)
    b = np.zeros(w.shape[1], np.float32)
    if bias is not None:
        b += bias.reshape(-1)
    if len(x.dims[-1]) > 1 and trace.axes.has(x.dims[-1], Role.TIME):
        return _whole_window(trace, op, x, w, b)
    trace.features(x, len(x.dims) - 1, size=w.shape[0])
    x = arranged(trace, op, x)
    matrix, n = Matrix(np.ascontiguousarray(w.T)), trace.width(x) // w.shape[0]
    if n == 1:
        name = trace.emit(op, x.value, lambda name: Dense(name, x.value, matrix, b), len(b))
    else:
        name = trace.emit(
            op, x.value, lambda name: FrameConv(name, x.value, matrix, b, kernel=1), n * len(b)
        )
    made = trace.axis(f"{name} features", len(b))
    outer = sum((trace.axes.features(d) for d in x.dims[:-1]), ())
    return Stream(name, (*x.dims[:-1], made), outer + made, x.last)


def _whole_window(trace: Trace, op: Op, x: Stream, w: F32, b: F32) -> Stream:
    """A dense layer on all steps of a window of n at once: a convolution as long as the window."""
    dim = x.dims[-1]
    n = next(trace.axes.size(a) for a in dim if trace.axes.role(a) is Role.TIME)
    rest = tuple(a for a in dim if trace.axes.role(a) is not Role.TIME)
    trace.axes.bind(rest, Role.FEATURE)
    order, N = trace.order(x), w.shape[1]
    sizes = [trace.axes.size(a) for a in dim]
    if set(order) != set(rest) or int(np.prod(sizes)) != w.shape[0]:
        raise op.refuse(f"weights of shape {w.shape}", f"expected {sizes} inputs", CHAIN)
    at = {a: k for k, a in enumerate(dim)}
    time = next(k for k, a in enumerate(dim) if a not in order)
    turned = w.reshape(*sizes, N).transpose(len(dim), time, *(at[a] for a in order))
    matrix = Matrix(np.ascontiguousarray(turned.reshape(N, -1)))
    name = trace.emit(
        op,
        x.value,
        lambda name: Conv1d(name, x.value, matrix, b, kernel=n, stride=n, padding="valid"),
        N,
    )
    made = trace.axis(f"{name} features", N)
    return Stream(name, (*x.dims[:-1], made), made, last=True)


@operator("BatchNormalization", "its moving averages")
def _batch_normalization(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    """scale (x - mean) / sqrt(var + epsilon) + B; the features are dimension 1."""
    x = as_stream(trace, op, args[0], "X")
    if op.integer("training_mode", 0):
        raise op.refuse("training_mode=1", "is on", "export the model for inference")
    gamma, beta, mean, var = (
        weights(op, a, n).astype(np.float64)
        for a, n in zip(args[1:5], ("scale", "B", "mean", "var"), strict=True)
    )
    if len(x.dims) < 2:
        raise op.refuse("X", "its dimension 1 is not the features", CHAIN)
    trace.features(x, 1, size=len(gamma))
    scale = gamma / np.sqrt(var + op.number("epsilon", 1e-5))
    parts = [along(trace, op, x, a.reshape(-1, *[1] * (len(x.dims) - 2)))
             for a in (mean, scale, beta)]  # fmt: skip
    return [same(trace, op, x, lambda name: Scale(name, x.value, *parts))]


def same(trace: Trace, op: Op, x: Stream, make: Callable[[str], Node]) -> Stream:
    """The stream after a node that keeps every feature where it is."""
    order = trace.order(x)
    name = trace.emit(op, x.value, make, trace.width(x))
    return replace(x, value=name, order=order)


def along(trace: Trace, op: Op, x: Stream, c: NDArray[Any]) -> F32:
    """A constant that is broadcast against the stream, as one number a feature."""
    rank = len(x.dims)
    if c.ndim > rank:
        raise op.refuse(f"constant of shape {c.shape}", "has more axes than the stream", CHAIN)
    c = c.reshape((1,) * (rank - c.ndim) + c.shape)
    wide = [i for i, n in enumerate(c.shape) if n != 1]
    for i in wide:
        if not x.dims[i]:
            raise op.refuse(f"constant of shape {c.shape}", "repeats the stream", CHAIN)
        trace.features(x, i, size=c.shape[i])
    order = trace.order(x)
    atoms = [a for d in x.dims for a in trace.axes.features(d)]
    full = [trace.axes.length(trace.axes.features(d)) for d in x.dims]
    few_enough(math.prod(full))
    spread = np.broadcast_to(c, full).reshape([trace.axes.size(a) for a in atoms])
    turned = spread.transpose([atoms.index(a) for a in order])
    with np.errstate(over="ignore"):  # validation names an infinite one
        return np.ascontiguousarray(turned.reshape(-1).astype(np.float32))


@operator("Softmax LogSoftmax", "over the features")
def _softmax(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    x = as_stream(trace, op, args[0], "input")
    at = op.integer("axis", trace.softmax_axis) % len(x.dims)
    later = trace.softmax_axis == 1 and any(x.dims[at + 1 :])
    if later:
        why = "before operator set 13 it also covers every later axis"
        raise op.refuse(f"axis={at}", why, "export with operator set 13 or later")
    width = trace.features(x, at)
    if width != trace.width(x):
        raise op.refuse(f"axis={at}", "a step has several vectors there", CHAIN)
    node = Softmax if op.kind == "Softmax" else LogSoftmax
    return [same(trace, op, x, lambda name: node(name, x.value))]


def embedding(trace: Trace, op: Op, data: Value | None, x: Stream, at: int) -> Stream:
    """Rows of a table by an input of one integer a step."""
    table = weights(op, data, "data")
    if at or table.ndim != 2 or x.value not in trace.inputs:
        why = "an embedding takes rows of a table by the model's input itself"
        raise op.refuse(f"axis={at}, data of shape {table.shape}", why, CHAIN)
    trace.widths[x.value] = 1
    trace.indices.add(x.value)
    rows = Matrix(np.ascontiguousarray(table))
    name = trace.emit(op, x.value, lambda name: Embedding(name, x.value, rows), table.shape[1])
    made: Dim = trace.axis(f"{name} features", table.shape[1])
    return Stream(name, (*x.dims, made), made)
