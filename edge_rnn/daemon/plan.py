"""From a configuration to everything that can be made without the broker or the journal."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from edge_rnn.config import Config
from edge_rnn.daemon.exporter import check_installed
from edge_rnn.modelfile import load
from edge_rnn.mqtt import Settings, Status, tls_context
from edge_rnn.pipeline import Pipeline

MAX_PACKET_BYTES = 1 << 20
_LOCAL = {"localhost", "127.0.0.1", "::1"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked configuration, its pipeline, and how to reach the broker."""

    config: Config
    pipeline: Pipeline
    settings: Settings


def make_plan(config: Config) -> Plan:
    """Load the model, the certificates and the credentials, and check that they fit.

    Raises ConfigError, ModelFileError, or MissingExtraError without what `[metrics]` needs.
    """
    if config.tables.metrics:
        check_installed()
    return Plan(config, make_pipeline(config), make_settings(config))


def make_pipeline(config: Config, model_file: Path | None = None) -> Pipeline:
    """What a configuration computes, with its own model or another one.

    Raises ConfigError or ModelFileError.
    """
    model = load(model_file or config.model_file)
    config.check_model(model)
    return Pipeline(model, config.spec)


def make_settings(config: Config) -> Settings:
    """How to reach the broker. Raises ConfigError."""
    broker = config.tables.broker
    secret = config.credentials()
    if secret.password and not broker.tls and broker.host not in _LOCAL:
        log.warning("the password travels in clear text: use [broker.tls]")
    return Settings(
        host=broker.host,
        port=config.port,
        client_id=config.client_id,
        filters=[p.filter for p in config.routes.patterns],
        qos=config.tables.input.qos,
        retained=config.spec.retained,
        protocol=broker.protocol,
        transport=broker.transport,
        path=broker.path,
        client=broker.speaker,
        receive_max=min(config.tables.queue.size, 65535),
        max_packet=_max_packet(config),
        out_qos=config.tables.output.qos,
        out_retain=config.tables.output.retain,
        keepalive=broker.keepalive,
        session_expiry=broker.session_expiry,
        username=secret.username,
        password=secret.password,
        tls=_tls(config),
        retry_min=broker.retry_min,
        retry_max=broker.retry_max,
        status=_status(config),
    )


def _max_packet(config: Config) -> int:
    """The broker drops what is larger, unseen; payloads that are a bit too large are counted."""
    return max(MAX_PACKET_BYTES, 2 * config.spec.max_payload_bytes)


def _status(config: Config) -> Status | None:
    s = config.tables.status
    return None if s is None else Status(s.topic, s.online, s.offline, s.qos, s.retain)


def _tls(config: Config) -> ssl.SSLContext | None:
    tls = config.tables.broker.tls
    if tls is None:
        return None
    try:
        return tls_context(tls.ca_file, tls.cert_file, tls.key_file, tls.alpn)
    except OSError as e:
        raise config.source.error(("broker", "tls"), f"can't use these files: {e}") from e
