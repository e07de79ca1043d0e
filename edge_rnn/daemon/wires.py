"""Where messages come from and predictions go: one broker, or two."""

from __future__ import annotations

import logging
import select
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from edge_rnn.daemon.plan import Plan
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt import Inbox, Link, wait

GLANCE = 0.0005  # seconds between two looks at whether more has come
ENOUGH = 1 << 16  # bytes, more than a batch

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where messages come from."""

    @property
    def unread(self) -> int:
        """How many bytes have come and wait."""


def gather(source: Source, wakeup: int, max_delay: float, clock: Callable[[], float]) -> None:
    """Let what came while we worked wait, as long as more keeps coming: a batch of few costs nearly
    as much as one of many. An idle daemon finds nothing that came, and does not wait.

    max_delay: for how many seconds at most. wakeup: ends the wait when it becomes readable.
    """
    before, now = 0, clock()
    end = now + max_delay
    while before < (unread := source.unread) < ENOUGH and now < end:
        before = unread
        if select.select([wakeup], [], [], min(GLANCE, end - now))[0]:
            return
        now = clock()


class Wires:
    """The connections of a pipeline; `output` is `input` where there is one broker.

    known: filters that our session at the input's broker may have. max_delay: for how many seconds
    messages may wait for those behind them. wakeup, clock: see `Link`.
    """

    def __init__(
        self,
        plan: Plan,
        inbox: Inbox,
        metrics: Metrics,
        known: Sequence[str],
        *,
        max_delay: float,
        wakeup: int,
        clock: Callable[[], float],
    ) -> None:
        self._inbox, self._wakeup, self._waits = inbox, wakeup, False
        self._max_delay, self._clock = max_delay, clock
        patient = bool(metrics.connects)
        settings = replace(plan.settings, known=known)
        self.input = self.output = Link(
            settings, inbox, metrics, wakeup=wakeup, clock=clock, patient=patient
        )
        self._links = [self.input]
        if plan.output is not None:
            none = Inbox(1, "wait")
            self.output = Link(
                plan.output, none, metrics, wakeup=wakeup, clock=clock, patient=patient
            )
            self._links.append(self.output)

    @property
    def ready(self) -> bool:
        """Is every connection up?"""
        return all(link.ready for link in self._links)

    @property
    def room(self) -> int:
        """How many messages may be answered: none that can't be acknowledged or published."""
        return min(self.input.room, self.output.room)

    @property
    def busy(self) -> bool:
        """Is a publication on its way?"""
        return any(link.busy for link in self._links)

    def poll(self, timeout: float, most: int) -> None:
        """See `Link.poll`; where there is nothing else to do, messages wait for more: `gather`."""
        if timeout and self.input.patience() and not self.output.full:
            gather(self.input, self._wakeup, self._max_delay, self._clock)
        wait(self._links, self._wakeup, timeout)
        for link in self._links:
            link.work(most)
        self._tell()

    def flush(self) -> None:
        """Write what the sockets take without waiting."""
        for link in self._links:
            link.flush()

    def close(self) -> None:
        """Disconnect, leaving the session."""
        for link in self._links:
            link.close()

    def _tell(self) -> None:
        """Say once when messages wait because predictions can't be sent."""
        waits = self.input.ready and not self.output.ready and len(self._inbox) > 0
        if waits and not self._waits:
            log.warning("messages wait until %s takes predictions again", self.output.name)
        self._waits = waits or (self._waits and not self.output.ready)
