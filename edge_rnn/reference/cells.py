"""The recurrent cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from edge_rnn.graph import F32, Gru, Lru, Lstm, MinGru, NormGru, NormLstm, Rnn, bound, product_bound
from edge_rnn.reference.base import F64, activate, forward, norm, rounded

Watch: TypeAlias = Callable[[str, F64], None]
"""Told, step by step, what is inside a cell: each gate by its letter, and an LSTM's `c`."""

GATED = (Lstm, Gru, NormGru, MinGru)
"""Nodes whose `forward` takes a `watch`."""


def _first(initial: F32 | None, width: int) -> F64:
    """What a state begins at."""
    return np.zeros(width) if initial is None else initial.astype(np.float64)


def _ignore(name: str, value: F64) -> None:
    """Watches nothing."""


@forward.register
def _(node: Rnn, x: F64, *, limit: float = 0.0) -> F64:
    u, h = node.u.float64(), _first(node.initial_h, len(node.b))
    steps = []
    for a_t in rounded(x, node.activations, limit) @ node.w.float64().T + node.b:
        h = activate(node.act, a_t + u @ rounded(h, node.activations, bound(node)))
        steps.append(h)
    return np.array(steps).reshape(len(x), len(u))


@forward.register
def _(node: Lstm, x: F64, *, limit: float = 0.0, watch: Watch = _ignore) -> F64:
    u = node.u.float64()
    return _lstm(node, x, limit, lambda a_t, h: a_t + u @ h + node.b, watch=watch)


@forward.register
def _(node: Gru, x: F64, *, limit: float = 0.0, watch: Watch = _ignore) -> F64:
    H = node.u.data.shape[1]
    uz, ur, un = node.u.float64().reshape(3, H, H)
    sums = rounded(x, node.activations, limit) @ node.w.float64().T + node.b
    h = _first(node.initial_h, H)
    steps = []
    for az, ar, an in sums.reshape(len(x), 3, H):
        q = rounded(h, node.activations, bound(node))
        z = activate(node.gate, az + uz @ q)
        r = activate(node.gate, ar + ur @ q)
        if node.reset == "after":
            n = activate(node.candidate, an + r * (un @ q + node.rb))
        else:
            rh = rounded(r * h, node.activations, bound(node))
            n = activate(node.candidate, an + un @ rh + node.rb)
        watch("z", z)
        watch("r", r)
        h = (1 - z) * n + z * h
        steps.append(h)
    return np.array(steps).reshape(len(x), H)


def _clip(x: F64, size: F32 | None) -> F64:
    return x if size is None else np.clip(x, -size, size)


def _lstm(
    node: Lstm,
    x: F64,
    limit: float,
    sums: Callable[[F64, F64], F64],
    gate_norm: Callable[[str, F64], F64] = lambda gate, v: v,
    cell_norm: Callable[[F64], F64] = lambda c: c,
    carried: str = "raw",
    watch: Watch = _ignore,
) -> F64:
    """An LSTM from its gates' sums(W x, h), side by side, and what is done to gates and cell."""
    R, H = node.u.data.shape[1], node.w.data.shape[0] // len(node.GATES)
    looking = node.GATES.replace("g", "")
    peepholes = np.zeros((len(looking), H)) if node.peephole is None else node.peephole
    look = dict(zip(looking, peepholes.reshape(-1, H), strict=True))
    q = node.activations
    h, c = _first(node.initial_h, R), _first(node.initial_c, H)
    steps = []
    for a_t in rounded(x, q, limit) @ node.w.float64().T:
        a = dict(zip(node.GATES, sums(a_t, rounded(h, q, bound(node))).reshape(-1, H), strict=True))
        i = activate(node.gate, gate_norm("i", a["i"] + look["i"] * c))
        f = 1 - i
        if "f" in a:
            f = activate(node.gate, gate_norm("f", a["f"] + look["f"] * c))
        new = _clip(f * c + i * activate(node.cell, gate_norm("g", a["g"])), node.cell_clip)
        seen = cell_norm(new)
        c = seen if carried == "normalised" else new
        o = activate(node.gate, gate_norm("o", a["o"] + look["o"] * c))
        for name, value in (("i", i), ("f", f), ("o", o), ("c", c)):
            watch(name, value)
        h = o * activate(node.hidden, seen)
        if node.projection is not None:
            h = node.projection.float64() @ rounded(h, q, product_bound(node))
            h = h if node.projection_bias is None else h + node.projection_bias
            h = _clip(h, node.projection_clip)
        steps.append(h)
    return np.array(steps).reshape(len(x), R)


@forward.register
def _(node: NormLstm, x: F64, *, limit: float = 0.0, watch: Watch = _ignore) -> F64:
    u, eps = node.u.float64(), node.epsilon
    gain, recurrent, H = node.gain, node.recurrent_gain, len(node.b) // 4
    cell = node.cell_norm

    def sums(a_t: F64, h: F64) -> F64:
        if recurrent is None:
            return np.asarray(a_t + u @ h)
        return gain * norm(a_t, eps) + recurrent * norm(u @ h, eps) + node.b

    def gate_norm(gate: str, v: F64) -> F64:
        part = slice(*(H * ("ifgo".index(gate) + k) for k in (0, 1)))
        return v if recurrent is not None else gain[part] * norm(v, eps) + node.b[part]

    def cell_norm(c: F64) -> F64:
        return c if cell is None else cell[:H] * norm(c, eps) + cell[H:]

    return _lstm(node, x, limit, sums, gate_norm, cell_norm, node.carried, watch)


@forward.register
def _(node: NormGru, x: F64, *, limit: float = 0.0, watch: Watch = _ignore) -> F64:
    u = node.u.float64()
    H = len(node.rb)
    cut = len(node.over) * H

    def normed(v: F64) -> F64:
        parts = [v[:cut], v[cut:]] if cut < len(v) else [v]
        return np.concatenate([norm(part, node.epsilon) for part in parts])

    h = _first(node.initial_h, H)
    steps = []
    for a_t in rounded(x, node.activations, limit) @ node.w.float64().T:
        q = rounded(h, node.activations, bound(node))
        a = (node.gain * normed(a_t) + node.b).reshape(3, H)
        s = (node.recurrent_gain * normed(u @ q)).reshape(3, H)
        z, r = (activate(node.gate, a[k] + s[k]) for k in (0, 1))
        n = activate(node.candidate, a[2] + r * (s[2] + node.rb))
        watch("z", z)
        watch("r", r)
        h = (1 - z) * n + z * h
        steps.append(h)
    return np.array(steps).reshape(len(x), H)


@forward.register
def _(node: MinGru, x: F64, *, limit: float = 0.0, watch: Watch = _ignore) -> F64:
    H = len(node.b) // 2
    h, x = _first(node.initial_h, H), rounded(x, node.activations, limit)
    steps = []
    for z, n in (x @ node.w.float64().T + node.b).reshape(-1, 2, H):
        z = activate(node.gate, z)
        watch("z", z)
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
