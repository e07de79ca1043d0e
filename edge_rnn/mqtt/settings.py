"""Whom to connect to, and what can go wrong on the way."""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_INT = struct.Struct("i")


@dataclass(frozen=True, slots=True)
class Status:
    """The birth message, published at every connect, and the last will."""

    topic: str
    online: str
    offline: str
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """Whom to connect to and what to subscribe to, if to anything; times in seconds.

    client: who speaks MQTT, "batch" only version 5 over TCP. receive_max: the most QoS 1 messages
    the broker may leave unacknowledged with us, max_packet: the most bytes of a packet we take,
    which MQTT 3.1.1 can't tell it. properties: keep messages' user properties.
    out_qos, out_retain: what is going to be published.
    session_expiry: 0 leaves no session behind, with either protocol.
    known: filters that a session the broker keeps for us may have, from earlier configurations too.
    """

    host: str
    port: int
    client_id: str
    filters: Sequence[str] = ()
    qos: int = 1
    retained: bool = False
    known: Sequence[str] = ()
    protocol: Literal["3.1.1", "5"] = "5"
    transport: Literal["tcp", "websockets"] = "tcp"
    path: str = "/mqtt"
    client: Literal["batch", "paho"] = "batch"
    receive_max: int = 65535
    max_packet: int = 1 << 20
    properties: bool = False
    out_qos: int = 1
    out_retain: bool = False
    keepalive: int = 60
    session_expiry: float = 7 * 86400
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    retry_min: float = 1.0
    retry_max: float = 60.0
    status: Status | None = None


def tls_context(
    ca: Path | None, cert: Path | None, key: Path | None, alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    """Verifies certificate and host name, against the system's authorities unless `ca` is given.

    alpn: names of protocols, for brokers that share their port. Raises OSError (ssl.SSLError is
    one) when a file can't be used.
    """
    context = ssl.create_default_context(cafile=ca)
    if cert:
        context.load_cert_chain(cert, key, password=lambda: b"")  # never ask on a terminal
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def no_delay(sock: Any) -> None:
    """Send small packets at once."""
    if getattr(sock, "family", None) in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def acknowledge_now(sock: Any) -> None:
    """A broker without TCP_NODELAY waits for our TCP acknowledgement, which Linux delays by 40 ms
    unless told not to, each time anew."""
    if hasattr(socket, "TCP_QUICKACK") and hasattr(sock, "setsockopt"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def unread(fileno: int) -> int:
    """How many bytes wait in a socket, 0 where there is none."""
    if fileno < 0:
        return 0
    found = fcntl.ioctl(fileno, termios.FIONREAD, bytes(_INT.size))
    return int(_INT.unpack(found)[0])


def describe(e: Exception) -> str:
    """Why a connection failed, for people."""
    if isinstance(e, ssl.SSLCertVerificationError):
        return f"the broker's TLS certificate is not accepted: {e.verify_message}"
    if isinstance(e, ssl.SSLError):
        return f"TLS failed: {e.reason or e}"
    if isinstance(e, socket.gaierror):
        return f"the host's name is not known: {e.strerror}"
    return (getattr(e, "strerror", None) or str(e) or type(e).__name__).lower()
