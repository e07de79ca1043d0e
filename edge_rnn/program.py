"""A model compiled to opcodes over flat arenas, for the one compiled runner."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import (
    ACTS,
    F32,
    Activation,
    Add,
    Concat,
    Conv1d,
    Dense,
    Embedding,
    Gru,
    Lstm,
    Matrix,
    Model,
    Multiply,
    Node,
    Pool,
    Rnn,
    Scale,
    Schedule,
    Slice,
    Softmax,
    reads,
    schedules,
    value_dimensions,
    value_widths,
)
from edge_rnn.kernels.opcodes import ADD, Op
from edge_rnn.kernels.products import BLOCK, pack

PAD = 16
"""Float32 words that a state vector and a gate are filled up to: the widest vector there is."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What the runner needs of a model.

    `code` int64, `int8s` and `floats` the arenas of weights and parameters, `vocabularies`
    (embeddings, 2) the input column and size of each, widths in float32 words; `state_words` are
    the places in a stream's state that are not padding.
    """

    code: NDArray[np.int64]
    int8s: NDArray[np.int8]
    floats: F32
    vocabularies: NDArray[np.int64]
    input_width: int
    output_width: int
    state_width: int
    state_words: NDArray[np.int64]
    scratch_width: int


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _pad_gates(a: NDArray[Any], H: int) -> NDArray[Any]:
    """Rows (k H, ...) with every gate's H rows filled up with zeros to whole vectors."""
    gates = a.reshape(-1, H, *a.shape[1:])
    full = np.zeros((len(gates), _round_up(H, PAD), *a.shape[1:]), a.dtype)
    full[:, :H] = gates
    return full.reshape(-1, *a.shape[1:])


@dataclass(slots=True)
class _Assembler:
    """Arenas and a row's scratch and state under construction, all in whole vectors.

    `values` are the places of the graph's values, by name; `now` is when the instruction to come
    runs.
    """

    widths: dict[str, int]
    schedules: dict[str, Schedule]
    now: Schedule = Schedule()
    code: list[int] = field(default_factory=list)
    int8s: list[NDArray[np.int8]] = field(default_factory=list)
    floats: list[F32] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: {"int8s": 0, "floats": 0})
    scratch: int = 0
    state: int = 0
    words: list[NDArray[np.int64]] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)

    def emit(self, op: Op, *operands: int) -> None:
        self.code += [op, *operands]

    def at(self, schedule: Schedule) -> None:
        """What follows runs at these steps."""
        if schedule != self.now:
            self.emit(Op.SCHEDULE, *schedule)
            self.now = schedule

    def scratch_room(self, n: int) -> int:
        start = self.scratch
        self.scratch += _round_up(n, BLOCK)
        return start

    def state_room(self, n: int) -> int:
        start = self.state
        self.words.append(np.arange(start, start + n))
        self.state += _round_up(n, PAD)
        return start

    def put(self, arena: str, a: NDArray[Any], unit: int = 1) -> int:
        """Append a to an arena, zeros filling it up to whole units -> its offset."""
        flat = np.zeros(_round_up(a.size, unit), a.dtype)
        flat[: a.size] = a.reshape(-1)
        getattr(self, arena).append(flat)
        self.sizes[arena] += flat.size
        return self.sizes[arena] - flat.size

    def matvec(
        self, w: Matrix, H: int, src: int, dst: int, bias: F32 | None, op: Op = Op.MATVEC
    ) -> None:
        """dst = w src + bias, or dst += w src without a bias; rows come in gates of H."""
        data = _pad_gates(w.data, H)
        rows, columns = _round_up(len(data), BLOCK), data.shape[1]
        if w.scale is None:
            packed = (0, self.put("floats", pack(data.astype(np.float32))), 0)
        else:
            scale = self.put("floats", _pad_gates(w.scale, H), BLOCK)
            packed = (1, self.put("int8s", pack(data)), scale)
        start = ADD if bias is None else self.put("floats", _pad_gates(bias, H), BLOCK)
        self.emit(op, rows, columns, src, dst, *packed, start)

    def depthwise(self, w: Matrix, b: F32, src: int, dst: int) -> None:
        """dst = sum_j w_j src_j + b, feature by feature; w (features, taps), src taps of them."""
        features, taps = w.data.shape
        full = np.zeros((taps, _round_up(features, PAD)), w.data.dtype)
        full[:, :features] = w.data.T
        if w.scale is None:
            packed = (0, self.put("floats", full.astype(np.float32)), 0)
        else:
            packed = (1, self.put("int8s", full), self.put("floats", w.scale, PAD))
        start = self.put("floats", b, PAD)
        self.emit(Op.DEPTHWISE, full.shape[1], src, dst, *packed, start, features, taps)


def compile_model(model: Model) -> Program:
    """The program of a valid model."""
    widths = value_widths(model)
    asm = _Assembler(widths, schedules(model))
    asm.emit(Op.EMIT, *model.schedule)
    column, columns = 0, {}
    for i in model.inputs:
        asm.values[i.name] = asm.scratch_room(i.width)
        asm.emit(Op.LOAD, i.width, column, asm.values[i.name])
        columns[i.name] = column
        column += i.width
    for node in model.nodes:
        dims = value_dimensions(node, widths)
        dst = asm.values[node.name] = asm.scratch_room(dims[node.OUTPUT])
        asm.at(asm.schedules[node.input])
        _assemble(node, asm, dims, asm.values[node.input], dst)
    column = 0
    asm.at(model.schedule)
    for name in model.outputs:
        asm.emit(Op.STORE, widths[name], asm.values[name], column)
        column += widths[name]
    asm.emit(Op.END)
    return _link(asm, model, columns, column)


def _link(asm: _Assembler, model: Model, columns: dict[str, int], output_width: int) -> Program:
    checks = [
        (columns[n.input], len(n.table.data)) for n in model.nodes if isinstance(n, Embedding)
    ]
    return Program(
        code=np.array(asm.code, np.int64),
        int8s=np.concatenate([np.zeros(0, np.int8), *asm.int8s]),
        floats=np.concatenate([np.zeros(0, np.float32), *asm.floats]),
        vocabularies=np.array(checks, np.int64).reshape(-1, 2),
        input_width=model.input_width,
        output_width=output_width,
        state_width=asm.state,
        state_words=np.concatenate([np.zeros(0, np.int64), *asm.words]),
        scratch_width=asm.scratch,
    )


@singledispatch
def _assemble(node: Node, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    raise NotImplementedError(node.OP)


@_assemble.register
def _(node: Rnn, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    H = dims["H"]
    h, g = asm.state_room(H), asm.scratch_room(H)
    asm.matvec(node.w, H, src, g, node.b)
    asm.matvec(node.u, H, h, g, None, Op.MATVEC_STATE)
    asm.emit(Op.RNN, _round_up(H, PAD), g, h, ACTS.index(node.act))
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Lstm, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    H, P = dims["H"], _round_up(dims["H"], PAD)
    h, c, g = asm.state_room(H), asm.state_room(H), asm.scratch_room(4 * P)
    asm.matvec(node.w, H, src, g, node.b)
    asm.matvec(node.u, H, h, g, None, Op.MATVEC_STATE)
    acts = (ACTS.index(a) for a in (node.gate, node.cell, node.hidden))
    asm.emit(Op.LSTM, P, g, h, c, *acts)
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Gru, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    H, P = dims["H"], _round_up(dims["H"], PAD)
    h, g = asm.state_room(H), asm.scratch_room(3 * P)
    gate, candidate = ACTS.index(node.gate), ACTS.index(node.candidate)
    recurrent = np.concatenate([np.zeros(2 * H, np.float32), node.rb])
    if node.reset == "after":
        u = asm.scratch_room(3 * P)
        asm.matvec(node.w, H, src, g, node.b)
        asm.matvec(node.u, H, h, u, recurrent, Op.MATVEC_STATE)
        asm.emit(Op.GRU_AFTER, P, g, u, h, gate, candidate)
    else:
        rh = asm.scratch_room(P)
        asm.matvec(node.w, H, src, g, node.b + recurrent)
        asm.matvec(node.u.rows(0, 2 * H), H, h, g, None, Op.MATVEC_STATE)
        asm.emit(Op.GRU_RESET, P, g, h, rh, gate)
        asm.matvec(node.u.rows(2 * H, 3 * H), H, rh, g + 2 * P, None)
        asm.emit(Op.GRU_BLEND, P, g, h, candidate)
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Dense, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    N = dims["N"]
    asm.matvec(node.w, N, src, dst, node.b)
    asm.emit(Op.ACTIVATE, _round_up(N, PAD), dst, dst, ACTS.index(node.act))


@_assemble.register
def _(node: Embedding, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    table, scale = node.table.data, node.table.scale
    if scale is None:
        packed = (0, asm.put("floats", table.astype(np.float32)), 0)
    else:
        packed = (1, asm.put("int8s", table), asm.put("floats", scale))
    asm.emit(Op.EMBED, dims["D"], src, dst, *packed)


@_assemble.register
def _(node: Scale, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    places = (asm.put("floats", a) for a in (node.offset, node.scale, node.shift))
    asm.emit(Op.SCALE, dims["I"], src, dst, *places)


@_assemble.register
def _(node: Activation, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    asm.emit(Op.ACTIVATE, _round_up(dims["I"], PAD), src, dst, ACTS.index(node.act))


@_assemble.register
def _(node: Softmax, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    asm.emit(Op.SOFTMAX, dims["I"], src, dst)


@_assemble.register(Add)
@_assemble.register(Multiply)
def _(node: Add | Multiply, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    op = Op.SUM if isinstance(node, Add) else Op.PRODUCT
    for name in node.others:
        asm.emit(op, _round_up(dims["I"], PAD), src, asm.values[name], dst)
        src = dst


@_assemble.register
def _(node: Concat, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    for name in reads(node):
        width = asm.widths[name]
        asm.emit(Op.COPY, width, asm.values[name], dst)
        dst += width


@_assemble.register
def _(node: Slice, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    asm.emit(Op.COPY, dims["N"], src + node.start, dst)


@_assemble.register
def _(node: Conv1d, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    I, N, groups = dims["I"], dims["N"], node.groups
    clock = asm.schedules[node.input]
    ring = asm.state_room(dims["R"])
    asm.emit(Op.PUSH, I, src, ring, node.window, *clock)
    asm.at(asm.schedules[node.name])
    window = (node.window, *clock, I, node.kernel, node.dilation)
    if groups == I == N:
        taps = asm.scratch_room(node.kernel * I + PAD)  # the last is read in whole vectors
        asm.emit(Op.TAPS, I, ring, taps, *window)
        asm.depthwise(node.w, node.b, taps, dst)
        asm.emit(Op.ACTIVATE, _round_up(N, PAD), dst, dst, ACTS.index(node.act))
        return
    taps, y = asm.scratch_room(dims["K"]), asm.scratch_room(N + BLOCK)
    i, n = I // groups, N // groups
    for g in range(groups):  # in order: a product fills whole blocks, over its neighbour's place
        asm.emit(Op.TAPS, i, ring + g * i, taps, *window)
        asm.matvec(node.w.rows(g * n, g * n + n), n, taps, y + g * n, node.b[g * n : g * n + n])
    asm.emit(Op.ACTIVATE, _round_up(N, PAD), y, dst, ACTS.index(node.act))


@_assemble.register
def _(node: Pool, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    I, clock = dims["I"], asm.schedules[node.input]
    ring = asm.state_room(dims["R"])
    asm.emit(Op.PUSH, I, src, ring, node.kernel, *clock)
    asm.at(asm.schedules[node.name])
    asm.emit(Op.POOL, I, ring, dst, node.kernel, *clock, int(node.kind == "average"))
