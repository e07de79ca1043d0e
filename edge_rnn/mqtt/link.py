"""A connection to a broker, kept up: no thread, driven by `Link.poll`."""

from __future__ import annotations

import logging
import math
import select
from collections.abc import Callable, Iterable, Sequence

from edge_rnn.errors import BrokerError
from edge_rnn.messages import Message
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt.clients import open_transport
from edge_rnn.mqtt.inbox import Inbox
from edge_rnn.mqtt.intake import Intake
from edge_rnn.mqtt.retries import Retries
from edge_rnn.mqtt.settings import Settings, describe, unread
from edge_rnn.mqtt.transport import (
    Accepted,
    Arrivals,
    Ended,
    Publication,
    Refused,
    Transport,
)
from edge_rnn.mqtt.window import MAX_IN_FLIGHT, Window
from edge_rnn.payload import Properties

HANDSHAKE_SECONDS = 10.0

log = logging.getLogger(__name__)


class Link:
    """Receives into an inbox, publishes, acknowledges, and reconnects with growing waits.

    wakeup: a file descriptor that ends a wait when it becomes readable. clock: seconds, monotonic.
    patient: never give up, not even before the broker first accepts us.
    Within a session the broker keeps QoS 1 messages for us while we are away.
    """

    def __init__(
        self,
        settings: Settings,
        inbox: Inbox,
        metrics: Metrics,
        *,
        wakeup: int,
        clock: Callable[[], float],
        patient: bool = False,
    ) -> None:
        self.settings, self._inbox, self._metrics = settings, inbox, metrics
        self._wakeup, self._clock, self._patient = wakeup, clock, patient
        self.name = f"{settings.host}:{settings.port}"
        self.ready = False
        self._let_in = False  # some brokers send us messages before they say that we're ready
        self._window = Window(metrics)
        self._intake = Intake(self.name, inbox, metrics)
        self._transport: Transport | None = None
        self._known = bool(settings.known)
        self._since = clock()
        self._retries = Retries(settings.retry_min, settings.retry_max, self._since)

    @property
    def room(self) -> int:
        """How many publications can be handed over now."""
        return max(0, MAX_IN_FLIGHT - len(self._window)) if self._let_in else 0

    @property
    def confirmed(self) -> list[int]:
        """Tags of what has arrived; their taker empties it."""
        return self._window.confirmed

    @property
    def busy(self) -> bool:
        """True while a publication is neither written nor, with QoS 1, confirmed."""
        t = self._transport
        return self.ready and bool(self._window or (t and t.wants_write))

    def poll(self, timeout: float, most: int) -> None:
        """Wait up to `timeout` seconds for something to do, and do it: see `work`."""
        wait([self], self._wakeup, timeout)
        self.work(most)

    def work(self, most: int) -> None:
        """Read up to about `most` messages and write, without waiting.

        Connects and reconnects when due, which may take some seconds. Raises BrokerError if the
        broker refuses us before it ever accepted us, or gave our session to another client; other
        refusals are logged and tried again.
        """
        if self._transport is not None:
            self._take(self._transport.read(most))
            self._check_handshake()
            self.flush()
        elif self._clock() >= self._retries.at:
            self._connect()

    def patience(self) -> float:
        """Seconds until there is something to do, whatever the socket says."""
        if self._transport is None:
            return max(0.0, self._retries.at - self._clock())
        return self._transport.patience()

    @property
    def full(self) -> bool:
        """Do publications wait until the broker confirms those before them?"""
        return self._window.full or not self.room

    @property
    def unread(self) -> int:
        """How many bytes have come and wait in the socket."""
        return 0 if self._transport is None else unread(self._transport.fileno())

    def watch(self, poller: select.poll) -> None:
        """Have the poller return when the socket has something to do."""
        t = self._transport
        if t is not None and t.fileno() >= 0:
            poller.register(t.fileno(), select.POLLIN | (select.POLLOUT if t.wants_write else 0))

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        qos: int,
        retain: bool,
        tag: int = 0,
        properties: Properties = (),
    ) -> None:
        """Hand a message over; `flush` or the next `poll` sends it. When the broker has confirmed
        it, its tag, if it has one, is among the `confirmed`; those of QoS 0 never are."""
        data = payload.encode() if isinstance(payload, str) else payload
        self._window.put(Publication(topic, data, qos, retain, tag, properties=properties))

    def forget(self) -> None:
        """Drop what was handed over and is not confirmed: its owner hands it over again."""
        self._window.forget()

    def ack(self, messages: Iterable[Message]) -> None:
        """The messages are processed."""
        if self._transport is not None:
            self._transport.acknowledge(self._intake.processed(messages))

    def flush(self) -> None:
        """Write what the socket takes without waiting."""
        t = self._transport
        if t is None:
            return
        t.write()
        if self._let_in and self._window and not t.wants_write:
            t.publish(self._window.take())
            t.write()

    def stop_receiving(self) -> None:
        """Leave what still comes to the broker: it sends QoS 1 messages again next time."""
        self._intake.stop()

    def offline(self) -> None:
        """Publish the status's offline message."""
        s = self.settings.status
        if s and self.ready:
            self.publish(s.topic, s.offline, s.qos, s.retain)

    def close(self) -> None:
        """Disconnect without the last will; the broker keeps the session."""
        if self._transport is not None:
            self._drop(politely=True)
        self._metrics.drop("unsent", self._window.unsent)

    def _connect(self) -> None:
        self._since = self._clock()
        try:
            self._transport = open_transport(self.settings, self._intake.begin())
        except (OSError, UnicodeError) as e:
            self._retry(describe(e))
        else:
            self._transport.write()

    def _retry(self, reason: str) -> None:
        wait = self._retries.failed(self._clock())
        log.warning("%s: %s; next try in %.1f s", self.name, reason, wait)

    def _take(self, a: Arrivals) -> None:
        if a.answer is not None:
            self._answered(a.answer)
        if a.granted and self._transport is not None:
            self._granted(a.granted)
        if self._transport is None:
            return
        if a.confirmed:
            self._window.confirm(a.confirmed, a.errors)
        if a.messages:
            self._transport.acknowledge(self._intake.take(a))
        if a.ended is not None:
            self._lost(a.ended)

    def _answered(self, answer: Accepted | Refused) -> None:
        if isinstance(answer, Refused):
            who = f" (client id {self.settings.client_id!r}, user {self.settings.username!r})"
            reason = f"the broker refused the connection: {answer.reason}"
            self._refused(reason + who, final=answer.final)
        elif problem := answer.lacks(self.settings):
            self._refused(problem)
        else:
            self._accepted(answer)

    def _accepted(self, a: Accepted) -> None:
        s = self.settings
        self._window.limit = min(MAX_IN_FLIGHT, a.receive_max)
        self._window.max_packet = a.max_packet or 0
        if not a.session_present and self._known and s.filters:
            if s.session_expiry:
                text = "%s: the broker has lost our session: messages it held for us are gone"
                log.warning(text, self.name)
            self._metrics.sessions_lost += 1
        if a.session_expiry is not None and a.session_expiry < int(s.session_expiry):
            text = "%s: the broker keeps our session for %.0f s only, not for session_expiry's %.0f"
            log.warning(text, self.name, a.session_expiry, s.session_expiry)
        self._inbox.reconnected(a.session_present)
        self._let_in = True
        self._window.again()
        if s.filters:
            self._subscribe(a.session_present)
        else:
            self._subscribed()

    def _subscribe(self, session_present: bool) -> None:
        s, t = self.settings, self._transport
        assert t is not None  # noqa: S101 - it has just accepted us
        obsolete = [f for f in s.known if f not in s.filters]
        if session_present and obsolete:
            t.unsubscribe(self._window.next_mid(), obsolete)
        if session_present and s.retained and s.protocol != "5":
            self._subscribed()  # subscribing again would bring the retained messages again
        else:
            t.subscribe(self._window.next_mid(), s.filters, s.qos, retained=s.retained)

    def _granted(self, granted: Sequence[int | str]) -> None:
        s = self.settings
        for filter_, grant in zip(s.filters, granted, strict=True):
            if isinstance(grant, str):
                self._refused(
                    f"the broker refused the subscription to {filter_!r}: {grant}; check its "
                    f"access rules (ACL) for user {s.username!r}"
                )
                return
            if grant < s.qos:
                log.warning("%r: the broker grants QoS %s only", filter_, grant)
        self._subscribed()

    def _subscribed(self) -> None:
        s = self.settings
        self.ready = self._known = self._patient = True
        self._since = self._clock()
        self._metrics.connects += 1
        what = f"subscribed to {', '.join(s.filters)}" if s.filters else "publishing"
        log.info("%s: connected, %s", self.name, what)
        if s.status:
            self.publish(s.status.topic, s.status.online, s.status.qos, s.status.retain)

    def _check_handshake(self) -> None:
        late = self._clock() - self._since > HANDSHAKE_SECONDS
        if self._transport is not None and not self.ready and late:
            self._lost(Ended("the broker does not answer"))

    def _lost(self, ended: Ended) -> None:
        s, answered = self.settings, self.ready
        lasted = self._clock() - self._since
        self._metrics.disconnects += self.ready
        self._drop(politely=False)
        if ended.taken_over:
            raise BrokerError(
                f"{self.name}: another client has taken over our session by using our client id "
                f"{s.client_id!r}: give each client its own broker.client_id"
            )
        if answered:
            self._retries.lasted(lasted)
        hint = ""
        if answered and self._retries.many:
            hint = f"; does another client use the client id {s.client_id!r}?"
        elif not answered and s.protocol == "5":
            hint = '; if it speaks MQTT 3.1.1 only, set broker.protocol = "3.1.1"'
        self._retry(ended.reason + hint)

    def _refused(self, reason: str, *, final: bool = True) -> None:
        self._drop(politely=False)
        if final and not self._patient:
            raise BrokerError(f"{self.name}: {reason}")
        self._retry(reason)

    def _drop(self, *, politely: bool) -> None:
        assert self._transport is not None  # noqa: S101 - asked for then only
        self._transport.close(politely=politely)
        self._metrics.drop("unsent", self._transport.unsent)
        self._transport, self.ready, self._let_in = None, False, False


def wait(links: Iterable[Link], wakeup: int, timeout: float) -> None:
    """Until one of the links has something to do, `wakeup` is readable, or seconds have passed."""
    poller = select.poll()
    poller.register(wakeup, select.POLLIN)
    for link in links:
        timeout = min(timeout, link.patience())
        link.watch(poller)
    poller.poll(math.ceil(1000 * timeout))
