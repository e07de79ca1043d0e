"""A model compiled to opcodes over flat arenas, for the one compiled runner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_rnn.assembler import Assembler, Vector
from edge_rnn.graph import F32, Embedding, Model, bounds, schedules, value_dimensions, value_widths
from edge_rnn.instructions import assemble
from edge_rnn.kernels import Op


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What the runner needs of a model.

    `code` int64, `int8s`, `halves` (float16 as int16) and `floats` the arenas of weights and
    parameters, `vocabularies` (embeddings, 2) the input column and size of each, widths in float32
    words; `state_words` are the places in a stream's state that are not padding, `windows` the most
    windows of a row that a product reads at once.
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
    windows: int


def compile_model(model: Model) -> Program:
    """The program of a valid model."""
    widths, limits = value_widths(model), bounds(model)
    asm = Assembler(widths, schedules(model))
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
        x = Vector(asm.values[node.input], widths[node.input], limits[node.input])
        assemble(node, asm, dims, x, dst)
    column = 0
    asm.at(model.schedule)
    for name in model.outputs:
        asm.emit(Op.STORE, widths[name], asm.values[name], column)
        column += widths[name]
    asm.emit(Op.END)
    return _link(asm, model, columns, column)


def _link(asm: Assembler, model: Model, columns: dict[str, int], output_width: int) -> Program:
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
        windows=asm.windows,
    )
