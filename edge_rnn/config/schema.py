"""The tables and keys of a pipeline file, their types and their defaults.

`docs/pipeline.md` explains each of them; a test compares the two.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from edge_rnn.payload import MAX_PAYLOAD_BYTES

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_BYTE_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB)\s*/\s*(h|day)")
_ADDRESS = re.compile(r"(?:[^\s:\[\]]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")
_BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
_PERIODS = {"h": 3600.0, "day": 86400.0}
LONGEST_WAIT = 3600.0
"""Seconds; no longer has an acknowledgement to wait, whatever saves writes."""
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Qos = Literal[0, 1]
Text = Annotated[str, Meta(min_length=1)]


class Seconds(float):
    """A duration; infinite when it is "off"."""

    @classmethod
    def parse(cls, value: object) -> Seconds:
        """Of a number of seconds, or text such as "10s", "1.5h" or "off". Raises ValueError."""
        if value == "off":
            return cls(math.inf)
        if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
            value = float(match[1]) * _UNITS[match[2]]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e10:
            raise ValueError('expected a positive number of seconds or "10s", "5m", "1h", "off"')
        return cls(value)


class ByteRate(float):
    """Bytes a second."""

    @classmethod
    def parse(cls, value: object) -> ByteRate:
        """Of text such as "500 MB/day" or "20 MB/h". Raises ValueError."""
        match = _BYTE_RATE.fullmatch(value) if isinstance(value, str) else None
        if match is None or not float(match[1]):
            raise ValueError('expected bytes in a time: "500 MB/day", "2 GB/day", "20 MB/h"')
        return cls(float(match[1]) * _BYTES[match[2]] / _PERIODS[match[3]])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """[model]"""

    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """[broker.tls]: its presence turns TLS on; certificates are always verified."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    alpn: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """[broker]"""

    host: Text
    port: Port | None = None
    client_id: Text | None = None
    protocol: Literal["3.1.1", "5"] = "5"
    transport: Literal["tcp", "websockets"] = "tcp"
    path: Text = "/mqtt"
    client: Literal["batch", "paho"] | None = None
    keepalive: Annotated[int, Meta(ge=1, le=65535)] = 60
    session_expiry: Seconds = Seconds(7 * 86400)
    username: Text | None = None
    username_file: Path | None = None
    username_env: Text | None = None
    password_file: Path | None = None
    password_env: Text | None = None
    retry_min: Seconds = Seconds(1)
    retry_max: Seconds = Seconds(60)
    tls: Tls | None = None

    @property
    def usual_port(self) -> int:
        """The port, by default the one that is usual for the transport."""
        usual = {"tcp": (1883, 8883), "websockets": (80, 443)}[self.transport]
        return self.port or usual[self.tls is not None]

    @property
    def speaker(self) -> Literal["batch", "paho"]:
        """Which client speaks MQTT: the batch client where it can, which is version 5 over TCP."""
        able = self.protocol == "5" and self.transport == "tcp"
        return self.client or ("batch" if able else "paho")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """[status]: the birth and last-will messages."""

    topic: Text
    online: str = "online"
    offline: str = "offline"
    qos: Qos = 1
    retain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """[input]"""

    topic: Text | None = None
    topics: tuple[Text, ...] = ()
    stream: Text | None = None
    qos: Qos = 1
    fields: tuple[Text, ...] = ()
    array: Text | None = None
    timestamp: Text | None = None
    sequence: Text | None = None
    epoch: Text | None = None
    increasing: Text | None = None
    on_gap: Literal["flag", "reset", "stop"] = "flag"
    hold: Seconds = Seconds(5)
    hold_size: Positive = 10_000
    retained: bool = False
    max_payload_bytes: Positive = MAX_PAYLOAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """[output]"""

    topic: Text
    qos: Qos = 1
    retain: bool = False
    watermark: Text | None = None
    watermark_every: Seconds = Seconds(5.0)
    broker: Broker | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """[queue]"""

    size: Positive = 10_000
    policy: Literal["wait", "drop_oldest", "drop_newest"] = "wait"
    max_batch: Positive = 256
    max_delay: Seconds = Seconds(0.003)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """[state]"""

    file: Path | None = None
    save_every: Seconds | None = None
    commit_every: Seconds | None = None
    write_budget: ByteRate | None = None
    ttl: Seconds = Seconds(math.inf)
    capacity: Annotated[int, Meta(ge=1, lt=2**31)] = 1000
    on_model_change: Literal["refuse", "discard"] = "refuse"
    synchronous: Literal["full", "normal"] = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejects:
    """[rejects]"""

    file: Path
    max_bytes: Annotated[int, Meta(ge=8192)] = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """[log]"""

    level: Literal["debug", "info", "warning", "error"] = "info"
    stats_every: Seconds = Seconds(60)


class Address(str):
    """HOST:PORT to listen on; an IPv6 host stands in brackets."""

    @property
    def host(self) -> str:
        """Without brackets."""
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """0 to 65535; 0 is one that is free."""
        return int(self.rpartition(":")[2])

    @property
    def local(self) -> bool:
        """Can only this machine reach it?"""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def parse(cls, value: object) -> Address:
        """Of text. Raises ValueError."""
        match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
        if match is None or int(match[1]) > 65535:
            raise ValueError('expected HOST:PORT, such as "127.0.0.1:9108" or "[::1]:9108"')
        return cls(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsTable:
    """[metrics]: its presence has Prometheus metrics served."""

    listen: Address = Address("127.0.0.1:9108")
    public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """A whole pipeline file."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,100}$")] | None = None
    model: ModelTable
    broker: Broker
    input: Input
    output: Output
    status: Status | None = None
    queue: Queue = Queue()
    state: State = State()
    rejects: Rejects | None = None
    log: Log = Log()
    metrics: MetricsTable | None = None
