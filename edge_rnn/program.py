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
    Dense,
    Embedding,
    Gru,
    Lstm,
    Matrix,
    Model,
    Node,
    Rnn,
    Scale,
    Softmax,
    dimensions,
    value_widths,
)
from edge_rnn.kernels.opcodes import ADD, Op


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What the runner needs of a model.

    `code` int64, `int8s` and `floats` the arenas of weights and parameters, `vocabularies`
    (embeddings, 2) the input column and size of each, widths in float32 words.
    """

    code: NDArray[np.int64]
    int8s: NDArray[np.int8]
    floats: F32
    vocabularies: NDArray[np.int64]
    input_width: int
    output_width: int
    state_width: int
    scratch_width: int


@dataclass(slots=True)
class _Assembler:
    """Arenas under construction; the scratch begins with room for the widest product's sums."""

    scratch: int
    code: list[int] = field(default_factory=list)
    int8s: list[NDArray[np.int8]] = field(default_factory=list)
    floats: list[F32] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: {"int8s": 0, "floats": 0})
    state: int = 0
    values: dict[str, int] = field(default_factory=dict)

    def emit(self, op: Op, *operands: int) -> None:
        self.code += [op, *operands]

    def scratch_room(self, n: int) -> int:
        self.scratch += n
        return self.scratch - n

    def state_room(self, n: int) -> int:
        self.state += n
        return self.state - n

    def put(self, arena: str, a: NDArray[Any]) -> int:
        getattr(self, arena).append(np.ascontiguousarray(a).reshape(-1))
        self.sizes[arena] += a.size
        return self.sizes[arena] - a.size

    def matrix(self, data: NDArray[Any], scale: F32 | None) -> tuple[int, int, int]:
        """(int8?, offset of the weights, offset of the scales)."""
        if scale is not None:
            return 1, self.put("int8s", data), self.put("floats", scale)
        return 0, self.put("floats", data.astype(np.float32)), 0

    def matvec(self, w: Matrix, src: int, dst: int, bias: F32 | None, op: Op = Op.MATVEC) -> None:
        """dst = w src + bias, or dst += w src without a bias; weights packed by columns."""
        rows, columns = w.data.shape
        packed = self.matrix(w.data.T, w.scale)
        start = ADD if bias is None else self.put("floats", bias)
        self.emit(op, rows, columns, src, dst, *packed, start)


def compile_model(model: Model) -> Program:
    """The program of a valid model."""
    widths = value_widths(model)
    asm = _Assembler(scratch=_widest_product(model))
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
        scratch_width=asm.scratch,
    )


def _widest_product(model: Model) -> int:
    rows = [
        len(m.data)
        for n in model.nodes
        for m in (getattr(n, "w", None), getattr(n, "u", None))
        if m
    ]
    return max(rows, default=0)


@singledispatch
def _assemble(node: Node, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    raise NotImplementedError(node.OP)


@_assemble.register
def _(node: Rnn, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    H = dims["H"]
    h, g = asm.state_room(H), asm.scratch_room(H)
    asm.matvec(node.w, src, g, node.b)
    asm.matvec(node.u, h, g, None, Op.MATVEC_STATE)
    asm.emit(Op.RNN, H, g, h, ACTS.index(node.act))
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Lstm, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    H = dims["H"]
    h, c, g = asm.state_room(H), asm.state_room(H), asm.scratch_room(4 * H)
    asm.matvec(node.w, src, g, node.b)
    asm.matvec(node.u, h, g, None, Op.MATVEC_STATE)
    acts = (ACTS.index(a) for a in (node.gate, node.cell, node.hidden))
    asm.emit(Op.LSTM, H, g, h, c, *acts)
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Gru, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    H = dims["H"]
    h, g = asm.state_room(H), asm.scratch_room(3 * H)
    gate, candidate = ACTS.index(node.gate), ACTS.index(node.candidate)
    recurrent = np.concatenate([np.zeros(2 * H, np.float32), node.rb])
    if node.reset == "after":
        u = asm.scratch_room(3 * H)
        asm.matvec(node.w, src, g, node.b)
        asm.matvec(node.u, h, u, recurrent, Op.MATVEC_STATE)
        asm.emit(Op.GRU_AFTER, H, g, u, h, gate, candidate)
    else:
        rh = asm.scratch_room(H)
        asm.matvec(node.w, src, g, node.b + recurrent)
        asm.matvec(node.u.rows(0, 2 * H), h, g, None, Op.MATVEC_STATE)
        asm.emit(Op.GRU_RESET, H, g, h, rh, gate)
        asm.matvec(node.u.rows(2 * H, 3 * H), rh, g + 2 * H, None)
        asm.emit(Op.GRU_BLEND, H, g, h, candidate)
    asm.emit(Op.COPY_STATE, H, h, dst)


@_assemble.register
def _(node: Dense, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    asm.matvec(node.w, src, dst, node.b)
    asm.emit(Op.ACTIVATE, dims["N"], dst, dst, ACTS.index(node.act))


@_assemble.register
def _(node: Embedding, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    asm.emit(Op.EMBED, dims["D"], src, dst, *asm.matrix(node.table.data, node.table.scale))


@_assemble.register
def _(node: Scale, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    places = (asm.put("floats", a) for a in (node.offset, node.scale, node.shift))
    asm.emit(Op.SCALE, dims["I"], src, dst, *places)


@_assemble.register
def _(node: Activation, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    asm.emit(Op.ACTIVATE, dims["I"], src, dst, ACTS.index(node.act))


@_assemble.register
def _(node: Softmax, asm: _Assembler, dims: dict[str, int], src: int, dst: int) -> None:
    asm.emit(Op.SOFTMAX, dims["I"], src, dst)
