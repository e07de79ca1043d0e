"""Pipeline files: TOML in, a checked `Config` out, or an error that points at the line."""

from __future__ import annotations

import math
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_rnn.config.read import read_table
from edge_rnn.config.schema import LONGEST_WAIT, Broker, Input, Status, Tables
from edge_rnn.config.source import Keys, Source
from edge_rnn.errors import ConfigError
from edge_rnn.graph import Model
from edge_rnn.messages import Spec
from edge_rnn.payload import parse_path, property_name
from edge_rnn.topics import RouteError, Routes, overlap

__all__ = ["Config", "Credentials", "load_config"]

_EXCLUSIVE = (
    ("input", "topic", "topics"),
    ("input", "fields", "array"),
    ("input", "sequence", "increasing"),
    ("broker", "username", "username_file"),
    ("broker", "username", "username_env"),
    ("broker", "username_file", "username_env"),
    ("broker", "password_file", "password_env"),
    ("state", "save_every", "commit_every"),
)
_NO_SECRETS = (
    "a password does not belong in this file: put it in a file of its own and give "
    "password_file, or in the environment and give password_env"
)
_QOS_2 = (
    "QoS 2 is not supported: the MQTT client confirms such a message before it is processed, so "
    "a crash would lose it; use 1"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the broker is told; never logged."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """A checked pipeline file."""

    source: Source
    tables: Tables
    spec: Spec
    routes: Routes

    @property
    def name(self) -> str:
        """The pipeline's name: the key `name`, else the file's name without its ending."""
        return self.tables.name or self.source.path.stem

    @property
    def model_file(self) -> Path:
        """The .ernn file."""
        return self.tables.model.file

    @property
    def state_file(self) -> Path:
        """The journal, by default beside the pipeline file."""
        return self.tables.state.file or self.source.path.with_suffix(".state")

    @property
    def client_id(self) -> str:
        """Stable across restarts: the broker keeps our session under it."""
        return self.client_id_of(self.tables.broker)

    @property
    def port(self) -> int:
        """The broker's port, by default the one that is usual for its transport."""
        return self.tables.broker.usual_port

    def client_id_of(self, broker: Broker) -> str:
        """Under which we are known there; by default another one at the output's own broker, which
        may be the input's after all."""
        suffix = "" if broker is self.tables.broker else "-out"
        default = f"edge-rnn-{self.name}-{socket.gethostname()}{suffix}"
        return broker.client_id or default

    def credentials(self, broker: Broker | None = None, keys: Keys = ("broker",)) -> Credentials:
        """Read user name and password now, of [broker] or of another such table, which stands at
        `keys`. Raises ConfigError where one can't be had."""
        b = broker or self.tables.broker
        name = self._secret((*keys, "username"), b.username_file, b.username_env)
        password = self._secret((*keys, "password"), b.password_file, b.password_env)
        return Credentials(b.username or name, password)

    def check_model(self, model: Model) -> None:
        """Do features and model fit? Raises ConfigError pointing at the key that does not."""
        try:
            self.spec.decoder(model)
        except ValueError as e:
            key = "array" if self.spec.array is not None else "fields"
            raise self.source.error(("input", key), str(e)) from e

    def _secret(self, keys: Keys, file: Path | None, variable: str | None) -> str | None:
        *table, what = keys
        if file is not None:
            try:
                return file.read_text("utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as e:
                problem = f"can't read {file}: {getattr(e, 'strerror', None) or 'not UTF-8'}"
                raise self.source.error((*table, f"{what}_file"), problem) from None
        if variable is not None and variable not in os.environ:
            problem = f"the environment has no {variable}"
            raise self.source.error((*table, f"{what}_env"), problem)
        return None if variable is None else os.environ[variable]


def load_config(path: str | Path) -> Config:
    """Read and check a pipeline file; relative paths in it start from its folder.

    Raises ConfigError: `file:line: [table] key: what came, what is allowed`.
    """
    path = Path(path)
    try:
        source = Source(path, path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, "strerror", None) or "not UTF-8"
        raise ConfigError(f"{path}: can't be read: {reason}") from e
    data = source.parse()
    _explain(source, data)
    tables = read_table(Tables, data, source, path.absolute().parent)
    spec = _spec(tables)
    routes = _routes(source, spec, tables)
    _check_status(source, tables.status, routes)
    _check_watermark(source, tables, routes)
    _check_paths(source, tables.input, tables.broker)
    _check_broker(source, tables.broker, ("broker",))
    if tables.output.broker:
        _check_broker(source, tables.output.broker, ("output", "broker"))
    _check_waits(source, tables)
    metrics = tables.metrics
    if metrics and not metrics.listen.local and not metrics.public:
        problem = f"{metrics.listen} can be reached from elsewhere: set public = true if it should"
        raise source.error(("metrics", "listen"), problem)
    return Config(source, tables, spec, routes)


def _explain(source: Source, data: dict[str, Any]) -> None:
    """Refuse, with the reason, what people try and what is not there on purpose."""
    for keys in (("broker",), ("output", "broker")):
        if "password" in _table(data, *keys):
            raise source.error((*keys, "password"), _NO_SECRETS)
    for table in ("input", "output", "status"):
        if _table(data, table).get("qos") == 2:
            raise source.error((table, "qos"), _QOS_2)
    for table, one, other in _EXCLUSIVE:
        for keys in ((table,), ("output", table)):
            if {one, other} <= _table(data, *keys).keys():
                raise source.error((*keys, other), f"give {one} or {other}, not both")


def _table(data: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = data.get(name, {})
        data = value if isinstance(value, dict) else {}
    return data


def _spec(tables: Tables) -> Spec:
    i, state = tables.input, tables.state
    return Spec(
        topics=[i.topic] if i.topic else i.topics,
        output=tables.output.topic,
        stream=i.stream,
        fields=i.fields,
        array=i.array,
        timestamp=i.timestamp,
        sequence=i.sequence,
        epoch=i.epoch,
        increasing=i.increasing,
        on_gap=i.on_gap,
        hold=float(i.hold),
        hold_size=i.hold_size,
        retained=i.retained,
        max_payload_bytes=i.max_payload_bytes,
        capacity=state.capacity,
        ttl=None if math.isinf(state.ttl) else float(state.ttl),
    )


def _routes(source: Source, spec: Spec, tables: Tables) -> Routes:
    try:
        return Routes(spec.topics, spec.stream, spec.output)
    except RouteError as e:
        patterns = ("input", "topic" if tables.input.topic else "topics")
        keys = {"patterns": patterns, "stream": ("input", "stream")}
        raise source.error(keys.get(e.part, ("output", "topic")), str(e)) from e


def _check_status(source: Source, status: Status | None, routes: Routes) -> None:
    if status is None:
        return
    topic = status.topic
    if any(c in topic for c in "+#{}\0"):
        raise source.error(("status", "topic"), f"{topic!r} is not one topic to publish to")
    if any(overlap(topic, p.own_filter) for p in routes.patterns):
        raise source.error(("status", "topic"), f"{topic!r} matches an input topic")


def _check_watermark(source: Source, tables: Tables, routes: Routes) -> None:
    topic, keys = tables.output.watermark, ("output", "watermark")
    if topic is None:
        return
    if not tables.input.sequence:
        raise source.error(keys, "needs input.sequence: it tells up to which number all is safe")
    before, *after = topic.split("{stream}")
    if len(after) != 1 or any(c in before + after[0] for c in "+#{}\0"):
        raise source.error(keys, f"{topic!r} is not one topic for each {{stream}}")
    below = before[: before.rfind("/") + 1] + "#"  # a stream's id may have several levels
    if any(overlap(below, p.own_filter) for p in routes.patterns):
        raise source.error(keys, f"{below!r} matches an input topic: begin it with another level")


def _check_waits(source: Source, tables: Tables) -> None:
    waits = {
        ("queue", "max_delay"): tables.queue.max_delay,
        ("state", "commit_every"): tables.state.commit_every,
    }
    for keys, seconds in waits.items():
        if seconds and seconds > LONGEST_WAIT:
            problem = "must be at most 1h: acknowledgements and predictions wait for it"
            raise source.error(keys, problem)
    if math.isinf(tables.output.watermark_every):
        problem = "must be finite: publishers keep all messages until they are told"
        raise source.error(("output", "watermark_every"), problem)


def _check_paths(source: Source, table: Input, broker: Broker) -> None:
    paths = [("fields", f) for f in table.fields]
    others = ("array", "timestamp", "sequence", "epoch", "increasing")
    paths += [(k, p) for k in others if (p := getattr(table, k))]
    if table.epoch and not table.sequence:
        raise source.error(("input", "epoch"), "needs sequence beside it: the epoch's numbers")
    apart = [property_name(p) is None for p in (table.sequence, table.epoch) if p]
    if len(set(apart)) > 1:
        problem = "stands where sequence stands: both in the payload, or both in user properties"
        raise source.error(("input", "epoch"), problem)
    if property_name(table.sequence) is not None:
        if broker.protocol != "5":
            problem = 'user properties need broker.protocol = "5"'
            raise source.error(("input", "sequence"), problem)
        paths = [(k, p) for k, p in paths if k not in ("sequence", "epoch")]
    for key, path in paths:
        try:
            parse_path(path)
        except ValueError as e:
            raise source.error(("input", key), str(e)) from e


def _check_broker(source: Source, broker: Broker, keys: Keys) -> None:
    if broker.retry_min > broker.retry_max or math.isinf(broker.retry_max):
        raise source.error((*keys, "retry_max"), "must be finite and at least retry_min")
    if math.isinf(broker.session_expiry):
        raise source.error((*keys, "session_expiry"), "must be finite")
    if broker.client == "batch" and (broker.protocol != "5" or broker.transport != "tcp"):
        problem = 'the batch client speaks protocol "5" over transport "tcp" only: use "paho"'
        raise source.error((*keys, "client"), problem)
    named = broker.username or broker.username_file or broker.username_env
    secret = next((k for k in ("password_file", "password_env") if getattr(broker, k)), None)
    if secret and not named:
        raise source.error((*keys, secret), "a password needs a username beside it")
    if broker.tls and broker.tls.key_file and not broker.tls.cert_file:
        raise source.error((*keys, "tls", "key_file"), "needs cert_file beside it")
