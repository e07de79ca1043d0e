"""MQTT 5 over TCP, many packets at a time: one receive, one send, a codec written in Rust."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Sequence
from itertools import accumulate

from mqtt5 import (
    ConnectPacket,
    DisconnectPacket,
    PingReqPacket,
    PublishPacket,
    QoS,
    RetainHandling,
    SubscribePacket,
    TopicFilter,
    UnsubscribePacket,
    Will,
)

from edge_rnn.mqtt.codec import PacketReader
from edge_rnn.mqtt.settings import Settings, acknowledge_now, describe, no_delay
from edge_rnn.mqtt.transport import CONNECT_SECONDS, Arrivals, Ended, Publication

RECEIVE_BYTES = 1 << 16
GONE = 1.5  # the broker is, when silent for this many keep-alive times

_QOS = (QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE)
_PING = PingReqPacket().write()
_BYE = DisconnectPacket().write()
_PUBACK = struct.Struct(">HH")  # type and length, packet id: success needs no more
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_clock = time.monotonic


class BatchTransport:
    """See `Transport`."""

    def __init__(self, settings: Settings, base: int) -> None:
        s = settings
        self._reader = PacketReader(base, s.max_packet, properties=s.properties)
        self._keepalive = s.keepalive
        self._sock = _connect(s)
        self._out = bytearray()
        self._queued = 0  # bytes that `_out` has ever held
        self._batch: tuple[int, Sequence[bytes]] = 0, ()  # publications, from which byte on
        self._ended: Ended | None = None
        self._pinged = False
        self._heard = self._said = _clock()
        self._put(_hello(s))

    def fileno(self) -> int:
        """See `Transport`."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """See `Transport`."""
        return bool(self._out)

    @property
    def unsent(self) -> int:
        """See `Transport`. Only the last publications handed over can be among them."""
        start, packets = self._batch
        written = self._queued - len(self._out)
        ends = accumulate(map(len, packets), initial=start)
        next(ends)
        return sum(e > written and not p[0] & 0b110 for e, p in zip(ends, packets, strict=True))

    def patience(self) -> float:
        """See `Transport`."""
        if self._reader.hungry or self._ended:
            return 0.0
        due = self._heard + GONE * self._keepalive if self._pinged else self._ping_at
        return max(0.0, due - _clock())

    def read(self, most: int) -> Arrivals:
        """See `Transport`."""
        over = self._receive() if len(self._reader) < RECEIVE_BYTES else None
        arrivals = self._reader.read(most)
        if arrivals.ended is None and not self._reader.hungry:
            arrivals.ended = self._ended or over
        self._keep_alive()
        return arrivals

    def write(self) -> None:
        """See `Transport`."""
        if not self._out:
            return
        try:
            written = self._sock.send(self._out)
        except _NOT_NOW:
            return
        except OSError as e:
            self._ended = Ended(f"connection lost: {describe(e)}")
            return
        del self._out[:written]
        self._said = _clock()

    def subscribe(self, mid: int, filters: Sequence[str], qos: int, *, retained: bool) -> None:
        """See `Transport`."""
        new, never = RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS, RetainHandling.SEND_NEVER
        handling = new if retained else never
        asked = [
            TopicFilter(f, max_qos=_QOS[qos], retain_as_published=False, retain_handling=handling)
            for f in filters
        ]
        self._put(SubscribePacket(mid, asked).write())

    def unsubscribe(self, mid: int, filters: Sequence[str]) -> None:
        """See `Transport`."""
        self._put(UnsubscribePacket(mid, list(filters)).write())

    def publish(self, publications: Sequence[Publication]) -> None:
        """See `Transport`."""
        packets = [
            PublishPacket(
                p.topic,
                p.payload,
                qos=_QOS[p.qos],
                retain=p.retain,
                packet_id=p.mid or None,
                duplicate=p.dup,
                user_properties=list(p.properties) if p.properties else None,
            ).write()
            for p in publications
        ]
        self._batch = self._queued, packets
        self._put(b"".join(packets))

    def acknowledge(self, mids: Sequence[int]) -> None:
        """See `Transport`."""
        self._put(b"".join([_PUBACK.pack(0x4002, mid & 0xFFFF) for mid in mids]))

    def close(self, *, politely: bool) -> None:
        """See `Transport`."""
        if politely:
            self._put(_BYE)
            self.write()
        self._sock.close()

    @property
    def _ping_at(self) -> float:
        return min(self._said, self._heard) + self._keepalive

    def _put(self, data: bytes) -> None:
        self._out += data
        self._queued += len(data)

    def _receive(self) -> Ended | None:
        """Feed the reader what the socket holds, about `RECEIVE_BYTES` at most."""
        try:
            while data := self._sock.recv(RECEIVE_BYTES):
                self._reader.feed(data)
                self._heard, self._pinged = _clock(), False
                acknowledge_now(self._sock)
                if not isinstance(self._sock, ssl.SSLSocket) or len(self._reader) >= RECEIVE_BYTES:
                    return None  # TLS gives one record of at most 16 KiB at a time
        except _NOT_NOW:
            return None
        except OSError as e:
            return Ended(f"connection lost: {describe(e)}")
        return Ended("the broker closed the connection")

    def _keep_alive(self) -> None:
        now = _clock()
        if now - self._heard >= GONE * self._keepalive:
            self._ended = Ended(f"the broker has been silent for {now - self._heard:.0f} s")
        elif now >= self._ping_at and not self._pinged:
            self._put(_PING)
            self._pinged = True


def _connect(s: Settings) -> socket.socket:
    sock = socket.create_connection((s.host, s.port), CONNECT_SECONDS)
    try:
        no_delay(sock)
        if s.tls:
            sock = s.tls.wrap_socket(sock, server_hostname=s.host)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _hello(s: Settings) -> bytes:
    will = None
    if t := s.status:
        will = Will(t.topic, payload=t.offline.encode(), qos=_QOS[t.qos], retain=t.retain)
    return ConnectPacket(
        s.client_id,
        username=s.username,
        password=None if s.password is None else s.password.encode(),
        clean_start=False,
        will=will,
        keep_alive=s.keepalive,
        session_expiry_interval=int(s.session_expiry),
        receive_max=s.receive_max,
        max_packet_size=s.max_packet,
    ).write()
