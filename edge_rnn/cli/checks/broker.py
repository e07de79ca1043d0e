"""The broker: reachable, trusted, willing; what it grants, and what it keeps."""

from __future__ import annotations

import fcntl
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edge_rnn.cli.checks import Finding, error, note, ok, warning
from edge_rnn.cli.checks.files import expiry
from edge_rnn.cli.checks.visit import Visit, visit
from edge_rnn.config import Config
from edge_rnn.daemon.plan import make_settings
from edge_rnn.errors import BrokerError
from edge_rnn.mqtt import Settings
from edge_rnn.mqtt.settings import describe
from edge_rnn.mqtt.transport import CONNECT_SECONDS

QUIET = 1.0
PROBES = 1200
"""Messages of `--probe`: more than mosquitto queues for a client unless told otherwise."""
_VERSION = "$SYS/broker/version"
_SYSTEM = 0.5


def broker(config: Config, *, probe: bool) -> Iterator[Finding]:
    """All that can be seen without a trace: a session of our own, gone when we leave.

    Nothing is published, but with `probe` to a topic under the doctor's own client id.
    """
    configured = make_settings(config)
    client_id = f"{configured.client_id}-doctor"
    s = replace(configured, client_id=client_id, session_expiry=0, status=None, retained=False)
    where = f"{s.host}:{s.port}"
    try:
        if s.tls:
            yield _server_certificate(s, s.tls)
        with visit(s) as v:
            user = f" as user {s.username!r}" if s.username else ""
            yield ok("broker", f"{where} accepts us{user} by MQTT {s.protocol}")
            yield from _grants(v, s)
            yield from _system(v)
        yield from _offers(config, s, configured.session_expiry)
        yield from _client_id(config, s)
        if probe:
            yield from _probe(config, s)
    except (OSError, UnicodeError) as e:
        reason = str(e) if isinstance(e, BrokerError) else describe(e)
        yield error("broker", f"{where}: {reason}", _cure(e))


def _cure(e: Exception) -> str:
    if isinstance(e, ssl.SSLError):
        return "check broker.tls.ca_file, and that broker.host is a name in the certificate"
    if isinstance(e, BrokerError):
        return "check user name, password and access rules of broker.client_id, and broker.protocol"
    return "check broker.host and broker.port, and that the broker runs and listens there"


def _server_certificate(s: Settings, context: ssl.SSLContext) -> Finding:
    with (
        socket.create_connection((s.host, s.port), CONNECT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=s.host) as sock,
    ):
        certificate = sock.getpeercert() or {}
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return expiry("broker", "the broker's certificate is trusted and", ends)


def _grants(v: Visit, s: Settings) -> Iterator[Finding]:
    for filter_, grant in zip(s.filters, v.subscribe(s.filters), strict=True):
        if isinstance(grant, str):
            yield error("broker", f"it refuses the subscription to {filter_!r}: {grant}",
                        f"allow user {s.username!r} to read it (ACL)")  # fmt: skip
        elif grant < s.qos:
            yield warning("broker", f"{filter_!r}: it grants QoS {grant} only",
                          "allow QoS 1 at the broker, or messages may be lost")  # fmt: skip
        else:
            yield ok("broker", f"{filter_!r}: QoS {min(grant, s.qos)} granted")


def _system(v: Visit) -> Iterator[Finding]:
    """What the broker calls itself, where we may read it."""
    if isinstance(v.subscribe([_VERSION], retained=True)[0], str):
        return
    v.until(lambda: any(m.topic == _VERSION for m in v.messages), _SYSTEM)
    for m in v.messages:
        if m.topic == _VERSION:
            yield ok("broker", f"it is {m.payload.decode(errors='replace')[:100]}")
            if m.payload.startswith(b"mosquitto"):
                yield note(
                    "broker",
                    "mosquitto's settings can't be seen; its defaults lose sessions at a restart, "
                    "keep 1000 messages for us while we are away, have 20 on the way at once",
                    "mosquitto.conf: persistence true, autosave_interval 1, "
                    "autosave_on_changes true, max_queued_messages 100000, "
                    "max_inflight_messages 1000; --probe measures the last two",
                )


def _offers(config: Config, s: Settings, wanted: float) -> Iterator[Finding]:
    """The limits that an MQTT 5 broker tells, and whether it keeps a session."""
    five = replace(s, protocol="5", client="paho" if s.client == "paho" else "batch",
                   session_expiry=wanted)  # fmt: skip
    try:
        with visit(five) as v:
            a = v.accepted
        with visit(replace(five, session_expiry=0)) as again:
            kept = again.accepted.session_present
    except BrokerError as e:
        if s.protocol == "5":
            raise
        yield ok("broker", f"it speaks no MQTT 5, so its limits can't be seen ({e})")
        return
    if problem := a.lacks(make_settings(config)):
        yield error("broker", problem, "or use another broker")
    limits = f"{a.receive_max} unconfirmed messages"
    limits += f", {a.max_packet} bytes a packet" if a.max_packet else ""
    yield ok("broker", f"it takes QoS {a.max_qos}, {limits}, {'' if a.retain else 'no '}retained")
    if not kept:
        yield error("broker", "it keeps no session: messages that come while we are away are lost",
                    "allow persistent sessions at the broker")  # fmt: skip
    elif a.session_expiry is not None and a.session_expiry < int(wanted):
        yield warning("broker", f"it keeps our session for {a.session_expiry:.0f} s only",
                      "raise the broker's limit on session expiry")  # fmt: skip
    else:
        yield ok("broker", "it keeps our session while we are away")


def _client_id(config: Config, s: Settings) -> Iterator[Finding]:
    """Does somebody use our client id already? Connecting with it would end that connection."""
    status = config.tables.status
    ours = config.client_id
    if running := _owner(config.state_file):
        yield ok("broker", f"the daemon runs (process {running}) as {ours!r}")
    elif status and status.retain:
        with visit(s) as v:
            v.subscribe([status.topic], retained=True)
            v.until(lambda: bool(v.messages), _SYSTEM)
            told = [m.payload for m in v.messages if m.topic == status.topic]
        if told and told[-1] == status.online.encode():
            yield warning("broker", f"no daemon uses {config.state_file}, and yet {status.topic} "
                          f"says {status.online!r}: another machine may run this pipeline",
                          "give each its own broker.client_id and status.topic")  # fmt: skip
        else:
            yield ok("broker", f"nobody says at {status.topic} to be us")


def _owner(state: Path) -> str:
    """The process that uses the state file, "" if none does."""
    try:
        with Path(f"{state}.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read(20).strip() or "unknown"
    except OSError:
        pass
    return ""


def _probe(config: Config, s: Settings) -> Iterator[Finding]:
    """Publish to a session that is away, to a topic under the doctor's id, and see what is kept."""
    topic = f"{s.client_id}/probe"
    away = replace(s, session_expiry=300)
    try:
        with visit(away) as v:
            v.subscribe([topic])
        with visit(replace(s, client_id=f"{s.client_id}-2")) as publisher:
            publisher.publish(topic, [b"%d" % n for n in range(PROBES)])
        with visit(away) as v:
            v.subscribe([topic])
            window, taken = _settled(v), 0
            while v.until(lambda: len(v.messages) > taken, QUIET):  # noqa: B023
                v.acknowledge(v.messages[taken:])
                taken = len(v.messages)
            kept = len({m.payload for m in v.messages})
    finally:
        with visit(s):  # which ends the session
            pass
    yield _queue(kept)
    yield _window(config, window)


def _settled(v: Visit) -> int:
    """How many messages there are when no more come."""
    count = -1
    while len(v.messages) != count:
        count = len(v.messages)
        v.until(lambda n=count: len(v.messages) > n, QUIET)  # type: ignore[misc]
    return count


def _queue(kept: int) -> Finding:
    if kept == PROBES:
        return ok("probe", f"all of {PROBES} messages were kept for a client that was away")
    return warning("probe", f"{kept} of {PROBES} messages were kept for a client that was away",
                   "raise the broker's queue (mosquitto: max_queued_messages)")  # fmt: skip


def _window(config: Config, window: int) -> Finding:
    text = f"{window} messages are on the way at once"
    if every := config.tables.state.commit_every:
        text += f": {window / every:.0f} a second with state.commit_every"
    if window < config.tables.queue.max_batch:
        return warning(
            "probe", text, "raise the broker's window (mosquitto: max_inflight_messages)"
        )
    return ok("probe", text)
