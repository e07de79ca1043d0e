"""Which message is stepped next, and what a restart must know so that none is stepped twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Set
from dataclasses import replace
from typing import Protocol, TypeVar

from edge_rnn.journal import Commit, Held, Mark, Saved
from edge_rnn.ordering import Numbered, Ordering, Position


class _Message(Protocol):
    @property
    def topic(self) -> str: ...

    @property
    def payload(self) -> bytes: ...


class Carrier(Numbered, Protocol):
    """What came of a message that MQTT brought."""

    @property
    def message(self) -> _Message:
        """It."""


T = TypeVar("T", bound=Carrier)

_REMEMBERED = 100_000
"""Marks that are kept of streams whose state was forgotten, at least."""


class Turns(Ordering[T]):
    """The order of all streams' messages, and each stream's mark: its position, its run, whether it
    stopped. `changes` are what a transaction must hold beside the states.

    numbered: do messages have numbers? Those that have none are not to be admitted.
    A mark outlives its stream's state, so that a late duplicate is known as one; the oldest go
    where more than ten times `capacity`, and more than 100,000, are left over.
    """

    def __init__(
        self, dense: bool, patience: float, room: int, *, capacity: int, numbered: bool = True
    ) -> None:
        super().__init__(dense, patience, room)
        self.numbered = numbered
        self._kept = max(_REMEMBERED, 10 * capacity)
        self._runs: dict[str, int] = {}
        self._stopped: set[str] = set()
        self._closed: OrderedDict[str, None] = OrderedDict()  # without a state, the oldest first
        self._dropped: set[str] = set()

    def run(self, stream: str) -> int:
        """How often the stream began anew."""
        return self._runs.get(stream, 0)

    def restart(self, stream: str) -> None:
        """The stream begins anew: its next steps are of another run."""
        self._runs[stream] = self.run(stream) + 1
        self.moved.add(stream)

    def stop(self, stream: str) -> None:
        """Step no message of the stream until it is `reset`."""
        self._stopped.add(stream)
        self.moved.add(stream)

    def stopped(self, stream: str) -> bool:
        """Is none of its messages stepped?"""
        return stream in self._stopped

    def opened(self, streams: Iterable[str]) -> None:
        """These streams have a state."""
        if self._closed:
            for stream in streams:
                self._closed.pop(stream, None)

    def closed(self, stream: str) -> None:
        """The stream's state was forgotten; its mark stays a while."""
        self.restart(stream)
        self._closed[stream] = None
        if len(self._closed) > self._kept:
            oldest = next((s for s in self._closed if not self.holds(s)), None)
            if oldest is not None:
                self._drop(oldest)

    def load(self, saved: Saved, held: Iterable[T], now: float) -> None:
        """Go on from what was saved."""
        self._set(saved.marks, {s.stream for s in saved.states})
        for message in held:
            self.hold(message, now)

    def adopt(self, commit: Commit) -> None:
        """Follow a commit that somebody else has made."""
        self._set(commit.marks, {s.stream for s in commit.states})
        for m in commit.marks:
            if m.sequence is None:
                self.forget(m.stream)
            if not m.stopped:
                self._stopped.discard(m.stream)
        self.opened(s.stream for s in commit.states)

    def _set(self, marks: Iterable[Mark], states: Set[str]) -> None:
        """The streams have these marks, and states those that are among them."""
        for m in marks:
            self._runs[m.stream] = m.run
            if m.stopped:
                self._stopped.add(m.stream)
            if self.numbered and m.sequence is not None:
                self.positions[m.stream] = Position(m.epoch, m.sequence)
            if m.stream not in states:
                self._closed[m.stream] = None

    def changes(self, commit: Commit) -> Commit:
        """The commit with what changed here since the last `saved`."""
        return replace(
            commit,
            marks=[self._mark(s) for s in sorted(self.moved)],
            dropped=sorted(self._dropped),
            held=[Held(*key, m.message.topic, m.message.payload) for key, m in self.held.items()],
            released=list(self.released),
            gaps=list(self.gaps),
        )

    def saved(self) -> None:
        """The last `changes` are safe; count new ones from here."""
        for changed in (self.moved, self._dropped, self.held, self.released, self.gaps):
            changed.clear()

    def _mark(self, stream: str) -> Mark:
        position = self.positions.get(stream)
        epoch, sequence = (position.epoch, position.sequence) if position else (0, None)
        return Mark(stream, self._runs.get(stream, 0), epoch, sequence, stream in self._stopped)

    def _drop(self, stream: str) -> None:
        del self._closed[stream]
        self._runs.pop(stream, None)
        self._stopped.discard(stream)
        self.positions.pop(stream, None)
        self.moved.discard(stream)
        self._dropped.add(stream)
