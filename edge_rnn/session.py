"""A model running: many streams, one hidden state each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_rnn.buffered import Buffered
from edge_rnn.errors import InputError, SnapshotError, StaleSlotError
from edge_rnn.graph import F32, Model, digest
from edge_rnn.hosted import Hosted
from edge_rnn.kernels import WRONG_TYPE, Status, explain, touch
from edge_rnn.program import Program, compile_model
from edge_rnn.state import Eviction, StateStore, StreamState
from edge_rnn.stepper import Engine, Marks, stepper
from edge_rnn.validation import validate

SNAPSHOT_SCHEMA = 1
MAX_STEPS = 1 << 62

_F32 = np.dtype(np.float32)  # a call that is given the type has to look this up
_ARRAY, _empty = np.ndarray, np.empty


class _Snapshot(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    model: str
    streams: list[StreamState]


def _planned(model: Model, max_batch: int) -> Program | Engine:
    """How the model is run."""
    if model.looks_ahead:
        return Buffered(model, max_batch)
    return compile_model(model) if model.foreign is None else Hosted(model)


class Session:
    """Steps many streams through one model, bit for bit as if each were alone.

    capacity: streams held at once; a new one beyond evicts the least recently used.
    max_batch: rows that may go through the program together; it bounds scratch memory and never
        changes a result.
    ttl: seconds after which `step`, `run` and `slots` evict an idle stream; None keeps it.
    clock: seconds, monotonic; a caller with a time of its own passes it here.
    on_evict: called with each `Eviction`, after it happened.

    Not thread-safe: one session, one thread.
    """

    def __init__(
        self,
        model: Model,
        capacity: int = 1000,
        max_batch: int = 256,
        *,
        ttl: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_evict: Callable[[Eviction], None] | None = None,
    ) -> None:
        if not 0 < capacity < 2**31 or max_batch < 1:
            raise ValueError(f"capacity {capacity} and max_batch {max_batch} must be positive")
        validate(model)
        self.model, self.capacity, self.max_batch = model, capacity, max_batch
        self.digest = digest(model)
        self._clock = clock
        self._plan = p = _planned(model, max_batch)
        initial = p.initial if isinstance(p, Program) else None
        self._store = StateStore(p.state_width, p.state_words, capacity, ttl, on_evict, initial)
        self._stepper = stepper(p, self._store, max_batch, None if ttl is None else clock)
        self._step_rows, self._outputs = self._stepper.step, p.output_width
        touch(self._store.table, np.empty(0, np.int64), 0.0)  # compiled or loaded now, not later

    @property
    def streams(self) -> list[str]:
        """Ids of the open streams, least recently used first."""
        return self._store.streams()

    @property
    def state_bytes(self) -> int:
        """Bytes of one stream's state in a snapshot; in memory whole vectors are kept."""
        return 4 * len(self._plan.state_words)

    def steps(self, stream: str) -> int:
        """How many steps the stream has taken. Raises StreamError."""
        return self._store.steps(stream)

    def step(self, streams: Sequence[str], x: ArrayLike) -> F32:
        """Step each stream by its row of x (B, I) -> y (B, O), float32.

        A row is NaN where its stream has no output at this step (see `Model.schedule`).
        New ids start from the initial state; an id that stands twice is stepped in order.
        Raises InputError or CapacityError, with no stream stepped.
        """
        return self._step(streams, self._rows(x))

    def run(self, stream: str, x: ArrayLike) -> F32:
        """Step one stream by every row of x (T, I) in order -> y (n, O), continuing its state.

        n is T, or how many of the steps have an output (see `Model.schedule`).
        """
        rows = self._rows(x)
        emitted = np.empty(len(rows), np.bool_)
        return self._step([stream] * len(rows), rows, emitted)[emitted]

    def slots(self, streams: Sequence[str]) -> NDArray[np.int64]:
        """Handles (B,) for `step_slots`, valid until the stream is evicted or closed.

        Raises CapacityError.
        """
        now = self._clock()
        self._store.expire(now)
        return self._store.handles(streams, now)

    def step_slots(
        self,
        slots: NDArray[np.int64],
        x: F32,
        out: F32,
        emitted: Marks | None = None,
    ) -> None:
        """`step` without the id look-up: slots int64 (B,), x float32 (B, I), out float32 (B, O).

        `emitted` (B,), bool or uint8, is filled with which rows have an output. All are
        C-contiguous. Raises StaleSlotError or InputError, with no stream stepped.
        """
        if emitted is None:
            fault = self._step_rows(slots, x, out)
        else:
            fault = self._step_marking(slots, x, out, emitted)
        if fault:
            self._refuse(fault, slots, x, out)

    def reset(self, stream: str) -> None:
        """Put the stream back to its initial state and step 0. Raises StreamError."""
        self._store.clear(stream)

    def close(self, stream: str) -> None:
        """Forget the stream. Raises StreamError."""
        self._store.close(stream)

    def states(self, streams: Iterable[str] | None = None) -> list[StreamState]:
        """The states of the streams, of all open ones if None. Raises StreamError."""
        return self._store.export(self.streams if streams is None else streams)

    def load_states(self, states: Sequence[StreamState]) -> None:
        """Open streams with these states, replacing what they had.

        Raises SnapshotError or CapacityError, with nothing loaded.
        """
        for s in states:
            if len(s.state) != self.state_bytes or not 0 <= s.steps < MAX_STEPS:
                raise SnapshotError(
                    f"stream {s.stream!r}: {len(s.state)} bytes of state at step {s.steps}, "
                    f"this model's streams have {self.state_bytes}"
                )
        if len({s.stream for s in states}) != len(states):
            raise SnapshotError("a stream stands twice")
        self._store.load(states, self._clock())

    def snapshot(self, streams: Iterable[str] | None = None) -> bytes:
        """The streams' states (all if None) with this model's digest. Raises StreamError."""
        return msgspec.msgpack.encode(_Snapshot(SNAPSHOT_SCHEMA, self.digest, self.states(streams)))

    def restore(self, blob: bytes) -> list[str]:
        """Load a snapshot's streams, replacing those of the same id; returns their ids.

        Raises SnapshotError if it is damaged, of another schema or of another model, or
        CapacityError; nothing is loaded then.
        """
        try:
            snapshot = msgspec.msgpack.decode(blob, type=_Snapshot)
        except msgspec.MsgspecError as e:
            raise SnapshotError(f"not a snapshot, or a damaged one: {e}") from e
        if snapshot.schema != SNAPSHOT_SCHEMA:
            raise SnapshotError(f"snapshot schema {snapshot.schema}, expected {SNAPSHOT_SCHEMA}")
        if snapshot.model != self.digest:
            raise SnapshotError(
                f"snapshot of model {snapshot.model[:12]}, this session runs {self.digest[:12]}"
            )
        self.load_states(snapshot.streams)
        return [s.stream for s in snapshot.streams]

    def _step(
        self, streams: Sequence[str], rows: F32, emitted: NDArray[np.bool_] | None = None
    ) -> F32:
        B = len(streams)
        if len(rows) != B:
            raise InputError(f"{B} streams for {len(rows)} rows of x")
        y = _empty((B, self._outputs), _F32)
        now, store = self._clock(), self._store
        if store.ttl is not None:
            store.expire(now)
        slots = store.alone(streams, now) if B == 1 else store.handles(streams, now)
        if emitted is None:
            fault = self._step_rows(slots, rows, y)
        else:
            fault = self._step_marking(slots, rows, y, emitted)
        if fault == WRONG_TYPE:  # not C-contiguous or not writable
            return self._step(streams, rows.copy(), emitted)
        if fault:
            self._refuse(fault, slots, rows, y)
        return y

    def _step_marking(
        self,
        slots: NDArray[np.int64],
        x: F32,
        out: F32,
        emitted: Marks,
    ) -> int:
        good = emitted.dtype in (np.bool_, np.uint8) and emitted.flags.carray
        if emitted.shape != (len(slots),) or not good:
            raise InputError(
                f"emitted {emitted.dtype} {emitted.shape}: expected bool or uint8 ({len(slots)},), "
                "C-contiguous and writable"
            )
        return self._stepper.mark(slots, x, out, emitted)

    def _rows(self, x: ArrayLike) -> F32:
        if type(x) is _ARRAY and x.dtype is _F32 and x.ndim == 2:
            return x  # its width and its place in memory are the runner's to check
        with np.errstate(over="ignore"):  # a float64 too large for float32 is refused as infinite
            try:
                rows: F32 = np.require(x, np.float32, ["C", "W"])
            except (TypeError, ValueError) as e:
                raise InputError(f"x is not an array of numbers: {e}") from e
        if rows.ndim != 2 or rows.shape[1] != self._plan.input_width:
            raise InputError(f"x has shape {rows.shape}, expected (rows, {self._plan.input_width})")
        return rows

    def _refuse(self, fault: int, slots: NDArray[np.int64], x: F32, out: F32) -> NoReturn:
        status, row, column = explain(fault)
        if status == Status.TYPE:
            raise InputError(
                f"slots {slots.dtype}, x {x.dtype}, out {out.dtype}: expected int64, float32, "
                "float32, C-contiguous and writable arrays"
            )
        if status == Status.SHAPE:
            p, rows = self._plan, len(slots)
            raise InputError(
                f"x {x.shape} and out {out.shape} for {rows} slots: "
                f"expected ({rows}, {p.input_width}) and ({rows}, {p.output_width})"
            )
        if status == Status.STALE_SLOT:
            raise StaleSlotError(f"row {row}: its stream was evicted or closed; ask `slots` again")
        names = [f.name for f in self.model.features] or [f"x[{i}]" for i in range(x.shape[1])]
        value, wanted = x[row, column], "a finite number"
        if status == Status.BAD_INDEX:
            sizes = dict(self._plan.vocabularies.tolist())
            wanted = f"a whole number from 0 to {sizes[column] - 1}"
        raise InputError(f"row {row}: {names[column]} is {value}, expected {wanted}")
