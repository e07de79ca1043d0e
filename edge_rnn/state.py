"""Streams and their states: stream id -> slot in one slab, least recently used out first.

Opening, touching and evicting a stream cost the same however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import CapacityError, InputError, StreamError
from edge_rnn.graph import F32
from edge_rnn.kernels import (
    ID,
    NAME,
    SLOT,
    enter,
    evict_order,
    find,
    leave,
    make_ids,
    touch,
    zeros,
)

_SLOT_BITS, _HANDLE = 0xFFFFFFFF, np.dtype(np.int64)
_empty = np.empty


class StreamState(msgspec.Struct, frozen=True, gc=False):
    """One stream's memory: its id, how many steps it has taken, its state's raw bytes
    (little-endian float32: every state vector of the model in order, without padding)."""

    stream: str
    steps: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Eviction:
    """A stream was forgotten: for room ("capacity") or after its idle time ("idle")."""

    stream: str
    steps: int
    reason: Literal["capacity", "idle"]


class StateStore:
    """Up to `capacity` streams of `width` float32 words each, of which those at `words` are the
    state and the others padding. A new stream's are `initial` (width,), by default zeros.

    A slot handle is generation << 32 | slot, so that the handle of an evicted stream is known
    from that of the stream that took its place. Ids are found by the kernels of
    `ids`, where many that are looked up together don't wait for memory one by one. Not thread-safe.
    """

    def __init__(
        self,
        width: int,
        words: NDArray[np.int64],
        capacity: int,
        ttl: float | None,
        on_evict: Callable[[Eviction], None] | None,
        initial: F32 | None = None,
    ) -> None:
        self.slab: F32 = zeros((capacity, width), np.float32)
        self.table = zeros(capacity + 1, SLOT)
        self.table[capacity]["newer"] = self.table[capacity]["older"] = capacity
        self._initial: F32 | float = 0.0 if initial is None else initial
        self.words, self.capacity, self.ttl, self.on_evict = words, capacity, ttl, on_evict
        self._names = zeros(capacity, NAME)
        self._index = zeros(1 << (2 * capacity - 1).bit_length(), np.int64)
        ids = make_ids(self._index, self._names, self.table, self.slab)
        self._find, self._enter, self._leave = (
            partial(entry.function, ids) for entry in (find, enter, leave)
        )
        self._alone = np.empty(1, _HANDLE)
        self._long: dict[int, str] = {}
        self._used, self._free = 0, list[int]()

    def __len__(self) -> int:
        return self._used - len(self._free)

    def streams(self) -> list[str]:
        """Ids of the open streams, least recently used first."""
        order = np.empty(len(self), np.int64)
        evict_order(self.table, order)
        return self._ids_at(order)

    def handles(self, streams: Sequence[str], now: float) -> NDArray[np.int64]:
        """Slot handles (B,) of the streams, opening those that are new.

        Raises CapacityError when they don't fit together, or InputError for an id that is no str,
        with nothing changed.
        """
        handles = _empty(len(streams), _HANDLE)
        return self._open(streams, now) if self._find(streams, handles) else handles

    def alone(self, stream: Sequence[str], now: float) -> NDArray[np.int64]:
        """`handles` of one stream, in an array that the next call fills anew."""
        if self._find(stream, self._alone):
            self._alone[:] = self._open(stream, now)
        return self._alone

    def handle(self, stream: str) -> int:
        """The handle of an open stream. Raises StreamError."""
        return int(self._known([stream])[0])

    def steps(self, stream: str) -> int:
        """How many steps an open stream has taken. Raises StreamError."""
        return int(self.table[self.handle(stream) & _SLOT_BITS]["steps"])

    def clear(self, stream: str) -> None:
        """Back to the initial state and step 0. Raises StreamError."""
        self._clear(self.handle(stream) & _SLOT_BITS)

    def clear_first(self, count: int) -> None:
        """`clear` of the streams that were opened first, if none was closed since."""
        self.slab[:count] = self._initial
        self.table["steps"][:count] = 0

    def close(self, stream: str) -> None:
        """Forget the stream. Raises StreamError."""
        self._close(_plain([stream])[0], self.handle(stream) & _SLOT_BITS)

    def _close(self, stream: str, slot: int) -> None:
        record = self.table[slot]
        self.table[record["newer"]]["older"] = record["older"]
        self.table[record["older"]]["newer"] = record["newer"]
        record["open"] = 0
        record["generation"] = (int(record["generation"]) + 1) & 0x7FFFFFFF
        self._leave(stream, slot)
        self._long.pop(slot, None)
        self._free.append(slot)

    def expire(self, now: float) -> None:
        """Evict every stream idle for longer than the TTL."""
        if self.ttl is None:
            return
        while len(self) and now - self.table[self._oldest()]["seen"] > self.ttl:
            self._evict("idle")

    def export(self, streams: Iterable[str]) -> list[StreamState]:
        """The states of open streams. Raises StreamError."""
        ids = list(streams)
        slots = self._known(ids) & _SLOT_BITS
        steps = self.table["steps"][slots].tolist()
        states = self.slab[slots[:, None], self.words].astype("<f4", copy=False).tobytes()
        size = 4 * len(self.words)
        return [
            StreamState(s, n, states[i * size : (i + 1) * size])
            for i, (s, n) in enumerate(zip(ids, steps, strict=True))
        ]

    def load(self, states: Sequence[StreamState], now: float) -> None:
        """Open the streams with these states, replacing what they had. Raises CapacityError."""
        handles = self.handles([s.stream for s in states], now)
        for s, handle in zip(states, handles, strict=True):
            self.slab[handle & _SLOT_BITS, self.words] = np.frombuffer(s.state, "<f4")
            self.table[handle & _SLOT_BITS]["steps"] = s.steps
        touch(self.table, handles, now)

    def _open(self, streams: Sequence[str], now: float) -> NDArray[np.int64]:
        ids = _plain(streams)
        distinct = list(dict.fromkeys(ids))
        if len(distinct) > self.capacity:
            raise CapacityError(
                f"{len(distinct)} streams in one call, the session's capacity is {self.capacity}"
            )
        handles = self._look_up(distinct)
        touch(self.table, handles[handles >= 0], now)
        for k in np.flatnonzero(handles < 0):
            self._open_one(distinct[k], now)
        return self._look_up(ids)

    def _look_up(self, ids: list[str]) -> NDArray[np.int64]:
        """Handles (B,), -1 where no stream is open."""
        handles = np.empty(len(ids), _HANDLE)
        self._find(ids, handles)
        return handles

    def _known(self, streams: Sequence[str]) -> NDArray[np.int64]:
        handles = self._look_up(_plain(streams))
        if (unknown := np.flatnonzero(handles < 0)).size:
            stream = streams[unknown[0]]
            raise StreamError(f"no open stream {stream!r}; {len(self)} streams are open")
        return handles

    def _open_one(self, stream: str, now: float) -> None:
        if len(self) == self.capacity:
            self._evict("capacity")
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._used = self._used, self._used + 1
        self._clear(slot)
        record = self.table[slot]
        record["open"], record["newer"], record["older"] = 1, slot, slot
        if self._enter(stream, slot):
            self._long[slot] = stream
        touch(self.table, np.array([slot], np.int64), now)

    def _clear(self, slot: int) -> None:
        self.slab[slot] = self._initial
        self.table[slot]["steps"] = 0

    def _ids_at(self, slots: NDArray[np.int64]) -> list[str]:
        text, sizes = self._names.view(np.uint8).data, self._names["size"][slots]
        first = slots * NAME.itemsize + ID
        return [
            self._long[slot] if begin > end else str(text[begin:end], "utf-8")
            for slot, begin, end in zip(
                slots.tolist(), first.tolist(), (first + sizes).tolist(), strict=True
            )
        ]

    def _oldest(self) -> int:
        return int(self.table[self.capacity]["newer"])

    def _evict(self, reason: Literal["capacity", "idle"]) -> None:
        slot = self._oldest()
        event = Eviction(self._ids_at(np.array([slot]))[0], int(self.table[slot]["steps"]), reason)
        self._close(event.stream, slot)
        if self.on_evict is not None:
            self.on_evict(event)


def _plain(streams: Iterable[str]) -> list[str]:
    """The ids without what a subclass of str adds. Raises InputError."""
    ids = list(streams)
    try:
        return [str.__str__(s) for s in ids]
    except TypeError:
        wrong = next(s for s in ids if not isinstance(s, str))
        raise InputError(
            f"stream id {wrong!r} is of type {type(wrong).__name__}, expected str"
        ) from None
