"""What is not safe yet: answers wait here until the journal has their states."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_rnn.config.schema import LONGEST_WAIT, State
from edge_rnn.daemon.outbox import Outbox
from edge_rnn.daemon.pace import Pace
from edge_rnn.daemon.watermarks import Watermarks
from edge_rnn.journal import Journal, Letter
from edge_rnn.messages import Message, Result
from edge_rnn.metrics import Metrics
from edge_rnn.pipeline import Pipeline

IDLE_SECONDS = 1.0
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A batch, when it was taken, and what came of it."""

    batch: Sequence[Message]
    taken: float
    result: Result


class Commits:
    """Commits the pipeline's changes at their pace, and puts letters into the outbox.

    Exact unless `state.save_every` is set: an answer is safe when its states, its letters and the
    positions of its messages are on disk. Otherwise it is safe at once and states are saved at
    intervals.
    """

    def __init__(
        self,
        state: State,
        pipeline: Pipeline,
        journal: Journal,
        outbox: Outbox,
        metrics: Metrics,
        clock: Callable[[], float],
        watermarks: Watermarks | None = None,
    ) -> None:
        self._pipeline, self._journal, self._outbox = pipeline, journal, outbox
        self._metrics, self._clock, self._watermarks = metrics, clock, watermarks
        self._exact = state.save_every is None
        least = state.commit_every if self._exact else state.save_every
        buys = "answers wait for up to {}" if self._exact else "a crash forgets up to {}"
        most = LONGEST_WAIT if self._exact else math.inf
        now = clock()
        self._pace = Pace(float(least or 0), state.write_budget, now, buys=buys, most=most)
        self._waiting: list[Answer] = []
        self._last, self._looked, self._retry_at = -math.inf, now, now
        self.failing = False

    def __bool__(self) -> bool:
        """Is there an answer that is not safe?"""
        return bool(self._waiting)

    @property
    def waiting(self) -> int:
        """How many messages and letters wait to be safe."""
        return sum(len(a.batch) + len(a.result.predictions) for a in self._waiting)

    @property
    def interval(self) -> float:
        """The least time between two commits now, in seconds."""
        return self._pace.interval

    def due(self) -> float:
        """When `settle` has something to do."""
        interval = self._pace.interval
        if not self._exact and math.isinf(interval):
            return interval  # states are in memory until the end
        if self._exact and self._waiting:
            return max(self._last + interval, self._retry_at)
        # What is left over, such as letters that have arrived, costs few commits of its own.
        idle = max(IDLE_SECONDS, 10 * interval) if self._exact else interval
        looks = self._looked + min(IDLE_SECONDS, idle)
        return max(self._last + idle, looks, self._retry_at)

    def add(self, answer: Answer) -> None:
        """It waits until it is safe."""
        self._waiting.append(answer)

    def settle(self, now: float, *, early: bool = False) -> list[Answer]:
        """Commit when it is due, or when asked to do so early. Returns the answers that are safe
        now; their letters are in the outbox. When the disk does not take them nothing is safe, and
        it is tried again later."""
        due = now >= (self._retry_at if early else self.due())
        if self._exact and not due:
            return []
        letters = [(p.topic, p.payload) for a in self._waiting for p in a.result.predictions]
        box = 0
        if due:
            try:
                box = self.save(letters if self._exact and self._outbox.qos else ())
                self.failing = False
            except OSError as e:
                self._fail(e)
                if self._exact:
                    return []
        self._outbox.put(box, letters)
        safe, self._waiting = self._waiting, []
        return safe

    def save(self, letters: Sequence[Letter] = ()) -> int:
        """Make durable what has changed -> the id of the letters' box. Raises OSError."""
        start = self._looked = self._clock()
        changes, arrived = self._pipeline.changes(), self._outbox.arrived
        if not (changes or letters or arrived):
            return 0
        box = self._journal.commit(changes, letters, arrived)
        self._pipeline.saved()
        if self._watermarks:
            self._watermarks.committed(changes.marks, changes.dropped)
        arrived.clear()
        self._last = start
        self._metrics.saves += 1
        self._metrics.commit.observe(self._clock() - start)
        self._metrics.written_bytes += self._pace.committed(start)
        return box

    def close(self) -> None:
        """Save a last time, unless states would be saved without their letters."""
        if self._waiting and self._exact:
            return
        try:
            self.save()
        except OSError as e:
            self._fail(e)

    def _fail(self, e: OSError) -> None:
        self.failing = self._exact
        self._metrics.save_errors += 1
        self._retry_at = self._clock() + RETRY_SECONDS
        then = "nothing is acknowledged until it works" if self._exact else "trying again later"
        log.error("%s; %s", e, then)
