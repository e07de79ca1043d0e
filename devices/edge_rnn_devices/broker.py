"""The demo's MQTT: an embedded broker, and connections quick enough to watch a busy one.

Both are iotcore's, written in Rust: a Python client costs the demo several times the daemon's work.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from edge_rnn.errors import BrokerError, MissingExtraError

_CONNECT_SECONDS = 5
_IN_FLIGHT = 1000  # at iotcore's 100 a busy daemon waits for its own acknowledgements


@contextmanager
def embedded_broker() -> Iterator[tuple[str, int]]:
    """A broker on a free port of 127.0.0.1 -> (host, port). Raises MissingExtraError."""
    port = free_port()
    with _iotcore().Broker(port=port, listen="127.0.0.1", max_inflight_count=_IN_FLIGHT):
        yield "127.0.0.1", port


def connect(host: str, port: int) -> Any:
    """An iotcore client: subscribe, start, publish, stop; payloads are bytes.

    Raises BrokerError when nobody listens there, MissingExtraError.
    """
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as e:
        raise BrokerError(f"no broker at {host}:{port}: {e}") from e
    return _iotcore().IotCore(host, port, start_broker=False, convert_to_str=False)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _iotcore() -> ModuleType:
    try:
        import iotcore
    except ImportError as e:
        raise MissingExtraError("iotcore>=0.4", extra="demo", need="for the demo's MQTT") from e
    return iotcore
