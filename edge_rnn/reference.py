"""What every node computes: whole sequences in float64 NumPy, written to be read.

Nothing here is fast. The kernels and the converters are tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Lru,
    Lstm,
    MinGru,
    Model,
    Multiply,
    Node,
    NormGru,
    NormLstm,
    Pool,
    PRelu,
    RmsNorm,
    Rnn,
    Scale,
    Slice,
    Softmax,
    bound,
    bounds,
    product_bound,
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
            return np.asarray(np.exp(-np.logaddexp(0, -x)))
        case "softsign":
            return np.asarray(x / (1 + np.abs(x)))
        case "silu":
            return x * activate("sigmoid", x)
        case "hard_sigmoid_keras2":
            return np.clip(0.2 * x + 0.5, 0, 1)
        case "hard_sigmoid_relu6":
            return np.clip(x + 3, 0, 6) / 6
        case "elu":
            return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
        case "selu":
            alpha, scale = 1.6732632423543772, 1.0507009873554805
            return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
        case "gelu":
            return np.asarray(x * np.vectorize(math.erfc, [float])(-x / np.sqrt(2)) / 2)
        case "gelu_tanh":
            return x * activate("sigmoid", np.sqrt(8 / np.pi) * (x + 0.044715 * x**3))
        case "softplus":
            return np.logaddexp(0, x)
        case "mish":
            return x * np.tanh(np.logaddexp(0, x))
        case "hard_swish":
            return x * np.clip(x + 3, 0, 6) / 6
        case "hard_tanh":
            return np.clip(x, -1, 1)
        case "exponential":
            with np.errstate(over="ignore"):
                return np.exp(x)
        case "log_sigmoid":
            return -np.logaddexp(0, -x)
        case "min_gru":
            return np.where(x >= 0, x + 0.5, activate("sigmoid", x))
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
    return _lstm(node, x, limit, lambda x_t, h: w @ x_t + u @ h + node.b)


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


def _norm(v: F64, epsilon: float) -> F64:
    """(v - mean) / sqrt(variance + epsilon) over the last axis."""
    variance = v.var(axis=-1, keepdims=True)
    return np.asarray((v - v.mean(axis=-1, keepdims=True)) / np.sqrt(variance + epsilon))


def _lstm(
    node: Lstm,
    x: F64,
    limit: float,
    sums: Callable[[F64, F64], F64],
    gate_norm: Callable[[str, F64], F64] = lambda gate, v: v,
    cell_norm: Callable[[F64], F64] = lambda c: c,
    carried: str = "raw",
) -> F64:
    """An LSTM from its gates' sums(x, h), side by side, and what is done to a gate and the cell."""
    R, H = node.u.data.shape[1], node.w.data.shape[0] // len(node.GATES)
    looking = node.GATES.replace("g", "")
    peepholes = np.zeros((len(looking), H)) if node.peephole is None else node.peephole
    look = dict(zip(looking, peepholes.reshape(-1, H), strict=True))
    q, h, c = node.activations, np.zeros(R), np.zeros(H)
    steps = []
    for x_t in rounded(x, q, limit):
        a = dict(zip(node.GATES, sums(x_t, rounded(h, q, bound(node))).reshape(-1, H), strict=True))
        i = activate(node.gate, gate_norm("i", a["i"] + look["i"] * c))
        f = 1 - i
        if "f" in a:
            f = activate(node.gate, gate_norm("f", a["f"] + look["f"] * c))
        new = f * c + i * activate(node.cell, gate_norm("g", a["g"]))
        seen = cell_norm(new)
        c = seen if carried == "normalised" else new
        o = activate(node.gate, gate_norm("o", a["o"] + look["o"] * c))
        h = o * activate(node.hidden, seen)
        if node.projection is not None:
            h = node.projection.float64() @ rounded(h, q, product_bound(node))
        steps.append(h)
    return np.array(steps).reshape(len(x), R)


@forward.register
def _(node: NormLstm, x: F64, *, limit: float = 0.0) -> F64:
    w, u, eps = node.w.float64(), node.u.float64(), node.epsilon
    gain, recurrent, H = node.gain, node.recurrent_gain, len(node.b) // 4
    cell = node.cell_norm

    def sums(x_t: F64, h: F64) -> F64:
        if recurrent is None:
            return np.asarray(w @ x_t + u @ h)
        return gain * _norm(w @ x_t, eps) + recurrent * _norm(u @ h, eps) + node.b

    def gate_norm(gate: str, v: F64) -> F64:
        part = slice(*(H * ("ifgo".index(gate) + k) for k in (0, 1)))
        return v if recurrent is not None else gain[part] * _norm(v, eps) + node.b[part]

    def cell_norm(c: F64) -> F64:
        return c if cell is None else cell[:H] * _norm(c, eps) + cell[H:]

    return _lstm(node, x, limit, sums, gate_norm, cell_norm, node.carried)


@forward.register
def _(node: NormGru, x: F64, *, limit: float = 0.0) -> F64:
    w, u = node.w.float64(), node.u.float64()
    H = len(node.rb)
    cut = len(node.over) * H

    def norm(v: F64) -> F64:
        parts = [v[:cut], v[cut:]] if cut < len(v) else [v]
        return np.concatenate([_norm(part, node.epsilon) for part in parts])

    h, x = np.zeros(H), rounded(x, node.activations, limit)
    steps = []
    for x_t in x:
        q = rounded(h, node.activations, bound(node))
        a = (node.gain * norm(w @ x_t) + node.b).reshape(3, H)
        s = (node.recurrent_gain * norm(u @ q)).reshape(3, H)
        z, r = (activate(node.gate, a[k] + s[k]) for k in (0, 1))
        n = activate(node.candidate, a[2] + r * (s[2] + node.rb))
        h = (1 - z) * n + z * h
        steps.append(h)
    return np.array(steps).reshape(len(x), H)


@forward.register
def _(node: MinGru, x: F64, *, limit: float = 0.0) -> F64:
    H = len(node.b) // 2
    h, x = np.zeros(H), rounded(x, node.activations, limit)
    steps = []
    for z, n in (x @ node.w.float64().T + node.b).reshape(-1, 2, H):
        z = activate(node.gate, z)
        h = (1 - z) * h + z * activate(node.candidate, n)
        steps.append(h)
    return np.array(steps).reshape(len(x), H)


@forward.register
def _(node: Lru, x: F64, *, limit: float = 0.0) -> F64:
    l_ = node.lambda_re.astype(np.float64) + 1j * node.lambda_im
    b = node.b_re.float64() + 1j * node.b_im.float64()
    c = node.c_re.float64() + 1j * node.c_im.float64()
    d = np.zeros((len(c), x.shape[1])) if node.d is None else node.d.float64()
    straight = 0 if node.diagonal is None else node.diagonal * x
    q, s = node.activations, np.zeros(len(l_), np.complex128)
    steps = []
    for x_t in rounded(x, q, limit):
        s = l_ * s + b @ x_t
        seen = rounded(s.real, q) + 1j * rounded(s.imag, q)
        steps.append((c @ seen).real + d @ x_t)
    return np.array(steps).reshape(len(x), len(c)) + straight


@forward.register
def _(node: LayerNorm, x: F64, *, limit: float = 0.0) -> F64:
    return node.gain * _norm(x, node.epsilon) + node.bias


@forward.register
def _(node: RmsNorm, x: F64, *, limit: float = 0.0) -> F64:
    mean = (x**2).mean(axis=1, keepdims=True)
    return np.asarray(node.gain * (x / np.sqrt(mean + node.epsilon)))


@forward.register
def _(node: L2Norm, x: F64, *, limit: float = 0.0) -> F64:
    size = np.sqrt((x**2).sum(axis=1, keepdims=True))
    return np.asarray(x / np.maximum(size, node.epsilon))


@forward.register
def _(node: LogSoftmax, x: F64, *, limit: float = 0.0) -> F64:
    x = x - x.max(axis=1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))


@forward.register
def _(node: PRelu, x: F64, *, limit: float = 0.0) -> F64:
    return np.where(x > 0, x, node.slope * x)
