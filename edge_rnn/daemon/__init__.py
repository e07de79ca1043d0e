"""The daemon: wires a pipeline between the topics of a broker. Clocks are only here."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_rnn.config import Config, load_config
from edge_rnn.daemon.plan import Plan, make_pipeline, make_plan
from edge_rnn.daemon.service import Service
from edge_rnn.errors import EdgeRnnError
from edge_rnn.metrics import Metrics
from edge_rnn.signals import Signals

__all__ = ["Plan", "make_pipeline", "make_plan", "run"]

log = logging.getLogger(__name__)


def run(path: str | Path, signals: Signals) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Raises ConfigError, ModelFileError, JournalError (the journal), BrokerError (refused before
    ever accepted) or OSError (the last save failed).
    """
    metrics = Metrics()
    good: Config | None = None
    plan: Plan | None = make_plan(load_config(path))
    while plan is not None and not signals.stop:
        try:
            service = Service(plan, metrics, signals)
        except (EdgeRnnError, OSError) as e:
            if good is None:
                raise
            log.error("can't start the new configuration, going back: %s", e)
            plan, good = make_plan(good), None
            continue
        good = plan.config
        plan = service.serve()
