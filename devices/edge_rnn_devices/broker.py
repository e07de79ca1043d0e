"""The demo's MQTT: an embedded broker, and connections quick enough to watch a busy one.

Both are iotcore's, written in Rust: a Python client costs the demo several times the daemon's work.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_rnn.errors import BrokerError, MissingExtraError

_CONNECT_SECONDS = 5
_IN_FLIGHT = 1000  # at iotcore's 100 a busy daemon waits for its own acknowledgements
_CONFIG = """\
id = 0
[router]
id = 0
max_connections = 2000
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 10
"""
_LISTENER = """\
[{version}.1]
name = "{version}"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[{version}.1.connections]
connection_timeout_ms = 5000
max_payload_size = 65536
max_inflight_count = {in_flight}
dynamic_filters = true
"""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker listens: `port` speaks MQTT 3.1.1 and `port5` MQTT 5; often it's the same."""

    host: str
    port: int
    port5: int


@contextmanager
def embedded_broker() -> Iterator[Address]:
    """A broker on free ports of 127.0.0.1. Raises MissingExtraError."""
    address = Address("127.0.0.1", free_port(), free_port())
    text = _CONFIG
    for version, port in (("v4", address.port), ("v5", address.port5)):
        text += _LISTENER.format(
            version=version, host=address.host, port=port, in_flight=_IN_FLIGHT
        )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "broker.toml"
        config.write_text(text)
        with _iotcore().Broker(config_path=str(config)):
            yield address


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
