"""What every node computes: whole sequences in float64 NumPy, written to be read.

Nothing here is fast. The kernels and the converters are tested against it.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_rnn.graph import (
    Activation,
    Add,
    Concat,
    Conv1d,
    Dense,
    Embedding,
    Gru,
    Lstm,
    Model,
    Multiply,
    Node,
    Pool,
    Rnn,
    Scale,
    Slice,
    Softmax,
    bound,
    bounds,
    reads,
)

F64: TypeAlias = NDArray[np.float64]


def run(model: Model, x: ArrayLike) -> F64:
    """The model's outputs (n, O) for one stream's inputs x (T, I), from the initial state.

    A value has a row for each step at which it is there: n is T where that is every step.
    """
    columns = np.asarray(x, np.float64)
    values: dict[str, F64] = {}
    start = 0
    for i in model.inputs:
        values[i.name] = columns[:, start : start + i.width]
        start += i.width
    ranges = bounds(model)
    for node in model.nodes:
        read = [values[name] for name in reads(node)]
        values[node.name] = forward(node, *read, limit=ranges[node.input])
    return np.concatenate([values[name] for name in model.outputs], axis=1)


def activate(act: str, x: F64) -> F64:
    """The activation named `act`, element-wise (see `graph.Act`)."""
    match act:
        case "linear":
            return x
        case "relu":
            return np.maximum(x, 0)
        case "relu6":
            return np.clip(x, 0, 6)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return 0.5 * (np.tanh(0.5 * x) + 1)
        case "softsign":
            return np.asarray(x / (1 + np.abs(x)))
        case "silu":
            return x * activate("sigmoid", x)
        case "hard_sigmoid_keras2":
            return np.clip(0.2 * x + 0.5, 0, 1)
        case "hard_sigmoid_relu6":
            return np.clip(x + 3, 0, 6) / 6
    raise ValueError(act)


def rounded(x: F64, activations: str, limit: float = 0.0) -> F64:
    """x (n,) or each row of x (T, n) as the integers times their unit that `activations` makes of
    it; `limit` is the size that x can't exceed, 0 if unknown (see `graph.Activations`)."""
    if activations == "float32":
        return x
    size = limit or np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-30)
    unit = size / {"int8": 127, "int16": 127 * 256}[activations]
    return np.asarray(np.rint(x / unit) * unit)


@singledispatch
def forward(node: Node, x: F64, *others: F64, limit: float = 0.0) -> F64:
    """One node over a whole sequence, x (T, I) -> (n, width), from the initial state.

    T counts the rows of what it reads, n those of what it makes; `limit` is the size that x can't
    exceed, 0 if unknown.
    """
    raise NotImplementedError(node.OP)


@forward.register
def _(node: Rnn, x: F64, *, limit: float = 0.0) -> F64:
    w, u = node.w.float64(), node.u.float64()
    h, x = np.zeros(len(u)), rounded(x, node.activations, limit)
    steps = []
    for x_t in x:
        h = activate(node.act, w @ x_t + u @ rounded(h, node.activations, bound(node)) + node.b)
        steps.append(h)
    return np.array(steps).reshape(len(x), len(u))


@forward.register
def _(node: Lstm, x: F64, *, limit: float = 0.0) -> F64:
    w, u = node.w.float64(), node.u.float64()
    H = u.shape[1]
    h, c, x = np.zeros(H), np.zeros(H), rounded(x, node.activations, limit)
    steps = []
    for x_t in x:
        h = rounded(h, node.activations, bound(node))
        i, f, g, o = (w @ x_t + u @ h + node.b).reshape(4, H)
        i, f, o = (activate(node.gate, gate) for gate in (i, f, o))
        c = f * c + i * activate(node.cell, g)
        h = o * activate(node.hidden, c)
        steps.append(h)
    return np.array(steps).reshape(len(x), H)


@forward.register
def _(node: Gru, x: F64, *, limit: float = 0.0) -> F64:
    H = node.u.data.shape[1]
    wz, wr, wn = node.w.float64().reshape(3, H, -1)
    uz, ur, un = node.u.float64().reshape(3, H, H)
    bz, br, bn = node.b.reshape(3, H)
    h, x = np.zeros(H), rounded(x, node.activations, limit)
    steps = []
    for x_t in x:
        q = rounded(h, node.activations, bound(node))
        z = activate(node.gate, wz @ x_t + uz @ q + bz)
        r = activate(node.gate, wr @ x_t + ur @ q + br)
        if node.reset == "after":
            n = activate(node.candidate, wn @ x_t + bn + r * (un @ q + node.rb))
        else:
            rh = rounded(r * h, node.activations, bound(node))
            n = activate(node.candidate, wn @ x_t + bn + un @ rh + node.rb)
        h = (1 - z) * n + z * h
        steps.append(h)
    return np.array(steps).reshape(len(x), H)


@forward.register
def _(node: Dense, x: F64, *, limit: float = 0.0) -> F64:
    x = rounded(x, node.activations, limit)
    return activate(node.act, x @ node.w.float64().T + node.b)


@forward.register
def _(node: Embedding, x: F64, *, limit: float = 0.0) -> F64:
    return node.table.float64()[x[:, 0].astype(np.int64)]


@forward.register
def _(node: Scale, x: F64, *, limit: float = 0.0) -> F64:
    return (x - node.offset) * node.scale.astype(np.float64) + node.shift


@forward.register
def _(node: Activation, x: F64, *, limit: float = 0.0) -> F64:
    return activate(node.act, x)


@forward.register
def _(node: Softmax, x: F64, *, limit: float = 0.0) -> F64:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


@forward.register
def _(node: Add, x: F64, *others: F64, limit: float = 0.0) -> F64:
    return np.asarray(np.sum([x, *others], axis=0))


@forward.register
def _(node: Multiply, x: F64, *others: F64, limit: float = 0.0) -> F64:
    return np.asarray(np.prod([x, *others], axis=0))


@forward.register
def _(node: Concat, x: F64, *others: F64, limit: float = 0.0) -> F64:
    return np.concatenate([x, *others], axis=1)


@forward.register
def _(node: Slice, x: F64, *, limit: float = 0.0) -> F64:
    return x[:, node.start : node.stop]


@forward.register
def _(node: Conv1d, x: F64, *, limit: float = 0.0) -> F64:
    I, N, groups = x.shape[1], len(node.b), node.groups
    w = node.w.float64().reshape(groups, N // groups, node.kernel, I // groups)
    ages = [(node.kernel - 1 - j) * node.dilation for j in range(node.kernel)]
    steps = []
    for t in _ends(len(x), node.window, node.stride, node.padding):
        taps = np.array([x[t - age] if t >= age else np.zeros(I) for age in ages])
        parts = taps.reshape(node.kernel, groups, I // groups)
        for g in range(groups):
            flat = rounded(parts[:, g].reshape(-1), node.activations, limit)
            parts[:, g] = flat.reshape(node.kernel, -1)
        steps.append(np.einsum("gnji,jgi->gn", w, parts).reshape(N) + node.b)
    return activate(node.act, np.array(steps).reshape(-1, N))


@forward.register
def _(node: Pool, x: F64, *, limit: float = 0.0) -> F64:
    ends = _ends(len(x), node.kernel, node.stride, node.padding)
    windows = [x[max(0, t - node.kernel + 1) : t + 1] for t in ends]
    rows = [w.max(axis=0) if node.kind == "max" else w.mean(axis=0) for w in windows]
    return np.array(rows).reshape(-1, x.shape[1])


def _ends(steps: int, window: int, stride: int, padding: str) -> range:
    """The newest input of each window (see `layers.Padding`)."""
    return range(window - 1 if padding == "valid" else 0, steps, stride)
