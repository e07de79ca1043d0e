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
    GROUP,
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
    bound,
    bounds,
    reads,
    schedules,
    value_dimensions,
    value_widths,
)
from edge_rnn.kernels import ADD, BLOCK, EACH, FLIP, Format, Op, pack, pack_nibbles

PAD = 16
"""Float32 words that a state vector and a gate are filled up to: the widest vector there is."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What the runner needs of a model.

    `code` int64, `int8s`, `halves` (float16 as int16) and `floats` the arenas of weights and
    parameters, `vocabularies` (embeddings, 2) the input column and size of each, widths in float32
    words; `state_words` are the places in a stream's state that are not padding.
    """

    code: NDArray[np.int64]
    int8s: NDArray[np.int8]
    halves: NDArray[np.int16]
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


_FORMATS = {
    ("float16", "float32"): Format.FLOAT16,
    ("float32", "float32"): Format.FLOAT32,
    ("int8", "float32"): Format.INT8,
    ("int8", "int8"): Format.INT8_INT8,
    ("int8", "int16"): Format.INT8_INT16,
    ("int4", "int8"): Format.INT4_INT8,
    ("int4", "int16"): Format.INT4_INT16,
}
_INTEGER = {f: a for (_, a), f in _FORMATS.items() if a != "float32"}
_FOUR_BIT = (Format.INT4_INT8, Format.INT4_INT16)


@dataclass(frozen=True, slots=True)
class _Vector:
    """Where a product's operand lies: `width` numbers at `at` in the scratch or the state, of a
    size that `bound` limits (0 if unknown)."""

    at: int
    width: int
    bound: float = 0.0
    in_state: bool = False


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
    halves: list[NDArray[np.int16]] = field(default_factory=list)
    floats: list[F32] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: {"int8s": 0, "halves": 0, "floats": 0})
    scratch: int = 0
    state: int = 0
    words: list[NDArray[np.int64]] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)
    integers: dict[tuple[int, bool, Format], tuple[int, int]] = field(default_factory=dict)

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
        self, w: Matrix, H: int, x: _Vector, dst: int, bias: F32 | None, activations: str
    ) -> None:
        """dst = w x + bias, or dst += w x without a bias; rows come in gates of H."""
        data = _pad_gates(w.data, H)
        kind = "int4" if w.four_bit else str(data.dtype)
        format = _FORMATS[kind, activations]
        K, weights, start = self._weights(w, data, format, H)
        scale = -1
        if w.scale is not None and not w.four_bit:
            scale = self.put("floats", _pad_gates(w.scale, H), BLOCK)
        src, unit = (x.at, 0) if format not in _INTEGER else self._quantized(x, format)
        base = ADD if bias is None else self.put("floats", _pad_gates(bias, H), BLOCK)
        in_state = int(x.in_state and format not in _INTEGER)
        rows = _round_up(len(data), BLOCK)
        self.emit(Op.MATVEC, rows, K, src, dst, format, weights, scale, base, unit, start, in_state)

    def _weights(
        self, w: Matrix, data: NDArray[Any], format: Format, H: int
    ) -> tuple[int, int, int]:
        """Pack the weights -> (K in the format's groups, where they lie, operand `start`)."""
        columns = data.shape[1]
        if format == Format.FLOAT32:
            return columns, self.put("floats", pack(data.astype(np.float32))), 0
        if format == Format.FLOAT16:
            return columns, self.put("halves", pack(data).view(np.int16)), 0
        if format == Format.INT8:
            return columns, self.put("int8s", pack(data)), 0
        if format in _FOUR_BIT:
            assert w.scale is not None  # noqa: S101 - a valid matrix
            scales = self.put("floats", pack(_pad_gates(w.scale, H)))
            return -(-columns // GROUP), self.put("int8s", pack_nibbles(data)), scales
        start = 0
        if FLIP:
            sums = (FLIP * data.sum(axis=1, dtype=np.int64)).astype(np.int32)
            start = self.put("floats", sums.view(np.float32), BLOCK)
        data = np.pad(data, ((0, 0), (0, -columns % EACH)))
        return data.shape[1] // 4, self.put("int8s", pack(data, 4)), start

    def _quantized(self, x: _Vector, format: Format) -> tuple[int, int]:
        """Have x made integers -> (where they begin, where their unit stands), both in scratch."""
        key = (x.at, x.in_state, format)
        if key in self.integers:
            return self.integers[key]
        each, wide = (GROUP if format in _FOUR_BIT else EACH), _INTEGER[format] == "int16"
        groups = -(-x.width // each) * (2 if wide else 1)
        words = groups * each // 4 + (groups if format in _FOUR_BIT else 0)
        unit = self.scratch_room(PAD + words + PAD)
        fixed = self.put("floats", np.array([x.bound], np.float32))
        place = int(x.in_state)
        self.emit(Op.QUANTIZE, x.width, x.at, unit + PAD, unit, fixed, place, format)
        self.integers[key] = unit + PAD, unit
        return self.integers[key]

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
    widths, limits = value_widths(model), bounds(model)
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
        x = _Vector(asm.values[node.input], widths[node.input], limits[node.input])
        _assemble(node, asm, dims, x, dst)
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
        halves=np.concatenate([np.zeros(0, np.int16), *asm.halves]),
        floats=np.concatenate([np.zeros(0, np.float32), *asm.floats]),
        vocabularies=np.array(checks, np.int64).reshape(-1, 2),
        input_width=model.input_width,
        output_width=output_width,
        state_width=asm.state,
        state_words=np.concatenate([np.zeros(0, np.int64), *asm.words]),
        scratch_width=asm.scratch,
    )


@singledispatch
def _assemble(node: Node, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    raise NotImplementedError(node.OP)


@_assemble.register
def _(node: Rnn, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    H = dims["H"]
    h, g = asm.state_room(H), asm.scratch_room(H)
    asm.matvec(node.w, H, x, g, node.b, node.activations)
    asm.matvec(node.u, H, _Vector(h, H, bound(node), True), g, None, node.activations)
    asm.emit(Op.RNN, _round_up(H, PAD), g, h, ACTS.index(node.act))
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Lstm, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    H, P = dims["H"], _round_up(dims["H"], PAD)
    h, c, g = asm.state_room(H), asm.state_room(H), asm.scratch_room(4 * P)
    asm.matvec(node.w, H, x, g, node.b, node.activations)
    asm.matvec(node.u, H, _Vector(h, H, bound(node), True), g, None, node.activations)
    acts = (ACTS.index(a) for a in (node.gate, node.cell, node.hidden))
    asm.emit(Op.LSTM, P, g, h, c, *acts)
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Gru, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    H, P = dims["H"], _round_up(dims["H"], PAD)
    h, g = asm.state_room(H), asm.scratch_room(3 * P)
    gate, candidate = ACTS.index(node.gate), ACTS.index(node.candidate)
    recurrent = np.concatenate([np.zeros(2 * H, np.float32), node.rb])
    before, q = _Vector(h, H, bound(node), in_state=True), node.activations
    if node.reset == "after":
        u = asm.scratch_room(3 * P)
        asm.matvec(node.w, H, x, g, node.b, q)
        asm.matvec(node.u, H, before, u, recurrent, q)
        asm.emit(Op.GRU_AFTER, P, g, u, h, gate, candidate)
    else:
        rh = asm.scratch_room(P)
        asm.matvec(node.w, H, x, g, node.b + recurrent, q)
        asm.matvec(node.u.rows(0, 2 * H), H, before, g, None, q)
        asm.emit(Op.GRU_RESET, P, g, h, rh, gate)
        reset = _Vector(rh, H, bound(node))
        asm.matvec(node.u.rows(2 * H, 3 * H), H, reset, g + 2 * P, None, q)
        asm.emit(Op.GRU_BLEND, P, g, h, candidate)
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Dense, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    N = dims["N"]
    asm.matvec(node.w, N, x, dst, node.b, node.activations)
    asm.emit(Op.ACTIVATE, _round_up(N, PAD), dst, dst, ACTS.index(node.act))


@_assemble.register
def _(node: Embedding, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    table, scale = node.table.data, node.table.scale
    if scale is None:
        packed = (0, asm.put("floats", table.astype(np.float32)), 0)
    else:
        packed = (1, asm.put("int8s", table), asm.put("floats", scale))
    asm.emit(Op.EMBED, dims["D"], x.at, dst, *packed)


@_assemble.register
def _(node: Scale, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    places = (asm.put("floats", a) for a in (node.offset, node.scale, node.shift))
    asm.emit(Op.SCALE, dims["I"], x.at, dst, *places)


@_assemble.register
def _(node: Activation, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    asm.emit(Op.ACTIVATE, _round_up(dims["I"], PAD), x.at, dst, ACTS.index(node.act))


@_assemble.register
def _(node: Softmax, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    asm.emit(Op.SOFTMAX, dims["I"], x.at, dst)


@_assemble.register(Add)
@_assemble.register(Multiply)
def _(node: Add | Multiply, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    op = Op.SUM if isinstance(node, Add) else Op.PRODUCT
    src = x.at
    for name in node.others:
        asm.emit(op, _round_up(dims["I"], PAD), src, asm.values[name], dst)
        src = dst


@_assemble.register
def _(node: Concat, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    for name in reads(node):
        width = asm.widths[name]
        asm.emit(Op.COPY, width, asm.values[name], dst)
        dst += width


@_assemble.register
def _(node: Slice, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    asm.emit(Op.COPY, dims["N"], x.at + node.start, dst)


@_assemble.register
def _(node: Conv1d, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
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
        asm.emit(Op.ACTIVATE, _round_up(N, PAD), dst, dst, ACTS.index(node.act))
        return
    y, i, n = asm.scratch_room(N + BLOCK), I // groups, N // groups
    for g in range(groups):  # in order: a product fills whole blocks, over its neighbour's place
        seen = _Vector(asm.scratch_room(dims["K"]), dims["K"], x.bound)
        asm.emit(Op.TAPS, i, ring + g * i, seen.at, *window)
        w, b = node.w.rows(g * n, g * n + n), node.b[g * n : g * n + n]
        asm.matvec(w, n, seen, y + g * n, b, node.activations)
    asm.emit(Op.ACTIVATE, _round_up(N, PAD), y, dst, ACTS.index(node.act))


@_assemble.register
def _(node: Pool, asm: _Assembler, dims: dict[str, int], x: _Vector, dst: int) -> None:
    I, clock = dims["I"], asm.schedules[node.input]
    ring = asm.state_room(dims["R"])
    asm.emit(Op.PUSH, I, x.at, ring, node.kernel, *clock)
    asm.at(asm.schedules[node.name])
    asm.emit(Op.POOL, I, ring, dst, node.kernel, *clock, int(node.kind == "average"))
