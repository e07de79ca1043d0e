"""Secrets, certificates, and the promise that the configuration makes."""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from edge_rnn.cli.checks import Finding, error, ok, warning
from edge_rnn.config import Config

SOON = 30 * 86400.0
_VERSION, _UTC_TIME = 0xA0, 0x17


def secrets(config: Config) -> Iterator[Finding]:
    """Can others read what only the daemon should?"""
    broker = config.tables.broker
    private = [broker.password_file, config.state_file]
    if broker.tls:
        private.append(broker.tls.key_file)
    for path in private:
        if path is None or not path.exists():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            text = f"{path} can be read by others (mode {mode:o})"
            yield warning("files", text, f"chmod 600 {path}")
        else:
            yield ok("files", f"{path} is its owner's only")


def certificates(config: Config) -> Iterator[Finding]:
    """How long are our certificates good?"""
    tls = config.tables.broker.tls
    for path in (tls.ca_file, tls.cert_file) if tls else ():
        if path is None:
            continue
        try:
            ends = min(not_after(der) for der in _certificates(path))
        except (OSError, ValueError) as e:
            yield error("files", f"{path}: no certificate can be read: {e}", "make it anew, as PEM")
        else:
            yield expiry("files", str(path), ends)


def expiry(area: str, what: str, ends: float) -> Finding:
    """`ends`: seconds since 1970."""
    day = datetime.fromtimestamp(ends, UTC).date()
    if ends < time.time():
        return error(area, f"{what} has expired on {day}", "renew the certificate")
    if ends < time.time() + SOON:
        return warning(area, f"{what} expires on {day}", "renew the certificate")
    return ok(area, f"{what} is valid until {day}")


def promise(config: Config) -> Iterator[Finding]:
    """What may a stream lose or see twice?"""
    i, state = config.tables.input, config.tables.state
    if i.qos == 0:
        yield warning("delivery", "QoS 0: messages are lost when the connection is",
                      "set input.qos = 1, and publish with it")  # fmt: skip
    if i.sequence:
        yield ok(
            "delivery", f"numbered by {i.sequence!r}: each message once, missing ones are told"
        )
    elif i.increasing:
        yield warning("delivery", f"numbered by {i.increasing!r}: each message once, but nothing "
                      "shows what is missing", "have the publisher count its messages, and set "
                      "input.sequence")  # fmt: skip
    else:
        yield warning("delivery", "messages have no numbers: one that the broker sends again is "
                      "stepped twice, one that is lost goes unnoticed", "have the publisher count "
                      "its messages, and set input.sequence")  # fmt: skip
    if state.save_every is not None:
        yield warning("delivery", f"state.save_every: a crash forgets up to {state.save_every:g} s",
                      "use state.commit_every, which writes as little and forgets nothing"
                      )  # fmt: skip


def _certificates(path: Path) -> list[bytes]:
    """Those of a PEM file, as DER. Raises OSError, or ValueError where there is none."""
    end = "-----END CERTIFICATE-----"
    parts = path.read_text("ascii").split(end)[:-1]
    return [ssl.PEM_cert_to_DER_cert(p[p.index("-----BEGIN CERT") :] + end) for p in parts]


def not_after(der: bytes) -> float:
    """When a certificate ends, in seconds since 1970. Raises ValueError if it is none.

    RFC 5280, 4.1: tbsCertificate is [0] version, serial, algorithm, issuer, validity, ...
    """
    try:
        (_, certificate), *_ = _elements(der)
        (_, signed), *_ = _elements(certificate)
        fields = [f for f in _elements(signed) if f[0] != _VERSION]
        kind, text = _elements(fields[3][1])[1]
    except IndexError as e:
        raise ValueError("not a certificate") from e
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """(tag, content) of each element. Raises IndexError where one is cut short."""
    found, at = [], 0
    while at < len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size & 0x80:
            octets = size & 0x7F
            size, at = int.from_bytes(der[at : at + octets], "big"), at + octets
        if at + size > len(der):
            raise IndexError(at)
        found.append((tag, der[at : at + size]))
        at += size
    return found
