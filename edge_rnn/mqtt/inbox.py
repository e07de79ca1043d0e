"""Messages that wait for the pipeline: a bounded queue that says what it drops."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import msgspec

from edge_rnn.messages import Message

Policy = Literal["wait", "drop_oldest", "drop_newest"]


class Inbox:
    """At most `size` messages, first in first out.

    With "wait" only QoS 0 messages are dropped, the oldest first: the broker sends no more QoS 1
    messages than it may have unacknowledged, and waits.
    """

    def __init__(self, size: int, policy: Policy) -> None:
        self.size, self.policy = size, policy
        self._waiting: deque[Message] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Add messages; returns those that had to go, some of these or of the older ones."""
        self._waiting.extend(messages)
        excess = len(self._waiting) - self.size
        if excess <= 0:
            return ()
        if self.policy == "drop_newest":
            return [self._waiting.pop() for _ in range(excess)][::-1]
        if self.policy == "drop_oldest":
            return self.take(excess)
        gone = [m for m in self._waiting if not m.mid][:excess]
        if gone:
            lowest = iter(gone)
            waiting = self._waiting
            self._waiting = deque(m for m in waiting if m.mid or next(lowest, None) is None)
        return gone

    def take(self, n: int) -> list[Message]:
        """The next up to n messages."""
        return [self._waiting.popleft() for _ in range(min(n, len(self._waiting)))]

    def reconnected(self, session_present: bool) -> None:
        """A new connection: what is not acknowledged the broker sends again if it kept our
        session; if not, ours is the only copy and no acknowledgement is due."""
        if session_present:
            self._waiting = deque(m for m in self._waiting if not m.mid)
        else:
            self._waiting = deque(msgspec.structs.replace(m, mid=0) for m in self._waiting)
