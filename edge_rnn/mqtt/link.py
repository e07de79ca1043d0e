"""One MQTT connection, kept up: no thread, no clock of its own, driven by `Link.poll`."""

from __future__ import annotations

import logging
import random
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_rnn.errors import BrokerError
from edge_rnn.messages import Message
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt.inbox import Inbox
from edge_rnn.mqtt.settings import Settings, describe

MAX_IN_FLIGHT = 1000  # publishes handed over and not yet confirmed
HANDSHAKE_SECONDS = 10.0
# Unsupported version, client id, password, authorization, banned, authentication method.
_FINAL = {132, 133, 134, 135, 138, 140}

log = logging.getLogger(__name__)


class Link:
    """Receives into an inbox, publishes, acknowledges, and reconnects with growing waits.

    wakeup: a file descriptor that ends a wait when it becomes readable. clock: seconds, monotonic.
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
    ) -> None:
        self.settings, self._inbox, self._metrics = settings, inbox, metrics
        self._wakeup, self._clock = wakeup, clock
        self.ready = False
        self._pending: dict[
            int, tuple[int, int]
        ] = {}  # packet id -> QoS, tag of what is on its way
        self.confirmed: list[int] = []  # tags of what has arrived; their taker empties it
        self._unacked: deque[int] = deque()  # packet ids in the order they came
        self._settled: set[int] = set()  # those of them that may be acknowledged
        self._limit = MAX_IN_FLIGHT
        self._events = self._failures = 0
        self._retry_at = self._since = clock()
        self._refusal: str | None = None
        self._receiving, self._closing = True, False
        self._reason = ""
        self._client = self._make_client()

    @property
    def room(self) -> int:
        """How many publishes can be handed over now."""
        return max(0, self._limit - len(self._pending)) if self.ready else 0

    @property
    def busy(self) -> bool:
        """True while a publish is neither written nor, with QoS 1, confirmed."""
        return self.ready and (bool(self._pending) or self._client.want_write())

    def poll(self, timeout: float, most: int) -> None:
        """Wait up to `timeout` seconds, then read up to about `most` messages and write.

        Connects and reconnects when due. Raises BrokerError if the broker refuses us before it
        ever accepted us; later refusals are logged and tried again.
        """
        if self._client.socket() is None:
            wait = self._retry_at - self._clock()
            if wait > 0:
                select.select([self._wakeup], [], [], min(timeout, wait))
            else:
                self._connect()
        else:
            self._wait(timeout)
            self._read(most)
            self.flush()
            self._client.loop_misc()
            self._check_handshake()
        self._check_refusal()

    def publish(
        self, topic: str, payload: bytes | str, qos: int, retain: bool, tag: int = 0
    ) -> None:
        """Hand a message over; `flush` or the next `poll` sends it. When the broker has confirmed
        it, its tag, if it has one, is among the `confirmed`; those of QoS 0 never are."""
        info = self._client.publish(topic, payload, qos, retain)
        while info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # that packet id is still in use
            info = self._client.publish(topic, payload, qos, retain)
        if qos or info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._pending[info.mid] = qos, tag
        else:
            self._metrics.dropped["unsent"] += 1

    def ack(self, messages: Iterable[Message]) -> None:
        """The messages are processed. Acknowledgements go out in the order the messages came,
        because some brokers disconnect who does otherwise."""
        self._settled.update(m.mid for m in messages if m.mid)
        while self._unacked and self._unacked[0] in self._settled:
            mid = self._unacked.popleft()
            self._settled.discard(mid)
            self._client.ack(mid, 1)

    def flush(self) -> None:
        """Write what the socket takes without waiting."""
        if self._client.want_write():
            self._client.loop_write()

    def stop_receiving(self) -> None:
        """Leave what still comes to the broker: it sends QoS 1 messages again next time."""
        self._receiving = False

    def offline(self) -> None:
        """Publish the status's offline message."""
        s = self.settings.status
        if s and self.ready:
            self.publish(s.topic, s.offline, s.qos, s.retain)

    def close(self) -> None:
        """Disconnect without the last will; the broker keeps the session."""
        self.ready, self._closing = False, True
        if (sock := self._client.socket()) is not None:
            self._client.disconnect()
            self.flush()
            if self._client.socket() is not None:
                sock.close()

    def _make_client(self) -> paho.Client:
        s = self.settings
        v5 = s.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=s.client_id,
            clean_session=None if v5 else False,
            protocol=paho.MQTTv5 if v5 else paho.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(0)  # we bound them; paho's bound makes each PUBACK O(n)
        client.username_pw_set(s.username, s.password)
        if s.tls:
            client.tls_set_context(s.tls)
        if s.status:
            client.will_set(s.status.topic, s.status.offline, s.status.qos, s.status.retain)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_publish = self._on_subscribe, self._on_publish
        client.on_message = self._on_message
        client.on_socket_open = _no_delay
        client.on_socket_register_write = lambda *_: None  # or paho writes at each packet
        return client

    def _connect(self) -> None:
        s = self.settings
        v5: dict[str, Any] = {}
        if s.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = int(s.session_expiry)
            v5 = {"clean_start": False, "properties": properties}
        self._since = self._clock()
        try:
            self._client.connect(s.host, s.port, s.keepalive, **v5)
        except (OSError, UnicodeError) as e:
            self._retry(describe(e))

    def _retry(self, reason: str) -> None:
        """Schedule the next try; waits grow until a connection has lasted longer than they do."""
        s = self.settings
        if self.ready and self._clock() - self._since > s.retry_max:
            self._failures = 0
        longest = min(s.retry_max, s.retry_min * 2.0 ** min(self._failures, 30))
        wait = longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, no secret
        self._failures += 1
        self._retry_at = self._clock() + wait
        log.warning("%s:%s: %s; next try in %.1f s", s.host, s.port, reason, wait)

    def _wait(self, timeout: float) -> None:
        sock = self._client.socket()
        assert sock is not None  # noqa: S101 - poll has looked
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            timeout = 0
        writers = [sock] if self._client.want_write() else []
        select.select([sock, self._wakeup], writers, [], timeout)

    def _read(self, most: int) -> None:
        enough = self._metrics.received + most
        while self._metrics.received < enough:
            before = self._events
            self._client.loop_read()
            if self._events == before:
                break
        _acknowledge_now(self._client.socket())

    def _check_handshake(self) -> None:
        sock = self._client.socket()
        late = self._clock() - self._since > HANDSHAKE_SECONDS
        if sock is not None and not self.ready and late and not self._reason:
            self._reason = "the broker does not answer"
            sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]

    def _check_refusal(self) -> None:
        if self._refusal is None:
            return
        refusal, self._refusal = self._refusal, None
        if not self._metrics.connects:
            raise BrokerError(f"{self.settings.host}:{self.settings.port}: {refusal}")
        if (sock := self._client.socket()) is not None:
            self._reason = refusal
            sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]

    def _on_connect(
        self, client: paho.Client, _: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        self._events += 1
        s = self.settings
        if reason.is_failure:
            self._reason = f"the broker refused the connection: {reason}"
            if reason.value in _FINAL:
                self._refusal = f"{self._reason} (client id {s.client_id!r}, user {s.username!r})"
            return
        if self._metrics.connects and not flags.session_present:
            log.warning("the broker has lost our session: messages it held for us are gone")
        self._inbox.reconnected(flags.session_present)
        self._limit = max(1, min(MAX_IN_FLIGHT, getattr(properties, "ReceiveMaximum", 65535) - 1))
        self._subscribe(client, flags.session_present)

    def _subscribe(self, client: paho.Client, session_present: bool) -> None:
        s = self.settings
        if session_present and s.obsolete:
            client.unsubscribe(list(s.obsolete))
        if s.protocol == "5":
            handling = 1 if s.retained else 2  # retained ones at a new subscription, or never
            options = SubscribeOptions(s.qos, retainHandling=handling)
            client.subscribe([(f, options) for f in s.filters])
        elif session_present and s.retained:
            self._subscribed()  # subscribing again would bring the retained messages again
        else:
            client.subscribe([(f, s.qos) for f in s.filters])

    def _on_subscribe(self, *args: Any) -> None:
        self._events += 1
        codes: Sequence[ReasonCode] = args[3]
        for filter_, code in zip(self.settings.filters, codes, strict=True):
            if code.is_failure:
                self._refusal = (
                    f"the broker refused the subscription to {filter_!r}: {code}; check its "
                    f"access rules (ACL) for user {self.settings.username!r}"
                )
                return
            if code.value < self.settings.qos:
                log.warning("%r: the broker grants QoS %s only", filter_, code.value)
        self._subscribed()

    def _subscribed(self) -> None:
        s = self.settings
        self.ready = True
        self._since = self._clock()
        self._metrics.connects += 1
        log.info("%s:%s: connected, subscribed to %s", s.host, s.port, ", ".join(s.filters))
        if s.status:
            self.publish(s.status.topic, s.status.online, s.status.qos, s.status.retain)

    def _on_disconnect(self, *args: Any) -> None:
        self._events += 1
        self._unacked.clear()
        self._settled.clear()
        unsent = [mid for mid, (qos, _) in self._pending.items() if qos == 0]
        for mid in unsent:
            del self._pending[mid]
            self._metrics.dropped["unsent"] += 1
        self._metrics.disconnects += self.ready
        if not self._closing and (self._refusal is None or self._metrics.connects):
            self._retry(self._reason or f"connection lost: {args[3]}")
        self.ready, self._reason = False, ""

    def _on_publish(
        self, client: paho.Client, _: Any, mid: int, reason: ReasonCode, properties: Properties
    ) -> None:
        self._events += 1
        _, tag = self._pending.pop(mid, (0, 0))
        if tag:
            self.confirmed.append(tag)
        if reason.is_failure:
            if not self._metrics.publish_errors:
                log.warning("the broker refused a message of ours: %s; counted from now", reason)
            self._metrics.publish_errors += 1

    def _on_message(self, client: paho.Client, _: Any, m: paho.MQTTMessage) -> None:
        self._events += 1
        self._metrics.received += 1
        try:
            topic = m.topic
        except UnicodeDecodeError:
            topic = "\0"  # which no pattern matches
        self._put(Message(topic, bytes(m.payload), m.retain, m.mid if m.qos else 0))

    def _put(self, message: Message) -> None:
        if not self._receiving:
            if not message.mid:
                self._metrics.dropped["stopping"] += 1
            return
        if message.mid:
            self._unacked.append(message.mid)
        gone = self._inbox.put(message)
        if gone is not None:
            policy = self._inbox.policy
            if not self._metrics.dropped[policy]:
                log.warning("the queue of %s is full: %s, counted", self._inbox.size, policy)
            self._metrics.dropped[policy] += 1
            self.ack([gone])


def _acknowledge_now(sock: Any) -> None:
    """A broker without TCP_NODELAY waits for our TCP acknowledgement, which Linux delays by 40 ms
    unless told not to, each time anew."""
    if sock is not None and hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _no_delay(_: paho.Client, __: Any, sock: Any) -> None:
    if isinstance(sock, socket.socket) and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
