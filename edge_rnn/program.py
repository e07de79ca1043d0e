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
    CoupledLstm,
    Dense,
    Embedding,
    Gru,
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Lru,
    Lstm,
    Matrix,
    MinGru,
    Model,
    Node,
    NormGru,
    NormLstm,
    PRelu,
    RmsNorm,
    Rnn,
    Scale,
    Softmax,
    dimensions,
    value_widths,
)
from edge_rnn.kernels.norms import PARTIALS
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
    """Arenas and a row's scratch and state under construction, all in whole vectors."""

    code: list[int] = field(default_factory=list)
    int8s: list[NDArray[np.int8]] = field(default_factory=list)
    floats: list[F32] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: {"int8s": 0, "floats": 0})
    scratch: int = 0
    state: int = 0
    words: list[int] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)

    def emit(self, op: Op, *operands: int) -> None:
        self.code += [op, *operands]

    def scratch_room(self, n: int) -> int:
        start = self.scratch
        self.scratch += _round_up(n, BLOCK)
        return start

    def state_room(self, n: int) -> int:
        start = self.state
        self.words += range(start, start + n)
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

    def activate(self, act: str, P: int, place: int) -> None:
        """Activate P words of scratch in place."""
        self.emit(Op.ACTIVATE, P, place, place, ACTS.index(act))

    def standardise(self, n: int, src: int, dst: int, epsilon: float, runs: int = 1) -> None:
        """dst = (src - mean) / sqrt(var + epsilon) over runs of n, each in whole vectors."""
        eps = self.put("floats", np.array([epsilon], np.float32))
        sums, P = self.scratch_room(PARTIALS), _round_up(n, PAD)
        self.emit(Op.STANDARDISE, n, src, dst, sums, eps, P, runs)

    def affine(self, gain: F32, n: int, src: int, dst: int, bias: F32 | None) -> None:
        """dst = gain src + bias, or dst += gain src without a bias, in runs of n."""
        padded = _pad_gates(gain, n)
        shift = ADD if bias is None else self.put("floats", _pad_gates(bias, n))
        self.emit(Op.AFFINE, len(padded), src, dst, self.put("floats", padded), shift)


def compile_model(model: Model) -> Program:
    """The program of a valid model."""
    widths = value_widths(model)
    asm = _Assembler()
    column, columns = 0, {}
    for i in model.inputs:
        asm.values[i.name] = asm.scratch_room(i.width)
        asm.emit(Op.LOAD, i.width, column, asm.values[i.name])
        columns[i.name] = column
        column += i.width
    for node in model.nodes:
        dims = dimensions(node, widths[node.input])
        dst = asm.values[node.name] = asm.scratch_room(dims[node.OUTPUT])
        _assemble(node, asm, dims, asm.values[node.input], dst)
    column = 0
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
        state_words=np.array(asm.words, np.int64),
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
    if node.peephole is not None or node.projection is not None:
        return _general_lstm(node, asm, dims, src, dst)
    H, P = dims["H"], _round_up(dims["H"], PAD)
    h, c, g = asm.state_room(H), asm.state_room(H), asm.scratch_room(4 * P)
    asm.matvec(node.w, H, src, g, node.b)
    asm.matvec(node.u, H, h, g, None, Op.MATVEC_STATE)
    acts = (ACTS.index(a) for a in (node.gate, node.cell, node.hidden))
    asm.emit(Op.LSTM, P, g, h, c, *acts)
    asm.emit(Op.COPY_STATE, H, h, dst)
    return None


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
    asm.activate(node.act, _round_up(N, PAD), dst)


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
    asm.emit(Op.SOFTMAX, dims["I"], src, dst, asm.scratch_room(PARTIALS))


@_assemble.register(CoupledLstm)
@_assemble.register(NormLstm)
def _general_lstm(node: Lstm, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    """An LSTM with any of its options, from small instructions; m is c, then what h is made of."""
    H, R, P = dims["H"], dims["R"], _round_up(dims["H"], PAD)
    h, c, g = asm.state_room(R), asm.state_room(H), asm.scratch_room(len(node.GATES) * P)
    m = dst if node.projection is None else asm.scratch_room(P)
    _lstm_sums(node, asm, H, src, h, g)
    asm.emit(Op.COPY_STATE, H, c, m)
    for name in node.GATES[:-1]:
        _complete_gate(node, asm, name, H, g, m)
    candidate, o = (g + node.GATES.index(name) * P for name in "go")
    asm.activate(node.gate, candidate - g, g)
    asm.activate(node.cell, P, candidate)
    asm.emit(Op.LSTM_CELL, P, g, c, m, int("f" not in node.GATES))
    _normalise_cell(node, asm, H, m, c, "normalised")
    _complete_gate(node, asm, "o", H, g, m)
    _normalise_cell(node, asm, H, m, c, "raw")
    asm.activate(node.gate, P, o)
    asm.activate(node.hidden, P, m)
    asm.emit(Op.MULTIPLY, P, o, m)
    if node.projection is not None:
        asm.matvec(node.projection, R, m, dst, np.zeros(R, np.float32))
    asm.emit(Op.KEEP, R, dst, h)


def _lstm_sums(node: Lstm, asm: _Assembler, H: int, src: int, h: int, g: int) -> None:
    """At g every gate's sum of products, with all that can be added before c is known."""
    nothing = np.zeros(len(node.b), np.float32)
    if not isinstance(node, NormLstm) or node.recurrent_gain is None:
        asm.matvec(node.w, H, src, g, nothing if isinstance(node, NormLstm) else node.b)
        asm.matvec(node.u, H, h, g, None, Op.MATVEC_STATE)
        return
    u = asm.scratch_room(4 * _round_up(H, PAD))
    asm.matvec(node.w, H, src, g, nothing)
    asm.standardise(H, g, g, node.epsilon, runs=4)
    asm.affine(node.gain, H, g, g, node.b)
    asm.matvec(node.u, H, h, u, nothing, Op.MATVEC_STATE)
    asm.standardise(H, u, u, node.epsilon, runs=4)
    asm.affine(node.recurrent_gain, H, u, g, None)


def _complete_gate(node: Lstm, asm: _Assembler, gate: str, H: int, g: int, m: int) -> None:
    """Add the gate's peephole, which sees the cell at m, and normalise a gate of its own."""
    k = node.GATES.index(gate)
    at = g + k * _round_up(H, PAD)
    if node.peephole is not None and gate != "g":
        k_p = node.GATES.replace("g", "").index(gate)
        asm.affine(node.peephole[k_p * H : (k_p + 1) * H], H, m, at, None)
    if isinstance(node, NormLstm) and node.recurrent_gain is None:
        asm.standardise(H, at, at, node.epsilon)
        part = slice(k * H, (k + 1) * H)
        asm.affine(node.gain[part], H, at, at, node.b[part])


def _normalise_cell(node: Lstm, asm: _Assembler, H: int, m: int, c: int, carried: str) -> None:
    """Normalise the new cell at m, if the node does so and carries on that sort of cell."""
    if isinstance(node, NormLstm) and node.cell_norm is not None and node.carried == carried:
        asm.standardise(H, m, m, node.epsilon)
        asm.affine(node.cell_norm[:H], H, m, m, node.cell_norm[H:])
        if carried == "normalised":
            asm.emit(Op.KEEP, H, m, c)


@_assemble.register
def _(node: NormGru, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    H, P = dims["H"], _round_up(dims["H"], PAD)
    h, g, u = asm.state_room(H), asm.scratch_room(3 * P), asm.scratch_room(3 * P)
    nothing = np.zeros(3 * H, np.float32)
    asm.matvec(node.w, H, src, g, nothing)
    asm.matvec(node.u, H, h, u, nothing, Op.MATVEC_STATE)
    for products in (g, u):
        asm.standardise(H, products, products, node.epsilon, runs=len(node.over))
        if node.over == "zr":
            asm.standardise(H, products + 2 * P, products + 2 * P, node.epsilon)
    asm.affine(node.gain, H, g, g, node.b)
    recurrent = np.concatenate([np.zeros(2 * H, np.float32), node.rb])
    asm.affine(node.recurrent_gain, H, u, u, recurrent)
    asm.emit(Op.GRU_AFTER, P, g, u, h, ACTS.index(node.gate), ACTS.index(node.candidate))
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: MinGru, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    H, P = dims["H"], _round_up(dims["H"], PAD)
    h, g = asm.state_room(H), asm.scratch_room(2 * P)
    asm.matvec(node.w, H, src, g, node.b)
    asm.activate(node.gate, P, g)
    asm.activate(node.candidate, P, g + P)
    asm.emit(Op.MIN_GRU, P, g, h)
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Lru, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    N, M, P = dims["N"], dims["M"], _round_up(dims["N"], PAD)
    re, im = asm.state_room(N), asm.state_room(N)
    b_re = asm.scratch_room(P + _round_up(N, BLOCK))
    asm.matvec(node.b_re, N, src, b_re, np.zeros(N, np.float32))
    asm.matvec(node.b_im, N, src, b_re + P, np.zeros(N, np.float32))
    places = (asm.put("floats", a, PAD) for a in (node.lambda_re, node.lambda_im))
    asm.emit(Op.LRU, P, b_re, re, im, *places)
    asm.matvec(node.c_re, M, re, dst, np.zeros(M, np.float32), Op.MATVEC_STATE)
    minus = Matrix(-node.c_im.data, node.c_im.scale)
    asm.matvec(minus, M, im, dst, None, Op.MATVEC_STATE)
    if node.d is not None:
        asm.matvec(node.d, M, src, dst, None)
    if node.diagonal is not None:
        asm.affine(node.diagonal, M, src, dst, None)


@_assemble.register
def _(node: LayerNorm, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    asm.standardise(dims["I"], src, dst, node.epsilon)
    asm.affine(node.gain, dims["I"], dst, dst, node.bias)


@_assemble.register
def _(node: RmsNorm, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    eps = asm.put("floats", np.array([node.epsilon], np.float32))
    asm.emit(Op.RMS, dims["I"], src, dst, asm.scratch_room(PARTIALS), eps)
    asm.affine(node.gain, dims["I"], dst, dst, np.zeros(dims["I"], np.float32))


@_assemble.register
def _(node: L2Norm, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    eps = asm.put("floats", np.array([node.epsilon], np.float32))
    asm.emit(Op.L2, dims["I"], src, dst, asm.scratch_room(PARTIALS), eps)


@_assemble.register
def _(node: LogSoftmax, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    asm.emit(Op.LOG_SOFTMAX, dims["I"], src, dst, asm.scratch_room(PARTIALS))


@_assemble.register
def _(node: PRelu, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    slope = asm.put("floats", node.slope, PAD)
    asm.emit(Op.PRELU, _round_up(dims["I"], PAD), src, dst, slope)
