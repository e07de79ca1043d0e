"""From a configuration to everything that can be made without the broker or the journal."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, replace
from pathlib import Path

from edge_rnn.config import Config
from edge_rnn.config.schema import Broker
from edge_rnn.config.source import Keys
from edge_rnn.daemon.exporter import check_installed
from edge_rnn.modelfile import load
from edge_rnn.mqtt import Settings, Status, tls_context
from edge_rnn.pipeline import Pipeline

MAX_PACKET_BYTES = 1 << 20
_LOCAL = {"localhost", "127.0.0.1", "::1"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked configuration, its pipeline, and how to reach the broker, or, with `output`, that
    of the messages and that of the predictions."""

    config: Config
    pipeline: Pipeline
    settings: Settings
    output: Settings | None = None


def make_plan(config: Config) -> Plan:
    """Load the model, the certificates and the credentials, and check that they fit.

    Raises ConfigError, ModelFileError, or MissingExtraError without what `[metrics]` needs.
    """
    if config.tables.metrics:
        check_installed()
    output = None if config.tables.output.broker is None else make_output_settings(config)
    return Plan(config, make_pipeline(config), make_settings(config), output)


def make_pipeline(config: Config, model_file: Path | None = None) -> Pipeline:
    """What a configuration computes, with its own model or another one.

    Raises ConfigError or ModelFileError.
    """
    model = load(model_file or config.model_file)
    config.check_model(model)
    return Pipeline(model, config.spec)


def make_settings(config: Config) -> Settings:
    """How to reach the broker of the messages. Raises ConfigError."""
    both = config.tables.output.broker is None  # predictions go there too
    settings = replace(
        _settings(config, config.tables.broker, ("broker",)),
        filters=[p.filter for p in config.routes.patterns],
        qos=config.tables.input.qos,
        retained=config.spec.retained,
        properties=config.spec.stamps is not None,
        receive_max=min(config.tables.queue.size, 65535),
        max_packet=max(MAX_PACKET_BYTES, 2 * config.spec.max_payload_bytes),
    )
    return _publishing(settings, config) if both else settings


def make_output_settings(config: Config) -> Settings:
    """How to reach the broker of the predictions, if it is another. Raises ConfigError."""
    broker = config.tables.output.broker
    assert broker is not None  # noqa: S101 - asked for then only
    return _publishing(_settings(config, broker, ("output", "broker")), config)


def _settings(config: Config, broker: Broker, keys: Keys) -> Settings:
    """Of a table [broker] at these keys, whatever is sent there."""
    secret = config.credentials(broker, keys)
    if secret.password and not broker.tls and broker.host not in _LOCAL:
        log.warning("the password travels in clear text: use [%s.tls]", ".".join(map(str, keys)))
    return Settings(
        host=broker.host,
        port=broker.usual_port,
        client_id=config.client_id_of(broker),
        protocol=broker.protocol,
        transport=broker.transport,
        path=broker.path,
        client=broker.speaker,
        out_qos=0,
        keepalive=broker.keepalive,
        session_expiry=broker.session_expiry,
        username=secret.username,
        password=secret.password,
        tls=_tls(config, broker, keys),
        retry_min=broker.retry_min,
        retry_max=broker.retry_max,
    )


def _publishing(settings: Settings, config: Config) -> Settings:
    output = config.tables.output
    return replace(settings, out_qos=output.qos, out_retain=output.retain, status=_status(config))


def _status(config: Config) -> Status | None:
    s = config.tables.status
    return None if s is None else Status(s.topic, s.online, s.offline, s.qos, s.retain)


def _tls(config: Config, broker: Broker, keys: Keys) -> ssl.SSLContext | None:
    tls = broker.tls
    if tls is None:
        return None
    try:
        return tls_context(tls.ca_file, tls.cert_file, tls.key_file, tls.alpn)
    except OSError as e:
        raise config.source.error((*keys, "tls"), f"can't use these files: {e}") from e
