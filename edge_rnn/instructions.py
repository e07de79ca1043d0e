"""The instructions of every kind of node."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from edge_rnn.activations import ACTS
from edge_rnn.assembler import PAD, Assembler, Vector, round_up
from edge_rnn.graph import (
    Activation,
    Add,
    Concat,
    Conv1d,
    CoupledLstm,
    Dense,
    Embedding,
    FrameConv,
    FramePool,
    Gru,
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Lru,
    Lstm,
    Matrix,
    MinGru,
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
    Take,
    bound,
    product_bound,
    reads,
)
from edge_rnn.kernels import BLOCK, PARTIALS, Op


@singledispatch
def assemble(node: Node, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    """Append a node's instructions: x is where its first input is, dst where its output goes.

    `dims` has the value of each symbol of its shapes.
    """
    raise NotImplementedError(node.OP)


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
    h, c, g = asm.state_room(H), asm.state_room(H), asm.scratch_room(4 * P)
    asm.matvec(node.w, H, x, g, node.b, node.activations)
    asm.matvec(node.u, H, Vector(h, H, bound(node), True), g, None, node.activations)
    asm.emit(Op.LSTM, P, g, h, c, *map(ACTS.index, acts), dst)
    return None


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


@assemble.register
def _(node: Dense, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    N = dims["N"]
    asm.matvec(node.w, N, x, dst, node.b, node.activations)
    asm.activate(node.act, round_up(N, PAD), dst)


@assemble.register
def _(node: Embedding, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    table, scale = node.table.data, node.table.scale
    if scale is None:
        packed = (0, asm.put("floats", table.astype(np.float32)), 0)
    else:
        packed = (1, asm.put("int8s", table), asm.put("floats", scale))
    asm.emit(Op.EMBED, dims["D"], x.at, dst, *packed)


@assemble.register
def _(node: Scale, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    places = (asm.put("floats", a) for a in (node.offset, node.scale, node.shift))
    asm.emit(Op.SCALE, dims["I"], x.at, dst, *places)


@assemble.register
def _(node: Activation, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    asm.activate(node.act, round_up(dims["I"], PAD), dst, x.at)


@assemble.register
def _(node: Softmax, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    asm.emit(Op.SOFTMAX, dims["I"], x.at, dst, asm.scratch_room(PARTIALS))


@assemble.register(Add)
@assemble.register(Multiply)
def _(node: Add | Multiply, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    op = Op.SUM if isinstance(node, Add) else Op.PRODUCT
    src = x.at
    for name in node.others:
        asm.emit(op, round_up(dims["I"], PAD), src, asm.values[name], dst)
        src = dst


@assemble.register
def _(node: Concat, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    for name in reads(node):
        width = asm.widths[name]
        asm.emit(Op.COPY, width, asm.values[name], dst)
        dst += width


@assemble.register
def _(node: Slice, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    asm.emit(Op.COPY, dims["N"], x.at + node.start, dst)


@assemble.register
def _(node: Conv1d, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    I, N, groups = dims["I"], dims["N"], node.groups
    clock = asm.schedules[node.input]
    ring = asm.state_room(dims["R"])
    asm.emit(Op.PUSH, I, x.at, ring, node.window, *clock)
    asm.at(asm.schedules[node.name])
    window = (node.window, *clock, I, node.kernel, node.dilation)
    if node.depthwise:
        taps = asm.scratch_room(node.kernel * I + PAD)  # the last is read in whole vectors
        asm.emit(Op.TAPS, I, ring, taps, *window)
        asm.depthwise(node.w, node.b, taps, dst)
        asm.activate(node.act, round_up(N, PAD), dst)
        return
    y, i, n = asm.scratch_room(N + BLOCK), I // groups, N // groups
    for g in range(groups):  # in order: a product fills whole blocks, over its neighbour's place
        seen = Vector(asm.scratch_room(dims["K"]), dims["K"], x.bound)
        asm.emit(Op.TAPS, i, ring + g * i, seen.at, *window)
        w, b = node.w.rows(g * n, g * n + n), node.b[g * n : g * n + n]
        asm.matvec(w, n, seen, y + g * n, b, node.activations)
    asm.activate(node.act, round_up(N, PAD), dst, y)


@assemble.register
def _(node: Pool, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    I, clock = dims["I"], asm.schedules[node.input]
    ring = asm.state_room(dims["R"])
    asm.emit(Op.PUSH, I, x.at, ring, node.kernel, *clock)
    asm.at(asm.schedules[node.name])
    asm.emit(Op.POOL, I, ring, dst, node.kernel, *clock, int(node.kind == "average"))


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
    places = (asm.put("floats", a, PAD) for a in (node.lambda_re, node.lambda_im))
    asm.emit(Op.LRU, P, b, re, im, *places)
    s_re, s_im = (Vector(at, N, in_state=True) for at in (re, im))
    asm.matvec(node.c_re, M, s_re, dst, np.zeros(M, np.float32), q)
    minus = Matrix(-node.c_im.data, node.c_im.scale)
    asm.matvec(minus, M, s_im, dst, None, q)
    if node.d is not None:
        asm.matvec(node.d, M, x, dst, None, q)
    if node.diagonal is not None:
        asm.affine(node.diagonal, M, x.at, dst, None)


@assemble.register
def _(node: LayerNorm, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    asm.standardise(dims["I"], x.at, dst, node.epsilon)
    asm.affine(node.gain, dims["I"], dst, dst, node.bias)


@assemble.register
def _(node: RmsNorm, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    eps = asm.put("floats", np.array([node.epsilon], np.float32))
    asm.emit(Op.RMS, dims["I"], x.at, dst, asm.scratch_room(PARTIALS), eps)
    asm.affine(node.gain, dims["I"], dst, dst, np.zeros(dims["I"], np.float32))


@assemble.register
def _(node: L2Norm, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    eps = asm.put("floats", np.array([node.epsilon], np.float32))
    asm.emit(Op.L2, dims["I"], x.at, dst, asm.scratch_room(PARTIALS), eps)


@assemble.register
def _(node: LogSoftmax, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    asm.emit(Op.LOG_SOFTMAX, dims["I"], x.at, dst, asm.scratch_room(PARTIALS))


@assemble.register
def _(node: PRelu, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    slope = asm.put("floats", node.slope, PAD)
    asm.emit(Op.PRELU, round_up(dims["I"], PAD), x.at, dst, slope)


@assemble.register
def _(node: Take, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    asm.emit(Op.TAKE, dims["N"], x.at, dst, asm.put("floats", node.places))


@assemble.register
def _(node: FrameConv, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    step = node.stride * dims["K"] // node.kernel
    count = dims["O"] // dims["N"]
    asm.convolve(node.w, x, step, count, dst, node.b, node.activations)
    asm.activate(node.act, round_up(dims["O"], PAD), dst)


@assemble.register
def _(node: FramePool, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    C, average = node.channels, int(node.kind == "average")
    count = dims["O"] // C
    asm.emit(Op.FRAME_POOL, C, x.at, dst, node.kernel, node.stride, average, count)
