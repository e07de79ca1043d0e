"""Streams and their states: stream id -> slot in one slab, least recently used out first.

Opening, touching and evicting a stream cost the same however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import CapacityError, StreamError
from edge_rnn.graph import F32
from edge_rnn.kernels import SLOT, evict_order, touch, zeros

_SLOT_BITS, _HANDLE = 0xFFFFFFFF, np.dtype(np.int64)


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
    from that of the stream that took its place. Not thread-safe.
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
        self.table = np.zeros(capacity + 1, SLOT)
        self.table[capacity]["newer"] = self.table[capacity]["older"] = capacity
        self._initial: F32 | float = 0.0 if initial is None else initial
        self.words, self.capacity, self.ttl, self.on_evict = words, capacity, ttl, on_evict
        self._handles: dict[str, int] = {}
        self._alone = np.empty(1, _HANDLE)
        self._names: list[str] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._handles)

    def streams(self) -> list[str]:
        """Ids of the open streams, least recently used first."""
        order = np.empty(len(self), np.int64)
        evict_order(self.table, order)
        return [self._names[slot] for slot in order]

    def handles(self, streams: Sequence[str], now: float) -> NDArray[np.int64]:
        """Slot handles (B,) of the streams, opening those that are new.

        Raises CapacityError, with nothing changed, when they don't fit together.
        """
        known = self._handles
        try:
            return np.fromiter(map(known.__getitem__, streams), _HANDLE, len(streams))
        except KeyError:
            return self._open(streams, now)

    def alone(self, stream: str, now: float) -> NDArray[np.int64]:
        """`handles` of one stream, in an array that the next call fills anew."""
        handle = self._handles.get(stream)
        self._alone[0] = self._open([stream], now)[0] if handle is None else handle
        return self._alone

    def handle(self, stream: str) -> int:
        """The handle of an open stream. Raises StreamError."""
        if stream not in self._handles:
            raise StreamError(f"no open stream {stream!r}; {len(self)} streams are open")
        return self._handles[stream]

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
        slot = self.handle(stream) & _SLOT_BITS
        record = self.table[slot]
        self.table[record["newer"]]["older"] = record["older"]
        self.table[record["older"]]["newer"] = record["newer"]
        record["open"] = 0
        record["generation"] = (int(record["generation"]) + 1) & 0x7FFFFFFF
        del self._handles[stream]
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
        known = self._handles
        handles = [known[s] if s in known else self.handle(s) for s in ids]
        slots = np.array(handles, np.int64) & _SLOT_BITS
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
        distinct = dict.fromkeys(streams)
        if len(distinct) > self.capacity:
            raise CapacityError(
                f"{len(distinct)} streams in one call, the session's capacity is {self.capacity}"
            )
        known = [self._handles[s] for s in distinct if s in self._handles]
        touch(self.table, np.array(known, np.int64), now)
        for stream in distinct:
            if stream not in self._handles:
                self._open_one(stream, now)
        return np.array([self._handles[s] for s in streams], np.int64)

    def _open_one(self, stream: str, now: float) -> None:
        if len(self) == self.capacity:
            self._evict("capacity")
        slot = self._free.pop() if self._free else len(self._names)
        if slot == len(self._names):
            self._names.append(stream)
        self._names[slot] = stream
        self._clear(slot)
        record = self.table[slot]
        record["open"], record["newer"], record["older"] = 1, slot, slot
        self._handles[stream] = int(record["generation"]) << 32 | slot
        touch(self.table, np.array([slot], np.int64), now)

    def _clear(self, slot: int) -> None:
        self.slab[slot] = self._initial
        self.table[slot]["steps"] = 0

    def _oldest(self) -> int:
        return int(self.table[self.capacity]["newer"])

    def _evict(self, reason: Literal["capacity", "idle"]) -> None:
        slot = self._oldest()
        event = Eviction(self._names[slot], int(self.table[slot]["steps"]), reason)
        self.close(event.stream)
        if self.on_evict is not None:
            self.on_evict(event)
