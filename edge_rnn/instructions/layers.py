"""The layers around recurrent cells."""

from __future__ import annotations

import numpy as np

from edge_rnn.assembler import PAD, Assembler, Vector, round_up
from edge_rnn.graph import (
    Activation,
    Add,
    Concat,
    Conv1d,
    Dense,
    Embedding,
    FrameConv,
    FramePool,
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Multiply,
    Pool,
    PRelu,
    RmsNorm,
    Scale,
    Slice,
    Softmax,
    Take,
    reads,
)
from edge_rnn.instructions.base import assemble
from edge_rnn.kernels import BLOCK, PARTIALS, Op


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
    slope = asm.put("floats", node.slope)
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
