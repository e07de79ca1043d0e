"""Messages in, predictions out: the whole computation with no socket, clock or log.

A daemon, a replay of a recording, a test and a notebook all drive the same object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32, Model, masked
from edge_rnn.journal import Commit, Saved
from edge_rnn.messages import Message, Outgoing, Rejected, Result, Spec
from edge_rnn.ordering import Turn
from edge_rnn.payload import Encoder
from edge_rnn.reading import Item, Reader
from edge_rnn.session import Session
from edge_rnn.state import Eviction, StreamState
from edge_rnn.turns import Turns


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """The outputs y (B, O) of some rows, which of them have one, which count as steps."""

    y: F32
    emitted: NDArray[np.bool_]
    counted: NDArray[np.bool_]

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which rows have an output that is not finite."""
        finite: NDArray[np.bool_] = np.all(np.isfinite(self.y), axis=1)
        return self.emitted & ~finite


class Pipeline:
    """Steps each message's stream and answers with its prediction.

    The answers depend on the messages' order alone, not on how they are cut into batches.
    Raises ValueError when spec and model don't fit. Not thread-safe.
    """

    def __init__(self, model: Model, spec: Spec) -> None:
        self.model, self.spec = model, spec
        self._reader = Reader(model, spec)
        self._encoder = Encoder(model.classes, probabilities=model.output_is_probability)
        self._widths = model.input_width, model.output_width
        self._now = 0.0
        self._session = Session(
            model,
            spec.capacity,
            ttl=spec.ttl,
            clock=lambda: self._now,
            on_evict=self._on_evict,
        )
        self._steps: dict[str, int] = {}  # of every open stream
        self._dirty: dict[str, None] = {}  # least recently used first
        self._stored: set[str] = set()  # what the journal holds, so that it can be told to forget
        self._forgotten: set[str] = set()
        self._evictions: list[Eviction] = []
        self._turns: Turns[Item] = Turns(
            spec.sequence is not None,
            spec.hold,
            spec.hold_size,
            capacity=spec.capacity,
            numbered=spec.numbered,
        )
        self._fresh: set[str] = set()  # streams whose next row begins anew

    @property
    def digest(self) -> str:
        """The model's digest: states move between pipelines of the same one."""
        return self._session.digest

    @property
    def state_bytes(self) -> int:
        """Bytes of one stream's state in a journal."""
        return self._session.state_bytes

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._steps)

    @property
    def waiting(self) -> int:
        """How many messages are held until those before them come."""
        return self._turns.waiting

    def feed(self, messages: Sequence[Message], now: float) -> Result:
        """Answer a batch, and what waited too long for its turn. `now` in seconds of a monotonic
        clock, for idle streams and held messages.

        A message that can't be used changes nothing and is in the result's `rejected`; one that has
        no output (see `Model.schedule` and `Model.mask`) is in no list, as is one that is held
        until its turn comes.
        """
        self._now = now
        result = Result()
        self._advance(self._rows(messages, result), result)
        result.evictions.extend(self._take_evictions())
        return result

    def due(self) -> float:
        """When `feed` has something to do even without messages; infinite if never."""
        return self._turns.due()

    def expire(self, now: float) -> list[Eviction]:
        """Forget streams idle for longer than the ttl, without waiting for a message."""
        self._now = now
        self._session.slots([])
        return self._take_evictions()

    def load(self, saved: Saved, now: float = 0.0) -> list[Eviction]:
        """Continue what was saved, its states given least recently used first.

        To a stream's ttl this is a sign of life. Those beyond the capacity are forgotten. Raises
        SnapshotError if they are not this model's.
        """
        self._now = now
        held = (self._reader.again(h) for h in saved.held)
        self._turns.load(saved, (m for m in held if isinstance(m, Item)), now)
        self._open(saved.states)
        return self._take_evictions()

    def adopt(self, commit: Commit) -> list[Eviction]:
        """Follow a commit that an operator has made of states, marks and streams to forget.

        Nothing of ours may wait to be saved. Those beyond the capacity are forgotten.
        """
        for stream in commit.forgotten:
            if self._steps.pop(stream, None) is not None:
                self._session.close(stream)
            self._stored.discard(stream)
        self._fresh.difference_update(m.stream for m in commit.marks)
        self._turns.adopt(commit)
        self._open(commit.states)
        return self._take_evictions()

    def _open(self, states: Sequence[StreamState]) -> None:
        """Have these states, as the journal does."""
        self._stored.update(s.stream for s in states)
        for start in range(0, len(states), self.spec.capacity):
            part = states[start : start + self.spec.capacity]
            self._steps.update((s.stream, s.steps) for s in part)
            self._session.load_states(part)

    def changes(self) -> Commit:
        """What has changed since the last `saved`."""
        states = self._session.states(self._dirty)
        return self._turns.changes(Commit(states, sorted(self._forgotten)))

    def saved(self) -> None:
        """The last `changes` are safe; count new ones from here."""
        self._stored.update(self._dirty)
        self._stored.difference_update(self._forgotten)
        self._dirty.clear()
        self._forgotten.clear()
        self._turns.saved()

    def _rows(self, messages: Sequence[Message], result: Result) -> list[Item]:
        """The messages to step, each when it is its turn."""
        rows: list[Item] = []
        numbered, passes, now = self._turns.numbered, self._turns.passes, self._now
        read = self._reader.read
        for turn in self._turns.expire(now):
            self._take(turn, rows, result)
        for message in messages:
            item = read(message)
            if isinstance(item, Rejected):
                result.rejected.append(item)
            elif not numbered:
                rows.append(item)
            elif passes(item):
                self._admit(item, rows, result)
            elif (turns := self._turns.admit(item, now)) is None:
                result.duplicates.append(message)
            else:
                for turn in turns:
                    self._take(turn, rows, result)
        return rows

    def _take(self, turn: Turn[Item], rows: list[Item], result: Result) -> None:
        """It is this message's turn; before it, something may be missing."""
        if turn.gap is not None:
            result.gaps.append(turn.gap)
            if self.spec.on_gap == "stop":
                self._turns.stop(turn.message.stream)
            elif self.spec.on_gap == "reset":
                self._fresh.add(turn.message.stream)
        self._admit(turn.message, rows, result)

    def _admit(self, item: Item, rows: list[Item], result: Result) -> None:
        """It is to be stepped, unless it can't be or its stream has stopped."""
        stream = item.stream
        if item.rejected is not None:
            result.rejected.append(item.rejected)
        elif self._turns.stopped(stream):
            detail = f"{stream!r} has stopped at a gap until `edge-rnn state reset`"
            result.rejected.append(Rejected(item.message, "stopped", detail, item.route.pattern))
        else:
            if stream in self._fresh:
                self._fresh.discard(stream)
                item.fresh = True
            rows.append(item)

    def _advance(self, rows: list[Item], result: Result) -> None:
        """Step all rows in order, and answer them."""
        for chunk in self._chunks(rows):
            streams = [row.stream for row in chunk]
            if chunk[0].fresh and streams[0] in self._steps:
                self._session.reset(streams[0])
                self._begin_anew(streams[0])
            batch = self._step(streams, [row.sample.features for row in chunk])
            self._used(streams)
            self._answer(chunk, batch, result)

    def _used(self, streams: list[str]) -> None:
        """These have changed, in this order."""
        self._forgotten.difference_update(streams)
        self._turns.opened(streams)
        last = dict.fromkeys(reversed(streams))
        if self._dirty:
            for stream in last:
                self._dirty.pop(stream, None)
        self._dirty.update(dict.fromkeys(reversed(last)))

    def _answer(self, rows: list[Item], batch: _Batch, result: Result) -> None:
        steps, run, encode = self._steps, self._turns.run, self._encoder.encode
        marks = (batch.y, batch.emitted, batch.counted, batch.diverged)
        columns = (column.tolist() for column in marks)
        for row, values, emitted, counted, diverged in zip(rows, *columns, strict=True):
            stream, n = row.stream, steps.get(row.stream, 0) + counted
            steps[stream] = n
            if diverged:
                detail = "the prediction is not finite; the stream starts anew"
                rejected = Rejected(row.message, "diverged", detail, row.route.pattern)
                result.rejected.append(rejected)
                self._begin_anew(stream)
            elif emitted:
                lives = run(stream)
                payload = encode(stream, n, lives, row.sample, values)
                result.predictions.append(Outgoing(row.route.output, payload, stream, n, lives))

    def _begin_anew(self, stream: str) -> None:
        self._steps[stream] = 0
        self._turns.restart(stream)

    def _chunks(self, rows: list[Item]) -> Iterator[list[Item]]:
        """The rows in parts that can be stepped at once: not where one begins anew, and not where
        the session has to evict for room."""
        starts = [0, *(i for i, row in enumerate(rows) if row.fresh and i), len(rows)]
        for start, stop in pairwise(starts):
            part = rows[start:stop]
            if part:
                yield from [part] if self._fits(part) else ([row] for row in part)

    def _fits(self, rows: list[Item]) -> bool:
        """False when the batch makes the session evict for room: whom depends on the order, so
        the batch then has to be stepped one message at a time."""
        new = {row.stream for row in rows}.difference(self._steps)
        return len(self._steps) + len(new) <= self.spec.capacity

    def _step(self, streams: list[str], x: Sequence[Sequence[float]]) -> _Batch:
        """Step the rows of x (B, I) in order; a stream restarts after a row that diverged."""
        batch = self._stepped(streams, x)
        for stream in {streams[i] for i in np.flatnonzero(batch.diverged)}:
            self._restart(stream, [i for i, s in enumerate(streams) if s == stream], x, batch)
        return batch

    def _restart(
        self, stream: str, places: list[int], x: Sequence[Sequence[float]], batch: _Batch
    ) -> None:
        """Step again, from the initial state, the rows that came after one that diverged."""
        while (bad := np.flatnonzero(batch.diverged[places])).size:
            self._session.reset(stream)
            places = places[bad[0] + 1 :]
            again = self._stepped([stream] * len(places), [x[i] for i in places])
            batch.y[places], batch.emitted[places] = again.y, again.emitted

    def _stepped(self, streams: list[str], x: Sequence[Sequence[float]]) -> _Batch:
        rows = np.array(x, np.float32).reshape(len(x), self._widths[0])
        counted = ~masked(self.model, rows) | (self.model.window is not None)
        y = np.empty((len(x), self._widths[1]), np.float32)
        batch = _Batch(y, np.empty(len(x), np.bool_), counted)
        self._session.step_slots(self._session.slots(streams), rows, batch.y, batch.emitted)
        return batch

    def _on_evict(self, eviction: Eviction) -> None:
        self._evictions.append(eviction)
        self._steps.pop(eviction.stream, None)
        self._turns.closed(eviction.stream)
        self._dirty.pop(eviction.stream, None)
        if eviction.stream in self._stored:
            self._forgotten.add(eviction.stream)

    def _take_evictions(self) -> list[Eviction]:
        taken, self._evictions = self._evictions, []
        return taken
