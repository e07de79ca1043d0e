"""Publications on their way: in order, bounded, and again after a broken connection."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from edge_rnn.metrics import Metrics
from edge_rnn.mqtt.transport import Publication

MAX_IN_FLIGHT = 1000  # publications handed over and not yet confirmed
_IDS = 65535
_HEADERS = 20  # bytes of a publication besides topic and payload, at most

log = logging.getLogger(__name__)


class Window:
    """What waits to be sent, and what was sent with QoS 1 and is not confirmed.

    limit: how many of these the broker takes; max_packet: of how many bytes, 0 if it does not care.
    confirmed: tags of what has arrived; their taker empties it.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.limit, self.max_packet = MAX_IN_FLIGHT, 0
        self.confirmed: list[int] = []
        self._waiting: deque[Publication] = deque()
        self._pending: dict[int, Publication] = {}  # by packet id, in the order they were sent
        self._last_mid = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._pending)

    @property
    def full(self) -> bool:
        """Does something wait until the broker confirms what was sent before it?"""
        return bool(self._waiting)

    @property
    def unsent(self) -> int:
        """How many wait whom nothing will send after us."""
        return sum(not p.qos for p in self._waiting)

    def put(self, publication: Publication) -> None:
        """Have it sent after those before it."""
        self._waiting.append(publication)

    def take(self) -> list[Publication]:
        """What may be sent now."""
        publications = []
        while self._waiting and len(self._pending) < self.limit:
            p = self._waiting.popleft()
            if self.max_packet and self._too_large(p):
                continue
            if p.qos:
                p.mid = p.mid or self.next_mid()
                self._pending[p.mid] = p
            publications.append(p)
        return publications

    def confirm(self, mids: Sequence[int], errors: Sequence[str]) -> None:
        """The broker has these, or has refused them."""
        found = (self._pending.pop(mid, None) for mid in mids)
        self.confirmed += [p.tag for p in found if p and p.tag]
        for reason in errors:
            self._count(reason)

    def again(self) -> None:
        """A new connection: what is not confirmed is sent again, first and under its old id."""
        pending = list(self._pending.values())
        for p in pending:
            p.dup = True
        self._waiting.extendleft(reversed(pending))
        self._pending.clear()

    def forget(self) -> None:
        """Drop all that waits or is not confirmed."""
        self._waiting.clear()
        self._pending.clear()

    def next_mid(self) -> int:
        """A packet id that nothing on its way has."""
        while True:
            self._last_mid = self._last_mid % _IDS + 1
            if self._last_mid not in self._pending:
                return self._last_mid

    def _too_large(self, p: Publication) -> bool:
        """The broker would end the connection, each time anew: count it as refused."""
        texts = sum(5 + len(k.encode()) + len(v.encode()) for k, v in p.properties)
        if len(p.topic.encode()) + texts + len(p.payload) + _HEADERS <= self.max_packet:
            return False
        self._count(f"it takes {self.max_packet} bytes at most")
        if p.tag:
            self.confirmed.append(p.tag)
        return True

    def _count(self, reason: str) -> None:
        if not self._metrics.publish_errors:
            log.warning("the broker refused a message of ours: %s; counted from now", reason)
        self._metrics.publish_errors += 1
