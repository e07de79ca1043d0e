"""Prometheus metrics over HTTP: what `Metrics` holds, read when somebody asks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING

from edge_rnn import __version__
from edge_rnn.config import Config
from edge_rnn.errors import MissingExtraError
from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.messages import REASONS
from edge_rnn.metrics import Histogram, Metrics
from edge_rnn.pipeline import Pipeline

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)

COUNTERS = {
    "messages_received": ("received", "Messages read from the broker."),
    "messages_duplicate": ("duplicates", "Messages that had been stepped before."),
    "messages_missing": ("missing", "Messages that never came and were given up."),
    "gaps": ("gaps", "How often messages were given up."),
    "predictions": ("predicted", "Predictions handed over to be sent."),
    "publish_errors": ("publish_errors", "Publications that the broker refused."),
    "connects": ("connects", "Connections that were accepted."),
    "disconnects": ("disconnects", "Connections that were lost."),
    "sessions_lost": ("sessions_lost", "Sessions that the broker did not keep."),
    "commits": ("saves", "Transactions of the state file."),
    "commit_errors": ("save_errors", "Transactions that the disk did not take."),
    "written_bytes": ("written_bytes", "Bytes that went to disk with the commits."),
}
"""Name -> field of Metrics, meaning."""
BY_REASON = {
    "messages_rejected": ("rejected", "Messages that could not be used."),
    "messages_dropped": ("dropped", "Messages in and predictions out that were lost on the way."),
    "streams_evicted": ("evicted", "Streams forgotten."),
}
GAUGES = {
    "streams": ("streams", "Streams that are open."),
    "state_bytes": ("state_bytes", "States of the open streams, in memory."),
    "state_file_bytes": ("state_file_bytes", "The state file and its log."),
    "queued_messages": ("queued", "Messages that wait to be stepped."),
    "held_messages": ("held", "Messages that wait for those before them."),
    "uncommitted": ("uncommitted", "Messages and predictions that wait for a commit."),
    "outbox_predictions": ("outbox", "Predictions that have not arrived."),
    "connected": ("connected", "1 while the broker has us."),
    "commit_interval_seconds": ("commit_interval", "Least time between two commits now."),
}
HISTOGRAMS = {
    "batch_size": ("batch_size", "Messages stepped at once."),
    "step_seconds": ("step", "Decoding and stepping a batch."),
    "commit_seconds": ("commit", "A transaction of the state file."),
    "publish_seconds": ("publish", "Handing a batch's predictions to the connection."),
    "answer_seconds": ("answer", "From taking a batch to acknowledging it."),
}


class Exporter:
    """Serves the metrics of one configuration, from a thread that only reads.

    Raises ConfigError if the address can't be listened on.
    """

    def __init__(self, config: Config, pipeline: Pipeline, metrics: Metrics) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        self._config, self._pipeline, self._metrics = config, pipeline, metrics
        table = config.tables.metrics
        assert table is not None  # noqa: S101 - made for it
        registry = CollectorRegistry()
        registry.register(self)
        if not table.listen.local:
            log.warning("anybody who can reach %s can read the metrics", table.listen)
        try:
            self._server, self._thread = start_http_server(
                table.listen.port, table.listen.host, registry
            )
        except OSError as e:
            problem = f"can't listen on {table.listen}: {e.strerror}"
            raise config.source.error(("metrics", "listen"), problem) from e
        host, port = table.listen.rpartition(":")[0], self._server.server_port
        log.info("metrics at http://%s:%d/metrics", host, port)

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def collect(self) -> Iterator[Metric]:
        """All metrics, for prometheus_client; counters that have counted nothing too."""
        from prometheus_client import core

        m = self._metrics
        for name, (field, text) in COUNTERS.items():
            value = getattr(m, field)
            yield core.CounterMetricFamily(f"edge_rnn_{name}", text, value)
        for name, (field, text) in BY_REASON.items():
            family = core.CounterMetricFamily(f"edge_rnn_{name}", text, labels=["reason"])
            for reason, value in _by_reason(field, getattr(m, field)).items():
                family.add_metric([reason], value)
            yield family
        now = m.now
        for name, (field, text) in GAUGES.items():
            yield core.GaugeMetricFamily(f"edge_rnn_{name}", text, float(getattr(now, field)))
        for name, (field, text) in HISTOGRAMS.items():
            buckets, total = _cumulative(getattr(m, field))
            yield core.HistogramMetricFamily(f"edge_rnn_{name}", text, buckets, total)
        build, delivery = self._infos()
        yield core.InfoMetricFamily("edge_rnn_build", "What runs.", build)
        yield core.InfoMetricFamily("edge_rnn_delivery", "What a stream is promised.", delivery)

    def _infos(self) -> tuple[dict[str, str], dict[str, str]]:
        config, pipeline = self._config, self._pipeline
        i, state = config.tables.input, config.tables.state
        build = {
            "version": __version__,
            "pipeline": config.name,
            "model": pipeline.digest[:12],
            "cpu": LEVEL.name,
        }
        # Numbers tell a repeated message from a new one; a time can't tell what is missing.
        numbers = "sequence" if i.sequence else "increasing" if i.increasing else "none"
        promise = "once" if numbers != "none" else "at_least_once"
        if i.qos == 0 or state.save_every is not None:
            promise = "may_lose"
        return build, {"promise": promise, "numbers": numbers, "qos": str(i.qos)}


def check_installed() -> None:
    """Raises MissingExtraError without what `[metrics]` needs."""
    if find_spec("prometheus_client") is None:
        raise MissingExtraError("prometheus-client", extra="metrics", need="for [metrics]")


def _by_reason(field: str, counted: Counter[str]) -> dict[str, int]:
    """From the main thread's counter, which may grow meanwhile: dict() copies in one go."""
    return dict.fromkeys(REASONS if field == "rejected" else (), 0) | dict(counted)


def _cumulative(h: Histogram) -> tuple[list[tuple[str, float]], float]:
    total, counts = h.sum, list(accumulate(h.counts))
    return list(zip([*map(str, map(float, h.bounds)), "+Inf"], counts, strict=True)), total
