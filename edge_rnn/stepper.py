"""What steps the streams of a session: the compiled runner, or an engine of another kind.

A `Session` holds ids, slots and states; how a row of x changes a stream's state, which is float32
words in the store's slab, and what it answers, is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn.kernels import PLACES, WRONG_TYPE, Status, admit, emit_to, make_context, step, zeros
from edge_rnn.program import Program
from edge_rnn.state import StateStore

Marks: TypeAlias = NDArray[np.uint8] | NDArray[np.bool_]
Clock: TypeAlias = Callable[[], float]

_NOTHING = np.empty(0, np.uint8)
_CHUNK, _FEWEST, _TILE = 1 << 16, 32, 4
"""Rows go through the program in chunks whose scratch is about this many bytes, so that it stays in
a near cache; at least this many rows, so that weights are worth their loading; whole tiles of rows
that share a load."""


class Engine(Protocol):
    """Runs a model by other means than the compiled runner.

    `state_width` float32 words are a stream's state, zero at first, of which those at `state_words`
    are not padding; `vocabularies` (n, 2) are the columns of x that hold an index, with its bound.
    """

    input_width: int
    output_width: int
    state_width: int
    state_words: NDArray[np.int64]
    vocabularies: NDArray[np.int64]

    def run(
        self, states: F32, slots: NDArray[np.int64], steps: NDArray[np.int64], x: F32, out: F32,
        emitted: Marks,
    ) -> None:  # fmt: skip
        """Step the rows of x (B, I) in order into out (B, O); all rows were checked.

        Row i is message steps[i], counted from 0, of the stream whose state is states[slots[i]],
        which is changed in place; a slot may stand more than once. `emitted` (B,) says which rows
        have an output, a row of out without one is NaN.
        """


class Stepper(Protocol):
    """Steps rows whose slots are handles (see `StateStore`); counts steps and touches slots.

    Both return 0 or what `kernels.explain` tells of the first bad row: nothing was stepped then.
    """

    def step(self, slots: NDArray[np.int64], x: F32, out: F32) -> int:
        """Step the streams at `slots` (B,) by the rows of x (B, I) into out (B, O)."""

    def mark(self, slots: NDArray[np.int64], x: F32, out: F32, emitted: Marks) -> int:
        """`step`, and fill in which rows have an output."""


def stepper(
    plan: Program | Engine, store: StateStore, max_batch: int, clock: Clock | None
) -> Stepper:
    """What steps the streams of the store as planned, and notes when where there is a `clock`."""
    if isinstance(plan, Program):
        return Compiled(plan, store, max_batch, clock)
    return Driven(plan, store, clock)


class Compiled:
    """Steps by the compiled runner; without a clock `step` is the runner itself, for that is called
    per message."""

    def __init__(
        self, p: Program, store: StateStore, max_batch: int, clock: Clock | None = None
    ) -> None:
        at_once = max(1, p.phases)
        rows = min(
            max_batch,
            store.capacity,
            max(_FEWEST, _CHUNK // (4 * p.scratch_width) // _TILE * _TILE),
        )
        rows = max(rows, at_once)
        arrays = (p.code, p.int8s, p.halves, p.floats, p.vocabularies, p.regime)
        room = (
            zeros((rows, p.scratch_width), np.float32),
            np.zeros((2 * PLACES, rows), np.int64),
            np.zeros((2, rows * p.windows), np.int64),
        )
        self._alive = arrays, store.slab, store.table, room
        self._context = make_context(
            *arrays, store.slab, store.table, *room, p.input_width, p.output_width
        )
        run = partial(step.function, self._context)
        self.step: Callable[[NDArray[np.int64], F32, F32], int] = (
            partial(run, 0.0)
            if clock is None
            else lambda slots, x, out: run(clock(), slots, x, out)
        )

    def mark(self, slots: NDArray[np.int64], x: F32, out: F32, emitted: Marks) -> int:
        """See `Stepper`."""
        emit_to(self._context, emitted.view(np.uint8))
        try:
            return int(self.step(slots, x, out))
        finally:
            emit_to(self._context, _NOTHING)


class Driven:
    """Steps by an engine."""

    def __init__(self, engine: Engine, store: StateStore, clock: Clock | None) -> None:
        self._engine, self._store, self._now = engine, store, clock or float
        self._sizes = engine.vocabularies.reshape(-1)

    def step(self, slots: NDArray[np.int64], x: F32, out: F32) -> int:
        """See `Stepper`."""
        return self.mark(slots, x, out, np.empty(len(slots), np.bool_))

    def mark(self, slots: NDArray[np.int64], x: F32, out: F32, emitted: Marks) -> int:
        """See `Stepper`."""
        engine, store, rows = self._engine, self._store, len(slots)
        if x.shape != (rows, engine.input_width) or out.shape != (rows, engine.output_width):
            return int(Status.SHAPE)
        if not all(a.dtype == np.float32 and a.flags.carray for a in (x, out)):
            return WRONG_TYPE
        steps = np.empty(rows, np.int64)
        fault = int(admit(store.table, slots, self._now(), self._sizes, x, steps))
        if rows and not fault:
            engine.run(store.slab, slots & 0xFFFFFFFF, steps, x, out, emitted)
        return fault
