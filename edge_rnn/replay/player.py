"""The pure pipeline over what was recorded: time is the recording's, so every replay is the same.

The daemon asks a clock when messages are held for too long and when streams are idle. Here the
clock is the arrival times of the messages, in steps of `TICK`: however a recording is cut into
batches, each message meets the same time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from edge_rnn.journal import Saved
from edge_rnn.messages import Message, Outgoing, Result
from edge_rnn.pipeline import Pipeline
from edge_rnn.replay.recording import Event

TICK = 0.1
"""Seconds; `ttl` and `hold` are as exact as that."""


@dataclass(slots=True)
class Summary:
    """What came of a replay. `seconds` is the time that passed in the recording, `breaks` how
    often the recorder's connection was lost, `waiting` how many messages still wait for others."""

    messages: int = 0
    predictions: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    missing: int = 0
    evicted: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    waiting: int = 0
    seconds: float = 0.0
    breaks: int = 0

    def count(self, result: Result) -> list[Outgoing]:
        """Add what came of a batch -> its predictions."""
        self.predictions += len(result.predictions)
        self.duplicates += len(result.duplicates)
        self.rejected.update(r.reason for r in result.rejected)
        self.gaps += len(result.gaps)
        self.missing += sum(g.last - g.first + 1 for g in result.gaps)
        self.evicted.update(e.reason for e in result.evictions)
        return result.predictions


class Player:
    """Feeds a pipeline in batches of at most `max_batch`; `summary` counts what came of it.

    saved: what its streams go on from, when the first message comes.
    """

    def __init__(
        self, pipeline: Pipeline, max_batch: int = 1024, saved: Saved | None = None
    ) -> None:
        self.pipeline, self.max_batch, self.summary = pipeline, max_batch, Summary()
        spec = pipeline.spec
        self._timed = spec.ttl is not None or spec.numbered
        self._batch: list[Message] = []
        self._tick = 0
        self._began, self._at = math.inf, 0.0
        self._saved = saved

    def play(self, events: Iterable[Event]) -> Iterator[list[Outgoing]]:
        """The predictions as they come, of events that follow those played before. What is no
        input is passed over."""
        for e in events:
            self.summary.breaks += e.kind == "break"
            if e.kind == "in":
                self.summary.messages += 1
                self._at = max(self._at, e.at)
                self._began = min(self._began, self._at)
                yield from self._add(_message(e), int(self._at // TICK))
        yield from self._feed()
        self.summary.count(Result(evictions=self.pipeline.expire(self._tick * TICK)))
        self.summary.seconds = max(0.0, self._at - self._began)
        self.summary.streams = self.pipeline.streams
        self.summary.waiting = self.pipeline.waiting

    def _add(self, message: Message, tick: int) -> Iterator[list[Outgoing]]:
        full = len(self._batch) == self.max_batch
        if full or (self._timed and tick != self._tick):
            yield from self._feed()
        self._tick = tick
        self._batch.append(message)

    def _feed(self) -> Iterator[list[Outgoing]]:
        """Step what is in hand, and before it what was due since the last time."""
        now, batch = self._tick * TICK, self._batch
        self._batch = []
        if batch and self._saved is not None:
            saved, self._saved = self._saved, None
            self.summary.count(Result(evictions=self.pipeline.load(saved, now)))
        while batch and (due := self.pipeline.due()) < now:
            yield self.summary.count(self.pipeline.feed([], due))
        if batch:
            yield self.summary.count(self.pipeline.feed(batch, now))


def _message(e: Event) -> Message:
    return Message(e.topic, e.payload, e.retain, properties=e.properties)
