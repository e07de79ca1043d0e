"""What came of the messages, for people: counted, logged, and set aside in a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from edge_rnn.config.schema import Tables
from edge_rnn.daemon.rejects import RejectFile
from edge_rnn.messages import Rejected, Result
from edge_rnn.metrics import Metrics
from edge_rnn.ordering import Gap
from edge_rnn.state import Eviction

log = logging.getLogger(__name__)


class Reporter:
    """Counts all and logs the first of each kind. Raises OSError if the file of what is set aside
    can't be opened; later troubles with it are logged."""

    def __init__(self, tables: Tables, metrics: Metrics) -> None:
        self._metrics, self._on_gap = metrics, tables.input.on_gap
        self._reported: set[tuple[str, str]] = set()
        to = tables.rejects
        self._rejects = RejectFile(to.file, to.max_bytes) if to else None

    def result(self, result: Result) -> None:
        """What came of a batch."""
        self._metrics.predicted += len(result.predictions)
        self._metrics.duplicates += len(result.duplicates)
        for rejected in result.rejected:
            self._reject(rejected)
        for gap in result.gaps:
            self._gap(gap)
        self.evictions(result.evictions)

    def evictions(self, evictions: Iterable[Eviction]) -> None:
        """Streams that were forgotten."""
        for e in evictions:
            self._metrics.evicted[e.reason] += 1
            level = logging.WARNING if self._is_first("", e.reason) else logging.DEBUG
            log.log(level, "stream %r forgotten (%s) after %d steps", e.stream, e.reason, e.steps)

    def stats(self, streams: int) -> None:
        """All counts, as one line."""
        stats = self._metrics.summary() | {"streams": streams}
        text = " ".join(f"{k}={v}" for k, v in stats.items())
        log.info("stats %s", text, extra={"stats": stats})

    def close(self) -> None:
        """Close the file."""
        if self._rejects:
            self._rejects.close()

    def _reject(self, r: Rejected) -> None:
        self._metrics.rejected[r.reason] += 1
        level = logging.INFO if r.reason == "retained" else logging.WARNING
        if self._is_first(r.kind, r.reason):
            log.log(level, "%r set aside (%s): %s", r.message.topic, r.reason, r.detail)
        if self._rejects and r.reason != "retained":
            self._set_aside(self._rejects, r)

    def _gap(self, g: Gap) -> None:
        self._metrics.gaps += 1
        self._metrics.missing += g.last - g.first + 1
        text = "stream %r: messages %d to %d (epoch %d) never came; input.on_gap: %s"
        log.warning(text, g.stream, g.first, g.last, g.epoch, self._on_gap)

    def _set_aside(self, file: RejectFile, r: Rejected) -> None:
        try:
            file.write(time.time(), r.message.topic, r.reason, r.detail, r.message.payload)
        except OSError as e:
            log.error("%s: %s; setting no more aside", file.path, e.strerror)
            file.close()
            self._rejects = None

    def _is_first(self, kind: str, reason: str) -> bool:
        """Each kind is logged once, then only counted."""
        first = (kind, reason) not in self._reported
        self._reported.add((kind, reason))
        return first
