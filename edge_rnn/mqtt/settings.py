"""Whom to connect to, and what can go wrong on the way."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


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
    """Whom to connect to and what to subscribe to; times in seconds.

    obsolete: filters of an earlier configuration that the kept session may still have.
    """

    host: str
    port: int
    client_id: str
    filters: Sequence[str]
    qos: int = 1
    retained: bool = False
    obsolete: Sequence[str] = ()
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    keepalive: int = 60
    session_expiry: float = 7 * 86400
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    retry_min: float = 1.0
    retry_max: float = 60.0
    status: Status | None = None


def tls_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Verifies certificate and host name, against the system's authorities unless `ca` is given.

    Raises OSError (ssl.SSLError is one) when a file can't be used.
    """
    context = ssl.create_default_context(cafile=ca)
    if cert:
        context.load_cert_chain(cert, key, password=lambda: b"")  # never ask on a terminal
    return context


def describe(e: Exception) -> str:
    """Why a connection failed, for people."""
    if isinstance(e, ssl.SSLCertVerificationError):
        return f"the broker's TLS certificate is not accepted: {e.verify_message}"
    if isinstance(e, ssl.SSLError):
        return f"TLS failed: {e.reason or e}"
    if isinstance(e, socket.gaierror):
        return f"the host's name is not known: {e.strerror}"
    return (getattr(e, "strerror", None) or str(e) or type(e).__name__).lower()
