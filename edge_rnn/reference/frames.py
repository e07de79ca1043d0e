"""The nodes that work inside one message."""

from __future__ import annotations

import numpy as np

from edge_rnn.graph import FrameConv, FramePool, Take
from edge_rnn.reference.base import F64, activate, forward, rounded


@forward.register
def _(node: Take, x: F64, *, limit: float = 0.0) -> F64:
    places = node.places.astype(np.int64)
    return np.where(places >= 0, x[:, places], 0)


@forward.register
def _(node: FrameConv, x: F64, *, limit: float = 0.0) -> F64:
    w, kernel = node.w.float64(), node.kernel
    outputs = []
    for row in x:
        at = row.reshape(-1, w.shape[1] // kernel)
        for p in range(0, len(at) - kernel + 1, node.stride):
            window = rounded(at[p : p + kernel].reshape(-1), node.activations, limit)
            outputs.append(activate(node.act, w @ window + node.b))
    return np.array(outputs).reshape(len(x), node.sizes(x.shape[1])["O"])


@forward.register
def _(node: FramePool, x: F64, *, limit: float = 0.0) -> F64:
    outputs = []
    for row in x:
        at = row.reshape(-1, node.channels)
        for p in range(0, len(at) - node.kernel + 1, node.stride):
            window = at[p : p + node.kernel]
            outputs.append(window.max(axis=0) if node.kind == "max" else window.mean(axis=0))
    return np.array(outputs).reshape(len(x), node.sizes(x.shape[1])["O"])
