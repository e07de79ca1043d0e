"""What `edge-rnn run` does, in a module of its own because that takes half a second to load."""

from __future__ import annotations

import faulthandler
import logging
import math
import sys
import time
from pathlib import Path

import msgspec

from edge_rnn.config import load_config
from edge_rnn.config.schema import State
from edge_rnn.daemon import Plan, make_plan, run
from edge_rnn.signals import Signals


def serve(file: Path, signals: Signals, *, as_json: bool) -> None:
    """Serve a pipeline until stopped, logging to stderr. Raises what `daemon.run` does."""
    _log_to_stderr(as_json)
    faulthandler.enable()  # a crash of Python itself, such as for want of memory, says where
    run(file, signals)


def check(file: Path, *, as_json: bool) -> str:
    """What would be served, for people. Raises what `make_plan` does, and ConfigError."""
    _log_to_stderr(as_json)
    return describe(make_plan(load_config(file)))


def describe(plan: Plan) -> str:
    """What a pipeline would do, for people."""
    config, settings = plan.config, plan.settings
    model, tables = plan.pipeline.model, config.tables
    tls = " with TLS" if settings.tls else ""
    lines = {
        "pipeline": config.name,
        "model": f"{config.model_file}: {model.input_width} features -> {model.output_width}",
        "broker": f"{settings.host}:{settings.port}{tls} as {settings.client_id}",
        "subscribe": f"{', '.join(settings.filters)} (QoS {settings.qos})",
        "stream": config.routes.stream,
        "publish": f"{config.routes.output} (QoS {tables.output.qos}){_elsewhere(plan)}",
        "status": settings.status.topic if settings.status else "none",
        "metrics": tables.metrics.listen if tables.metrics else "none",
        "state": f"{config.state_file}, {_saves(tables.state)}",
    }
    return "\n".join(f"{key:<10} {value}" for key, value in lines.items())


def _elsewhere(plan: Plan) -> str:
    s = plan.output
    return f" to {s.host}:{s.port}{' with TLS' if s.tls else ''} as {s.client_id}" if s else ""


def _saves(state: State) -> str:
    if state.save_every is not None and math.isinf(state.save_every):
        return "saved at a clean stop only"
    least = state.commit_every or state.save_every
    often = f"at most every {least:g} s" if least else "with each batch"
    budget = f", {state.write_budget * 86400 / 1e6:g} MB/day" if state.write_budget else ""
    forgets = "" if state.save_every is None else "; a crash forgets what came since"
    return f"saved {often}{budget}{forgets}"


class _JsonLines(logging.Formatter):
    """One JSON object a record: time in seconds since 1970, level, logger, message, stats."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if stats := getattr(record, "stats", None):
            line["stats"] = stats
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def _log_to_stderr(as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%FT%T")
    plain.converter = time.gmtime
    handler.setFormatter(_JsonLines() if as_json else plain)
    logger = logging.getLogger("edge_rnn")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
