"""A model compiled to opcodes over flat arenas, for the one compiled runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_rnn.assembler import Assembler, Vector
from edge_rnn.graph import (
    F32,
    Embedding,
    Model,
    Schedule,
    bounds,
    initial_state,
    output_schedule,
    schedules,
    value_dimensions,
    value_widths,
)
from edge_rnn.instructions import assemble
from edge_rnn.kernels import Op, joined


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What the runner needs of a model.

    `code` int64, `int8s`, `halves` (float16 as int16) and `floats` the arenas of weights and
    parameters, `vocabularies` (embeddings, 2) the input column and size of each, widths in float32
    words; `state_words` are the places in a stream's state that are not padding, `initial`
    (state_width,) is what a stream's state begins as, `windows` the most
    windows of a row that a product reads at once; `regime` says how a stream is cut into windows
    (see `opcodes.PHASES`).
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
    initial: F32
    scratch_width: int
    windows: int
    regime: NDArray[np.int64]

    @property
    def phases(self) -> int:
        """Windows that a stream may be in at once, each with a state of its own; 0 without any."""
        return int(self.regime[0])


def compile_model(model: Model) -> Program:
    """The program of a valid model that does not look ahead."""
    asm, columns = _assembled(model, {})
    rows, kept = output_schedule(model), -1
    answers = rows
    if model.window is not None and not model.window.every:
        answers = Schedule(model.schedule.first, model.window.length)
        kept = -1 if model.mask is None else _keep(asm, model, rows)
    _store(asm, model, dict.fromkeys(model.outputs, answers))
    return _link(asm, model, columns, answers, kept)


def compile_part(model: Model, limits: Mapping[str, float]) -> Program:
    """The program of a part of a model, whose inputs have these `bounds`: each of its outputs is in
    y at the steps of its own schedule, and something else at others."""
    asm, columns = _assembled(model, limits)
    _store(asm, model, asm.schedules)
    return _link(asm, model, columns, Schedule(), -1)


def _assembled(model: Model, limits: Mapping[str, float]) -> tuple[Assembler, dict[str, int]]:
    """The nodes' instructions, and the column of each input."""
    widths, limits = value_widths(model), bounds(model, limits)
    asm = Assembler(widths, schedules(model))
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
    return asm, columns


def _keep(asm: Assembler, model: Model, rows: Schedule) -> int:
    """Keep the outputs in the state, for a window's end that is masked -> where."""
    at = kept = asm.state_room(1 + model.output_width)
    asm.at(rows)
    for name in model.outputs:
        asm.emit(Op.KEEP, asm.widths[name], asm.values[name], at + 1)
        at += asm.widths[name]
    return kept


def _store(asm: Assembler, model: Model, there: Mapping[str, Schedule]) -> None:
    column = 0
    for name in model.outputs:
        asm.at(there[name])
        asm.emit(Op.STORE, asm.widths[name], asm.values[name], column)
        column += asm.widths[name]
    asm.emit(Op.END)


def _link(
    asm: Assembler, model: Model, columns: dict[str, int], answers: Schedule, kept: int
) -> Program:
    checks = [
        (columns[n.input], len(n.table.data)) for n in model.nodes if isinstance(n, Embedding)
    ]
    mask = -1 if model.mask is None else asm.put("floats", np.array([model.mask], np.float32))
    w, words = model.window, np.concatenate([np.zeros(0, np.int64), *asm.words])
    windows = (0, 0, 0) if w is None else (w.phases, w.hop, w.length)
    states = asm.state * np.arange(max(1, windows[0]))
    first = np.zeros(asm.state, np.float32)
    given = initial_state(model)
    first[words[: len(given)]] = given
    begin = asm.put("floats", first) if windows[0] and first.any() else -1
    return Program(
        code=np.array([Op.EMIT, *answers, *asm.code], np.int64),
        int8s=joined(asm.int8s, np.int8),
        halves=joined(asm.halves, np.int16),
        floats=joined(asm.floats, np.float32),
        vocabularies=np.array(checks, np.int64).reshape(-1, 2),
        input_width=model.input_width,
        output_width=model.output_width,
        state_width=asm.state * len(states),
        state_words=(states[:, None] + words).reshape(-1),
        initial=np.tile(first, len(states)),
        scratch_width=asm.scratch,
        windows=asm.windows,
        regime=np.array([*windows, asm.state, kept, mask, begin], np.int64),
    )
