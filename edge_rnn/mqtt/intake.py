"""What comes in over a connection, up to its acknowledgement."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence

from edge_rnn.messages import Message
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt.inbox import Inbox
from edge_rnn.mqtt.transport import Arrivals

_IDS = 1 << 16

log = logging.getLogger(__name__)


class Intake:
    """Puts messages into the inbox, counts those that are lost, and says which packet ids to
    acknowledge: in the order the messages came, because some brokers disconnect who does otherwise.

    name: of the broker, for the log.
    """

    def __init__(self, name: str, inbox: Inbox, metrics: Metrics) -> None:
        self._name, self._inbox, self._metrics = name, inbox, metrics
        self._receipts = Receipts()
        self._base = 0
        self._stopped = False

    def begin(self) -> int:
        """Another connection -> what its packet ids are above."""
        self._base += _IDS
        self._receipts = Receipts()
        return self._base

    def stop(self) -> None:
        """Leave what still comes to the broker: it sends QoS 1 messages again next time."""
        self._stopped = True

    def take(self, a: Arrivals) -> list[int]:
        """What has come -> the packet ids to acknowledge at once: of what is lost."""
        self._metrics.received += len(a.messages)
        if self._stopped:
            self._metrics.drop("stopping", sum(not m.mid for m in a.messages))
            return []
        self._receipts.expect([m.mid for m in a.messages if m.mid])
        lost: list[Message] = []
        if a.malformed:
            self._tell_malformed(a.malformed)
            lost = [m for m in a.messages if not m.topic]
            a.messages = [m for m in a.messages if m.topic]
        return self.processed([*lost, *self._keep(a.messages)])

    def processed(self, messages: Iterable[Message]) -> list[int]:
        """These are -> the packet ids to acknowledge now; those of earlier connections never."""
        return self._receipts.settle([m.mid for m in messages if m.mid > self._base])

    def _keep(self, messages: Sequence[Message]) -> Sequence[Message]:
        """In the inbox -> those that had to go."""
        gone, policy = self._inbox.put(messages), self._inbox.policy
        if gone and not self._metrics.dropped[policy]:
            log.warning("the queue of %s is full: %s, counted", self._inbox.size, policy)
        self._metrics.drop(policy, len(gone))
        return gone

    def _tell_malformed(self, why: Sequence[str]) -> None:
        if not self._metrics.dropped["malformed"]:
            log.warning("%s: a malformed message: %s; counted from now", self._name, why[0])
        self._metrics.drop("malformed", len(why))


class Receipts:
    """Which messages may be acknowledged: those that are processed, in the order they came."""

    def __init__(self) -> None:
        self._unacked: deque[int] = deque()
        self._settled: set[int] = set()

    def expect(self, mids: Sequence[int]) -> None:
        """These have come."""
        self._unacked.extend(mids)

    def settle(self, mids: Sequence[int]) -> list[int]:
        """These are processed -> those that may be acknowledged now."""
        self._settled.update(mids)
        ready = []
        while self._unacked and self._unacked[0] in self._settled:
            ready.append(self._unacked.popleft())
        self._settled.difference_update(ready)
        return ready
