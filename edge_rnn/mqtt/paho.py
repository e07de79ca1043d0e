"""MQTT 3.1.1 and 5, also over websockets, by the Eclipse Foundation's client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_rnn.messages import Message
from edge_rnn.mqtt.codec import FINAL, ONLY_3_1_1
from edge_rnn.mqtt.settings import Settings, acknowledge_now, no_delay
from edge_rnn.mqtt.transport import (
    CONNECT_SECONDS,
    Accepted,
    Arrivals,
    Ended,
    Publication,
    Refused,
)

_WRONG_VERSION, _TAKEN_OVER = 132, 142


class PahoTransport:
    """See `Transport`. Paho chooses packet ids of its own."""

    def __init__(self, settings: Settings, base: int) -> None:
        s = settings
        self._base, self._properties = base, s.properties
        self._v5 = s.protocol == "5"
        self._arrivals = Arrivals()
        self._events = 0
        self._hungry = False
        self._mids: dict[int, int] = {}  # paho's packet id -> ours, 0 with QoS 0
        self._client = self._make_client(s)
        self._client.connect(s.host, s.port, max(1, s.keepalive * 3 // 4), **self._options(s))
        no_delay(self._client.socket())

    def fileno(self) -> int:
        """See `Transport`."""
        sock = self._client.socket()
        return -1 if sock is None else sock.fileno()

    @property
    def wants_write(self) -> bool:
        """See `Transport`."""
        return self._client.want_write()

    @property
    def unsent(self) -> int:
        """See `Transport`."""
        return sum(not mid for mid in self._mids.values())

    def patience(self) -> float:
        """See `Transport`."""
        sock: Any = self._client.socket()
        pending = sock is not None and hasattr(sock, "pending") and sock.pending()
        return 0.0 if self._hungry or pending or self._arrivals.ended else 1.0

    def read(self, most: int) -> Arrivals:
        """See `Transport`."""
        self._hungry = True
        while self._hungry and len(self._arrivals.messages) < most:
            before = self._events
            self._client.loop_read()
            self._hungry = self._events != before
        acknowledge_now(self._client.socket())
        self._client.loop_misc()
        arrivals, self._arrivals = self._arrivals, Arrivals()
        return arrivals

    def write(self) -> None:
        """See `Transport`."""
        if self._client.want_write():
            self._client.loop_write()

    def subscribe(self, mid: int, filters: Sequence[str], qos: int, *, retained: bool) -> None:
        """See `Transport`."""
        if self._v5:
            handling = 1 if retained else 2  # at a new subscription, or never
            options = SubscribeOptions(qos, retainHandling=handling)
            self._client.subscribe([(f, options) for f in filters])
        else:
            self._client.subscribe([(f, qos) for f in filters])

    def unsubscribe(self, mid: int, filters: Sequence[str]) -> None:
        """See `Transport`."""
        self._client.unsubscribe(list(filters))

    def publish(self, publications: Sequence[Publication]) -> None:
        """See `Transport`."""
        for p in publications:
            properties = None
            if p.properties:
                properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
                properties.UserProperty = list(p.properties)
            info = self._client.publish(p.topic, p.payload, p.qos, p.retain, properties)
            self._mids[info.mid] = p.mid

    def acknowledge(self, mids: Sequence[int]) -> None:
        """See `Transport`."""
        for mid in mids:
            self._client.ack(mid & 0xFFFF, 1)

    def close(self, *, politely: bool) -> None:
        """See `Transport`."""
        sock = self._client.socket()
        if politely:
            self._client.disconnect()
            self.write()
        if sock is not None and self._client.socket() is not None:
            sock.close()

    def _make_client(self, s: Settings) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=s.client_id,
            clean_session=None if self._v5 else not s.session_expiry,
            protocol=paho.MQTTv5 if self._v5 else paho.MQTTv311,
            transport=s.transport,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_SECONDS
        client.max_inflight_messages_set(0)  # we bound them; paho's bound makes each PUBACK O(n)
        client.username_pw_set(s.username, s.password)
        if s.transport == "websockets":
            client.ws_set_options(s.path)
        if s.tls:
            client.tls_set_context(s.tls)
        if s.status:
            client.will_set(s.status.topic, s.status.offline, s.status.qos, s.status.retain)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_publish = self._on_subscribe, self._on_publish
        client.on_message = self._on_message
        client.on_socket_register_write = lambda *_: None  # or paho writes at each packet
        return client

    def _options(self, s: Settings) -> dict[str, Any]:
        if not self._v5:
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = int(s.session_expiry)
        properties.ReceiveMaximum = s.receive_max
        properties.MaximumPacketSize = s.max_packet
        return {"clean_start": False, "properties": properties}

    def _on_connect(
        self, client: paho.Client, _: Any, flags: Any, code: ReasonCode, properties: Any
    ) -> None:
        self._events += 1
        if code.is_failure:
            old = self._v5 and code.value == _WRONG_VERSION
            reason = ONLY_3_1_1 if old else str(code)
            self._arrivals.answer = Refused(reason, code.value in FINAL)
            return
        self._arrivals.answer = Accepted(
            flags.session_present,
            getattr(properties, "ReceiveMaximum", 65535),
            getattr(properties, "MaximumPacketSize", None),
            getattr(properties, "MaximumQoS", 2),
            bool(getattr(properties, "RetainAvailable", True)),
            getattr(properties, "SessionExpiryInterval", None),
        )

    def _on_subscribe(self, *args: Any) -> None:
        self._events += 1
        self._arrivals.granted = [str(c) if c.is_failure else c.value for c in args[3]]

    def _on_disconnect(self, *args: Any) -> None:
        self._events += 1
        flags, code = args[2], args[3]
        by_broker = flags.is_disconnect_packet_from_server
        reason = f"{'the broker ended the connection' if by_broker else 'connection lost'}: {code}"
        self._arrivals.ended = Ended(reason, by_broker and code.value == _TAKEN_OVER)

    def _on_publish(
        self, client: paho.Client, _: Any, mid: int, code: ReasonCode, properties: Properties
    ) -> None:
        self._events += 1
        if ours := self._mids.pop(mid, 0):
            self._arrivals.confirmed.append(ours)
        if code.is_failure:
            self._arrivals.errors.append(str(code))

    def _on_message(self, client: paho.Client, _: Any, m: paho.MQTTMessage) -> None:
        self._events += 1
        mid = self._base + m.mid if m.qos else 0
        try:
            topic = m.topic
        except UnicodeDecodeError as e:
            self._arrivals.malformed.append(str(e))
            self._arrivals.messages.append(Message("", b"", mid=mid))
            return
        properties = getattr(m.properties, "UserProperty", ()) if self._properties else ()
        message = Message(topic, bytes(m.payload), m.retain, mid, tuple(properties))
        self._arrivals.messages.append(message)
