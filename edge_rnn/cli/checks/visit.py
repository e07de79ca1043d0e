"""A connection of the doctor's own to a broker."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edge_rnn.errors import BrokerError
from edge_rnn.messages import Message
from edge_rnn.mqtt import Settings
from edge_rnn.mqtt.clients import open_transport
from edge_rnn.mqtt.transport import (
    CONNECT_SECONDS,
    Accepted,
    Publication,
    Refused,
    Transport,
)

PATIENCE = 5.0


class Visit:
    """A connection of the doctor's own, under a client id of its own.

    Raises BrokerError with the broker's reason when it is refused, OSError when it isn't reached.
    """

    def __init__(self, settings: Settings) -> None:
        self.messages: list[Message] = []
        self.granted: Sequence[int | str] = ()
        self.confirmed = 0
        self._answer: Accepted | Refused | None = None
        self._mid = 0
        self._transport: Transport = open_transport(settings, 0)
        try:
            self.accepted = self._accepted()
        except BaseException:
            self._transport.close(politely=False)
            raise

    def subscribe(self, filters: Sequence[str], *, retained: bool = False) -> Sequence[int | str]:
        """The QoS granted to each, or why it was refused. Raises BrokerError."""
        self.granted = ()
        self._transport.subscribe(self._next(), filters, 1, retained=retained)
        if not self.until(lambda: bool(self.granted), PATIENCE):
            raise BrokerError("the broker does not answer a subscription")
        return self.granted

    def publish(self, topic: str, payloads: Sequence[bytes]) -> None:
        """With QoS 1, and wait until all are confirmed. Raises BrokerError."""
        room = max(1, min(100, self.accepted.receive_max))
        for start in range(0, len(payloads), room):
            part = payloads[start : start + room]
            self.confirmed = 0
            ours = [Publication(topic, p, 1, False, mid=self._next()) for p in part]
            self._transport.publish(ours)
            wanted = len(part)
            if not self.until(lambda n=wanted: self.confirmed >= n, PATIENCE):  # type: ignore[misc]
                raise BrokerError("the broker does not confirm messages")

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tell the broker that we have them."""
        self._transport.acknowledge([m.mid for m in messages if m.mid])

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Take what comes until this is so, or it has taken too long. Raises BrokerError when the
        connection ends."""
        end = time.monotonic() + seconds
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._transport.write()
            poller = select.poll()
            t = self._transport
            poller.register(t.fileno(), select.POLLIN | (select.POLLOUT if t.wants_write else 0))
            poller.poll(1000 * min(left, t.patience()))
            self._read()
        return True

    def close(self) -> None:
        """Say good-bye."""
        self._transport.close(politely=True)

    def _accepted(self) -> Accepted:
        self.until(lambda: self._answer is not None, CONNECT_SECONDS)
        if isinstance(self._answer, Accepted):
            return self._answer
        if self._answer is None:
            raise BrokerError("the broker does not answer")
        raise BrokerError(f"the broker refused the connection: {self._answer.reason}")

    def _read(self) -> None:
        a = self._transport.read(10_000)
        self._answer = a.answer or self._answer
        self.granted = a.granted or self.granted
        self.messages += a.messages
        self.confirmed += len(a.confirmed)
        if a.ended is not None and not isinstance(self._answer, Refused):
            raise BrokerError(a.ended.reason)

    def _next(self) -> int:
        self._mid = self._mid % 65535 + 1
        return self._mid


@contextmanager
def visit(settings: Settings) -> Iterator[Visit]:
    """Visits, and leaves."""
    v = Visit(settings)
    try:
        yield v
    finally:
        v.close()
