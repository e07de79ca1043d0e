"""The recurrent cells."""

from __future__ import annotations

import numpy as np

from edge_rnn.activations import ACTS
from edge_rnn.assembler import PAD, Assembler, Vector, round_up
from edge_rnn.graph import (
    CoupledLstm,
    Gru,
    Lru,
    Lstm,
    Matrix,
    MinGru,
    NormGru,
    NormLstm,
    Rnn,
    bound,
    product_bound,
)
from edge_rnn.instructions.base import assemble
from edge_rnn.kernels import BLOCK, BY_UNIT, LIMITS, Op

_USUAL = ("sigmoid", "tanh", "tanh")


@assemble.register
def _(node: Rnn, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    H = dims["H"]
    h, g = asm.state_room(H), asm.scratch_room(H)
    asm.matvec(node.w, H, x, g, node.b, node.activations)
    asm.matvec(node.u, H, Vector(h, H, bound(node), True), g, None, node.activations)
    P = round_up(H, PAD)
    asm.emit(Op.RNN, P, g, h, asm.fused(node.act, P, g), dst)


@assemble.register
def _(node: Lstm, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    acts = (node.gate, node.cell, node.hidden)
    options = (node.peephole, node.projection, node.cell_clip)
    if any(o is not None for o in options) or not set(acts) <= set(ACTS):
        return _general_lstm(node, asm, dims, x, dst)
    H, P = dims["H"], round_up(dims["H"], PAD)
    h, c = asm.state_room(H), asm.state_room(H)
    fused = BY_UNIT and acts == _USUAL and _in_bytes(node.w, node.u, node.activations)
    g, before = asm.scratch_room(BLOCK if fused else 4 * P), Vector(h, H, bound(node), True)
    u = _of_bytes(node.u, before.bound) if fused else node.u
    sums = (
        asm.product(node.w, H, x, g, node.b, node.activations, fused),
        asm.product(u, H, before, g, None, node.activations, fused),
    )
    if fused:
        return asm.emit(Op.LSTM_DOTS, *sums[0], *sums[1], h, c, dst)
    for operands in sums:
        asm.emit(Op.MATVEC, *operands)
    return asm.emit(Op.LSTM, P, g, h, c, *map(ACTS.index, acts), dst)


def _in_bytes(w: Matrix, u: Matrix, activations: str) -> bool:
    """Do matrices of bytes meet activations of bytes?"""
    weights = {(str(m.data.dtype), m.four_bit) for m in (w, u)}
    return activations == "int8" and weights == {("int8", False)}


def _of_bytes(u: Matrix, largest: float) -> Matrix:
    """u for the integers of numbers in [-largest, largest]: what one is worth is in the scales."""
    assert u.scale is not None  # noqa: S101 - a valid matrix
    return Matrix(u.data, np.float32(largest) / np.float32(LIMITS["int8"]) * u.scale)


@assemble.register
def _(node: Gru, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    H, P = dims["H"], round_up(dims["H"], PAD)
    h, g = asm.state_room(H), asm.scratch_room(3 * P)
    recurrent = np.concatenate([np.zeros(2 * H, np.float32), node.rb])
    before, q = Vector(h, H, bound(node), in_state=True), node.activations
    if node.reset == "after":
        u = asm.scratch_room(3 * P)
        asm.matvec(node.w, H, x, g, node.b, q)
        asm.matvec(node.u, H, before, u, recurrent, q)
        _blend_after(node, asm, P, g, u, h, dst)
    else:
        rh = asm.scratch_room(P)
        asm.matvec(node.w, H, x, g, node.b + recurrent, q)
        asm.matvec(node.u.rows(0, 2 * H), H, before, g, None, q)
        asm.emit(Op.GRU_RESET, P, g, h, rh, asm.fused(node.gate, 2 * P, g))
        reset = Vector(rh, H, bound(node))
        asm.matvec(node.u.rows(2 * H, 3 * H), H, reset, g + 2 * P, None, q)
        asm.emit(Op.GRU_BLEND, P, g, h, asm.fused(node.candidate, P, g + 2 * P), dst)


def _blend_after(
    node: Gru | NormGru, asm: Assembler, P: int, g: int, u: int, h: int, dst: int
) -> None:
    """h' of a GRU that resets after the product, from W x + b at g and U h + [0, 0, rb] at u."""
    if {node.gate, node.candidate} <= set(ACTS):
        acts = (ACTS.index(node.gate), ACTS.index(node.candidate))
        return asm.emit(Op.GRU_AFTER, P, g, u, h, *acts, dst)
    r, n = g + P, g + 2 * P
    asm.emit(Op.SUM, 2 * P, g, u, g)
    asm.activate(node.gate, 2 * P, g)
    asm.emit(Op.PRODUCT, P, r, u + 2 * P, u + 2 * P)
    asm.emit(Op.SUM, P, n, u + 2 * P, n)
    return asm.emit(Op.GRU_BLEND, P, g, h, asm.fused(node.candidate, P, n), dst)


@assemble.register(CoupledLstm)
@assemble.register(NormLstm)
def _general_lstm(node: Lstm, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    """An LSTM with any of its options, from small instructions; m is c, then what h is made of."""
    H, R, P = dims["H"], dims["R"], round_up(dims["H"], PAD)
    h, c, g = asm.state_room(R), asm.state_room(H), asm.scratch_room(len(node.GATES) * P)
    m = dst if node.projection is None else asm.scratch_room(P)
    _lstm_sums(node, asm, H, x, Vector(h, R, bound(node), in_state=True), g)
    asm.emit(Op.COPY_STATE, H, c, m)
    for name in node.GATES[:-1]:
        _complete_gate(node, asm, name, H, g, m)
    candidate, o = (g + node.GATES.index(name) * P for name in "go")
    asm.activate(node.gate, candidate - g, g)
    asm.activate(node.cell, P, candidate)
    asm.emit(Op.LSTM_CELL, P, g, c, m, int("f" not in node.GATES))
    if node.cell_clip is not None:
        asm.clip(node.cell_clip, P, m)
        asm.emit(Op.KEEP, H, m, c)
    _normalise_cell(node, asm, H, m, c, "normalised")
    _complete_gate(node, asm, "o", H, g, m)
    _normalise_cell(node, asm, H, m, c, "raw")
    asm.activate(node.gate, P, o)
    asm.activate(node.hidden, P, m)
    asm.emit(Op.PRODUCT, P, o, m, m)
    if node.projection is not None:
        out = Vector(m, H, product_bound(node))
        bias = np.zeros(R, np.float32) if node.projection_bias is None else node.projection_bias
        asm.matvec(node.projection, R, out, dst, bias, node.activations)
        if node.projection_clip is not None:
            asm.clip(node.projection_clip, round_up(R, PAD), dst)
    asm.emit(Op.KEEP, R, dst, h)


def _lstm_sums(node: Lstm, asm: Assembler, H: int, x: Vector, h: Vector, g: int) -> None:
    """At g every gate's sum of products, with all that can be added before c is known."""
    nothing, q = np.zeros(len(node.b), np.float32), node.activations
    if not isinstance(node, NormLstm) or node.recurrent_gain is None:
        asm.matvec(node.w, H, x, g, nothing if isinstance(node, NormLstm) else node.b, q)
        asm.matvec(node.u, H, h, g, None, q)
        return
    u = asm.scratch_room(4 * round_up(H, PAD))
    asm.matvec(node.w, H, x, g, nothing, q)
    asm.standardise(H, g, g, node.epsilon, runs=4)
    asm.affine(node.gain, H, g, g, node.b)
    asm.matvec(node.u, H, h, u, nothing, q)
    asm.standardise(H, u, u, node.epsilon, runs=4)
    asm.affine(node.recurrent_gain, H, u, g, None)


def _complete_gate(node: Lstm, asm: Assembler, gate: str, H: int, g: int, m: int) -> None:
    """Add the gate's peephole, which sees the cell at m, and normalise a gate of its own."""
    k = node.GATES.index(gate)
    at = g + k * round_up(H, PAD)
    if node.peephole is not None and gate != "g":
        k_p = node.GATES.replace("g", "").index(gate)
        asm.affine(node.peephole[k_p * H : (k_p + 1) * H], H, m, at, None)
    if isinstance(node, NormLstm) and node.recurrent_gain is None:
        asm.standardise(H, at, at, node.epsilon)
        part = slice(k * H, (k + 1) * H)
        asm.affine(node.gain[part], H, at, at, node.b[part])


def _normalise_cell(node: Lstm, asm: Assembler, H: int, m: int, c: int, carried: str) -> None:
    """Normalise the new cell at m, if the node does so and carries on that sort of cell."""
    if isinstance(node, NormLstm) and node.cell_norm is not None and node.carried == carried:
        asm.standardise(H, m, m, node.epsilon)
        asm.affine(node.cell_norm[:H], H, m, m, node.cell_norm[H:])
        if carried == "normalised":
            asm.emit(Op.KEEP, H, m, c)


@assemble.register
def _(node: NormGru, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    H, P = dims["H"], round_up(dims["H"], PAD)
    h, g, u = asm.state_room(H), asm.scratch_room(3 * P), asm.scratch_room(3 * P)
    nothing, q = np.zeros(3 * H, np.float32), node.activations
    asm.matvec(node.w, H, x, g, nothing, q)
    asm.matvec(node.u, H, Vector(h, H, bound(node), in_state=True), u, nothing, q)
    for products in (g, u):
        asm.standardise(H, products, products, node.epsilon, runs=len(node.over))
        if node.over == "zr":
            asm.standardise(H, products + 2 * P, products + 2 * P, node.epsilon)
    asm.affine(node.gain, H, g, g, node.b)
    recurrent = np.concatenate([np.zeros(2 * H, np.float32), node.rb])
    asm.affine(node.recurrent_gain, H, u, u, recurrent)
    _blend_after(node, asm, P, g, u, h, dst)


@assemble.register
def _(node: MinGru, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    H, P = dims["H"], round_up(dims["H"], PAD)
    h, g = asm.state_room(H), asm.scratch_room(2 * P)
    asm.matvec(node.w, H, x, g, node.b, node.activations)
    asm.activate(node.gate, P, g)
    asm.activate(node.candidate, P, g + P)
    asm.emit(Op.MIN_GRU, P, g, h)
    asm.emit(Op.COPY_STATE, H, h, dst)


@assemble.register
def _(node: Lru, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    N, M, P = dims["N"], dims["M"], round_up(dims["N"], PAD)
    re, im = asm.state_room(N), asm.state_room(N)
    b, q = asm.scratch_room(P + round_up(N, BLOCK)), node.activations
    asm.matvec(node.b_re, N, x, b, np.zeros(N, np.float32), q)
    asm.matvec(node.b_im, N, x, b + P, np.zeros(N, np.float32), q)
    places = (asm.put("floats", a) for a in (node.lambda_re, node.lambda_im))
    asm.emit(Op.LRU, P, b, re, im, *places)
    s_re, s_im = (Vector(at, N, in_state=True) for at in (re, im))
    asm.matvec(node.c_re, M, s_re, dst, np.zeros(M, np.float32), q)
    minus = Matrix(-node.c_im.data, node.c_im.scale)
    asm.matvec(minus, M, s_im, dst, None, q)
    if node.d is not None:
        asm.matvec(node.d, M, x, dst, None, q)
    if node.diagonal is not None:
        asm.affine(node.diagonal, M, x.at, dst, None)
