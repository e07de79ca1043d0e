"""Each numbered message of a stream once, in order, and none skipped in silence.

A broker may deliver a message twice, and after a reconnect in another order; a state that has seen
a message twice, or not at all, is wrong for good. So a publisher numbers its messages, and what a
stream's position admits is decided here, before anything is stepped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")
Number = int | float


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


class Numbered(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """A message, its stream and its number."""

    stream: str
    epoch: int
    sequence: Number
    item: T


class Turn(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """It is this message's turn; `gap`: what is missing right before it."""

    message: Numbered[T]
    gap: Gap | None = None


class Ordering(Generic[T]):
    """Admits messages by the positions of their streams.

    dense: numbers go up one by one (1, 2, 3, ... in each epoch), so a missing one shows; else they
    only go up, as timestamps do, and nothing shows what is missing.
    A message ahead of its turn is held: until those before it came, for `patience` seconds, or
    while at most `room` messages are; then what is missing is given up. A stream that was never
    heard of begins at its first message, whatever its number.
    """

    def __init__(self, dense: bool, patience: float, room: int) -> None:
        self.dense, self.patience, self.room = dense, patience, room
        self.positions: dict[str, Position] = {}
        self._held: dict[str, dict[tuple[int, Number], tuple[Numbered[T], float]]] = {}
        self._count = 0

    @property
    def held(self) -> Iterator[Numbered[T]]:
        """The messages that wait for their turn."""
        return (m for of_stream in self._held.values() for m, _ in of_stream.values())

    @property
    def waiting(self) -> int:
        """How many messages are held."""
        return self._count

    def admit(self, message: Numbered[T], now: float) -> list[Turn[T]] | None:
        """The messages whose turn it is with this one, in order; none if it is held. None if it is
        a duplicate: a number at or below its stream's, or one that is held already."""
        position = self.positions.get(message.stream)
        key = message.epoch, message.sequence
        if position is not None and key <= (position.epoch, position.sequence):
            return None
        if position is None or self._follows(position, message):
            ended = self._ended(message)
            return [*ended, self._turn(message), *self._released(message.stream)]
        of_stream = self._held.setdefault(message.stream, {})
        if key in of_stream:
            return None
        of_stream[key] = message, now
        self._count += 1
        return self._skip(next(iter(self._held))) if self._count > self.room else []

    def expire(self, now: float) -> list[Turn[T]]:
        """The turns of those that have been held for too long, and of what follows them."""
        late = [
            stream
            for stream, of_stream in self._held.items()
            if min(since for _, since in of_stream.values()) + self.patience <= now
        ]
        return [turn for stream in late for turn in self._skip(stream)]

    def due(self) -> float | None:
        """When `expire` has something to do next."""
        sinces = (since for of_stream in self._held.values() for _, since in of_stream.values())
        first = min(sinces, default=None)
        return None if first is None else first + self.patience

    def hold(self, message: Numbered[T], now: float) -> None:
        """Hold again what was held before a restart."""
        self._held.setdefault(message.stream, {})[message.epoch, message.sequence] = message, now
        self._count += 1

    def _follows(self, position: Position, message: Numbered[T]) -> bool:
        if not self.dense:
            return True
        if message.epoch > position.epoch:
            return message.sequence <= 1
        return message.sequence == position.sequence + 1

    def _turn(self, message: Numbered[T], gap: Gap | None = None) -> Turn[T]:
        self.positions[message.stream] = Position(message.epoch, message.sequence)
        return Turn(message, gap)

    def _released(self, stream: str) -> Iterator[Turn[T]]:
        """The turns of held messages that follow the stream's position."""
        while of_stream := self._held.get(stream):
            lowest = of_stream[min(of_stream)][0]
            if not self._follows(self.positions[stream], lowest):
                return
            self._take(lowest)
            yield self._turn(lowest)

    def _ended(self, message: Numbered[T]) -> list[Turn[T]]:
        """The turns of what is held of an epoch that ends with this message."""
        turns: list[Turn[T]] = []
        while (held := self._held.get(message.stream)) and min(held)[0] < message.epoch:
            turns += self._skip(message.stream)
        return turns

    def _skip(self, stream: str) -> list[Turn[T]]:
        """Give up what is missing before the stream's lowest held message."""
        lowest = self._held[stream][min(self._held[stream])][0]
        position = self.positions[stream]
        first = int(position.sequence) + 1 if lowest.epoch == position.epoch else 1
        self._take(lowest)
        gap = Gap(stream, lowest.epoch, first, int(lowest.sequence) - 1)
        return [self._turn(lowest, gap), *self._released(stream)]

    def _take(self, message: Numbered[T]) -> None:
        of_stream = self._held[message.stream]
        del of_stream[message.epoch, message.sequence]
        self._count -= 1
        if not of_stream:
            del self._held[message.stream]
