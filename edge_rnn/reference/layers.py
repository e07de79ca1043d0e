"""The layers around recurrent cells."""

from __future__ import annotations

import numpy as np

from edge_rnn.errors import UnsupportedError
from edge_rnn.graph import (
    Activation,
    Add,
    Concat,
    Conv1d,
    Dense,
    Embedding,
    Foreign,
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Multiply,
    Pad,
    Pool,
    PRelu,
    Reverse,
    RmsNorm,
    Scale,
    Slice,
    Softmax,
)
from edge_rnn.reference.base import F64, activate, forward, norm, rounded


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


@forward.register
def _(node: LayerNorm, x: F64, *, limit: float = 0.0) -> F64:
    return node.gain * norm(x, node.epsilon) + node.bias


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


@forward.register
def _(node: Reverse, x: F64, *, limit: float = 0.0) -> F64:
    return x[::-1]


@forward.register
def _(node: Pad, x: F64, *, limit: float = 0.0) -> F64:
    return np.pad(x, ((node.before, node.after), (0, 0)), constant_values=node.value)


@forward.register
def _(node: Foreign, x: F64, *, limit: float = 0.0) -> F64:
    raise UnsupportedError(
        f"node {node.name!r}: {node.engine} runs it: only its bytes are known, not what they "
        "compute; convert the model without --backend"
    )
