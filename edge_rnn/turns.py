"""Which message is stepped next, and what a restart must know so that none is stepped twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from edge_rnn.journal import Commit, Held, Mark, Saved
from edge_rnn.ordering import Gap, Number, Numbered, Ordering, Position, Turn


class _Message(Protocol):
    @property
    def topic(self) -> str: ...

    @property
    def payload(self) -> bytes: ...


class Carrier(Protocol):
    """What came of a message that MQTT brought."""

    @property
    def message(self) -> _Message:
        """It."""


T = TypeVar("T", bound=Carrier)

_REMEMBERED = 100_000
"""Marks that are kept of streams whose state was forgotten, at least."""


class Turns(Generic[T]):
    """The order of all streams' messages, and each stream's mark: its position, its run, whether it
    stopped. `changes` are what a transaction must hold beside the states.

    A mark outlives its stream's state, so that a late duplicate is known as one; the oldest go
    where more than ten times `capacity`, and more than 100,000, are left over.
    """

    def __init__(self, ordering: Ordering[T] | None, capacity: int) -> None:
        self._ordering = ordering
        self._kept = max(_REMEMBERED, 10 * capacity)
        self._runs: dict[str, int] = {}
        self._stopped: set[str] = set()
        self._closed: dict[str, None] = {}  # marks without a state, the oldest first
        self._dirty: set[str] = set()
        self._dropped: set[str] = set()
        self._stored: dict[tuple[str, int, Number], Numbered[T]] = {}  # held, in the journal
        self._gaps: list[Gap] = []

    @property
    def numbered(self) -> bool:
        """Do messages have numbers?"""
        return self._ordering is not None

    @property
    def waiting(self) -> int:
        """How many messages are held."""
        return self._ordering.waiting if self._ordering else 0

    def admit(self, message: Numbered[T], now: float) -> list[Turn[T]] | None:
        """See `Ordering.admit`."""
        assert self._ordering is not None  # noqa: S101 - asked for `numbered` messages only
        turns = self._ordering.admit(message, now)
        return turns and self._noted(turns)

    def expire(self, now: float) -> list[Turn[T]]:
        """See `Ordering.expire`."""
        return self._noted(self._ordering.expire(now)) if self._ordering else []

    def due(self) -> float | None:
        """See `Ordering.due`."""
        return self._ordering.due() if self._ordering else None

    def run(self, stream: str) -> int:
        """How often the stream began anew."""
        return self._runs.get(stream, 0)

    def restart(self, stream: str) -> None:
        """The stream begins anew: its next steps are of another run."""
        self._runs[stream] = self.run(stream) + 1
        self._dirty.add(stream)

    def stop(self, stream: str) -> None:
        """Step no message of the stream until it is `reset`."""
        self._stopped.add(stream)
        self._dirty.add(stream)

    def stopped(self, stream: str) -> bool:
        """Is none of its messages stepped?"""
        return stream in self._stopped

    def opened(self, stream: str) -> None:
        """The stream has a state."""
        self._closed.pop(stream, None)

    def closed(self, stream: str) -> None:
        """The stream's state was forgotten; its mark stays a while."""
        self.restart(stream)
        self._closed[stream] = None
        while len(self._closed) > self._kept:
            self._drop(next(iter(self._closed)))

    def load(self, saved: Saved, held: Iterable[Numbered[T]], now: float) -> None:
        """Go on from what was saved."""
        for m in saved.marks:
            self._runs[m.stream] = m.run
            if m.stopped:
                self._stopped.add(m.stream)
            if self._ordering is not None and m.sequence is not None:
                self._ordering.positions[m.stream] = Position(m.epoch, m.sequence)
        states = {s.stream for s in saved.states}
        self._closed.update(dict.fromkeys(m.stream for m in saved.marks if m.stream not in states))
        if self._ordering is not None:
            for message in held:
                self._ordering.hold(message, now)
                self._stored[_key(message)] = message

    def changes(self, commit: Commit) -> Commit:
        """The commit with what changed here since the last `saved`."""
        held = self._held()
        return replace(
            commit,
            marks=[self._mark(s) for s in sorted(self._dirty)],
            dropped=sorted(self._dropped),
            held=[_held(m) for key, m in held.items() if key not in self._stored],
            released=[key for key in self._stored if key not in held],
            gaps=list(self._gaps),
        )

    def saved(self) -> None:
        """The last `changes` are safe; count new ones from here."""
        self._stored = self._held()
        self._dirty.clear()
        self._dropped.clear()
        self._gaps.clear()

    def _held(self) -> dict[tuple[str, int, Number], Numbered[T]]:
        return {_key(m): m for m in self._ordering.held} if self._ordering else {}

    def _noted(self, turns: list[Turn[T]]) -> list[Turn[T]]:
        self._dirty.update(t.message.stream for t in turns)
        self._gaps.extend(t.gap for t in turns if t.gap)
        return turns

    def _mark(self, stream: str) -> Mark:
        position = self._ordering.positions.get(stream) if self._ordering else None
        epoch, sequence = (position.epoch, position.sequence) if position else (0, None)
        return Mark(stream, self.run(stream), epoch, sequence, stream in self._stopped)

    def _drop(self, stream: str) -> None:
        del self._closed[stream]
        self._runs.pop(stream, None)
        self._stopped.discard(stream)
        if self._ordering is not None:
            self._ordering.positions.pop(stream, None)
        self._dirty.discard(stream)
        self._dropped.add(stream)


def _key(m: Numbered[T]) -> tuple[str, int, Number]:
    return m.stream, m.epoch, m.sequence


def _held(m: Numbered[T]) -> Held:
    return Held(m.stream, m.epoch, m.sequence, m.item.message.topic, m.item.message.payload)
