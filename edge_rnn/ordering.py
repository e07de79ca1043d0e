"""Each numbered message of a stream once, in order, and none skipped in silence.

A broker may deliver a message twice, and after a reconnect in another order; a state that has seen
a message twice, or not at all, is wrong for good. So a publisher numbers its messages, and what a
stream's position admits is decided here, before anything is stepped.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

import msgspec

Number = int | float
Key = tuple[str, int, Number]
"""Stream, epoch and number of a message."""


class Position(msgspec.Struct, frozen=True, gc=False):
    """Where a stream stands: the last number stepped, in which life (`epoch`) of its publisher."""

    epoch: int
    sequence: Number


class Gap(msgspec.Struct, frozen=True, gc=False):
    """The numbers `first` to `last` of a publisher's epoch never came and were given up."""

    stream: str
    epoch: int
    first: int
    last: int


class Numbered(Protocol):
    """A message's stream and its number."""

    @property
    def stream(self) -> str:
        """Its id."""

    @property
    def epoch(self) -> int:
        """See `Position`."""

    @property
    def sequence(self) -> Number:
        """See `Position`."""


T = TypeVar("T", bound=Numbered)


class Turn(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """It is this message's turn; `gap`: what is missing right before it."""

    message: T
    gap: Gap | None = None


class Ordering(Generic[T]):
    """Admits messages by the positions of their streams.

    dense: numbers go up one by one (1, 2, 3, ... in each epoch), so a missing one shows; else they
    only go up, as timestamps do, and nothing shows what is missing.
    A message ahead of its turn is held: until those before it came, for `patience` seconds, or
    while at most `room` messages are; then what is missing is given up. A stream that was never
    heard of begins at its first message, whatever its number.

    `moved`, `held`, `released` and `gaps` tell what has changed since they were last emptied:
    streams with another position, messages that are held now and those that no longer are.
    """

    def __init__(self, dense: bool, patience: float, room: int) -> None:
        self.dense, self.patience, self.room = dense, patience, room
        self.positions: dict[str, Position] = {}
        self.moved: set[str] = set()
        self.held: dict[Key, T] = {}
        self.released: list[Key] = []
        self.gaps: list[Gap] = []
        self._waiting: dict[str, list[tuple[int, Number, T]]] = {}  # heaps: the lowest first
        self._since: OrderedDict[Key, float] = OrderedDict()  # of all of them, the oldest first

    @property
    def waiting(self) -> int:
        """How many messages are held."""
        return len(self._since)

    def holds(self, stream: str) -> bool:
        """Do messages of the stream wait for their turn?"""
        return stream in self._waiting

    def passes(self, message: T) -> bool:
        """Does the message just follow the one before it, as nearly all do? Then it is its turn,
        as `admit` would say; if not, `admit` knows."""
        stream, sequence = message.stream, message.sequence
        position = self.positions.get(stream)
        if position is None or message.epoch != position.epoch or stream in self._waiting:
            return False
        last = position.sequence
        if sequence != last + 1 if self.dense else sequence <= last:
            return False
        self.positions[stream] = Position(position.epoch, sequence)
        self.moved.add(stream)
        return True

    def admit(self, message: T, now: float) -> list[Turn[T]] | None:
        """The messages whose turn it is with this one, in order; none if it is held. None if it is
        a duplicate: a number at or below its stream's, or one that is held already."""
        position = self.positions.get(message.stream)
        if position is not None:
            if (message.epoch, message.sequence) <= (position.epoch, position.sequence):
                return None
            if not self._follows(position, message):
                return self._hold_back(message, now)
        if message.stream not in self._waiting:
            return [self._turn(message)]
        return [*self._ended(message), self._turn(message), *self._released(message.stream)]

    def expire(self, now: float) -> list[Turn[T]]:
        """The turns of those that have been held for too long, and of what follows them."""
        turns: list[Turn[T]] = []
        while self._since and self.due() <= now:
            turns += self._skip(self._longest())
        return turns

    def due(self) -> float:
        """When `expire` has something to do next; infinite if never."""
        return next(iter(self._since.values()), math.inf) + self.patience

    def hold(self, message: T, now: float) -> None:
        """Hold again what was held before a restart."""
        heap = self._waiting.setdefault(message.stream, [])
        heappush(heap, (message.epoch, message.sequence, message))
        self._since[_key(message)] = now

    def forget(self, stream: str) -> None:
        """Hold none of the stream's messages, and have it begin at its next one."""
        self.positions.pop(stream, None)
        for epoch, sequence, _ in self._waiting.pop(stream, ()):
            key = stream, epoch, sequence
            del self._since[key]
            self.held.pop(key, None)

    def _hold_back(self, message: T, now: float) -> list[Turn[T]] | None:
        key = _key(message)
        if key in self._since:
            return None
        self.hold(message, now)
        self.held[key] = message
        return self._skip(self._longest()) if len(self._since) > self.room else []

    def _longest(self) -> str:
        """The stream of the message that is held longest."""
        return next(iter(self._since))[0]

    def _follows(self, position: Position, message: T) -> bool:
        if not self.dense:
            return True
        if message.epoch > position.epoch:
            return message.sequence <= 1
        return message.sequence == position.sequence + 1

    def _turn(self, message: T, gap: Gap | None = None) -> Turn[T]:
        self.positions[message.stream] = Position(message.epoch, message.sequence)
        self.moved.add(message.stream)
        return Turn(message, gap)

    def _released(self, stream: str) -> Iterator[Turn[T]]:
        """The turns of held messages that follow the stream's position."""
        while heap := self._waiting.get(stream):
            if not self._follows(self.positions[stream], heap[0][2]):
                return
            yield self._turn(self._take(stream))

    def _ended(self, message: T) -> list[Turn[T]]:
        """The turns of what is held of an epoch that ends with this message."""
        turns: list[Turn[T]] = []
        while (heap := self._waiting.get(message.stream)) and heap[0][0] < message.epoch:
            turns += self._skip(message.stream)
        return turns

    def _skip(self, stream: str) -> list[Turn[T]]:
        """Give up what is missing before the stream's lowest held message."""
        lowest = self._take(stream)
        position = self.positions[stream]
        first = int(position.sequence) + 1 if lowest.epoch == position.epoch else 1
        gap = Gap(stream, lowest.epoch, first, int(lowest.sequence) - 1)
        self.gaps.append(gap)
        return [self._turn(lowest, gap), *self._released(stream)]

    def _take(self, stream: str) -> T:
        """Hold the stream's lowest message no longer."""
        heap = self._waiting[stream]
        _, _, message = heappop(heap)
        if not heap:
            del self._waiting[stream]
        key = _key(message)
        del self._since[key]
        if self.held.pop(key, None) is None:
            self.released.append(key)
        return message


def _key(m: Numbered) -> Key:
    return m.stream, m.epoch, m.sequence
