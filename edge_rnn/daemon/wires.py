"""Where messages come from and predictions go: one broker, or two."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from edge_rnn.daemon.plan import Plan
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt import Inbox, Link, wait

log = logging.getLogger(__name__)


class Wires:
    """The connections of a pipeline; `output` is `input` where there is one broker.

    known: filters that our session at the input's broker may have. wakeup, clock: see `Link`.
    """

    def __init__(
        self,
        plan: Plan,
        inbox: Inbox,
        metrics: Metrics,
        known: Sequence[str],
        *,
        wakeup: int,
        clock: Callable[[], float],
    ) -> None:
        self._inbox, self._wakeup, self._waits = inbox, wakeup, False
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
        """See `Link.poll`."""
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
