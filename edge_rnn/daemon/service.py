"""One configuration at work."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from edge_rnn.config import load_config
from edge_rnn.daemon.outbox import Outbox
from edge_rnn.daemon.plan import Plan, make_plan
from edge_rnn.daemon.rejects import RejectFile
from edge_rnn.daemon.signals import Signals
from edge_rnn.daemon.systemd import notify
from edge_rnn.errors import EdgeRnnError
from edge_rnn.journal import Journal, Letter
from edge_rnn.lineage import lineage
from edge_rnn.messages import Message, Rejected, Result
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt import Inbox, Link
from edge_rnn.ordering import Gap
from edge_rnn.state import Eviction

FLUSH_SECONDS = 5.0
IDLE_SECONDS = 1.0
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)
clock = time.monotonic


@dataclass(frozen=True, slots=True)
class _Answer:
    """A batch and what came of it."""

    batch: Sequence[Message]
    result: Result


class Service:
    """One configuration at work: journal open, connection up, messages answered."""

    def __init__(self, plan: Plan, metrics: Metrics, signals: Signals) -> None:
        self._plan, self._metrics, self._signals = plan, metrics, signals
        config, tables = plan.config, plan.config.tables
        logging.getLogger("edge_rnn").setLevel(tables.log.level.upper())
        self._inbox = Inbox(tables.queue.size, tables.queue.policy)
        self._rejects: RejectFile | None = None
        self._reported: set[tuple[str, str]] = set()
        self._journal = _open_journal(plan)
        try:
            if tables.rejects:
                self._rejects = RejectFile(tables.rejects.file, tables.rejects.max_bytes)
            self._continue()
            self._link = self._make_link()
        except BaseException:
            self._journal.close()
            raise
        self._noted = False
        self._outbox = Outbox(tables.output.qos, tables.output.retain)
        for box, letters in self._journal.outbox():
            self._outbox.put(box, letters)
        self._exact = tables.state.save_every is None
        self._unsaved: _Answer | None = None
        now = clock()
        self._retry_at = now
        self._save_at = now + self._save_every
        self._beat_at = now
        self._stats_at = now + tables.log.stats_every
        log.info("pipeline %s: %d streams", config.name, plan.pipeline.streams)

    def serve(self) -> Plan | None:
        """Answer messages until told otherwise; returns what to serve next, None to end."""
        notify("READY=1")
        following = None
        try:
            while not self._signals.stop and following is None:
                self._link.poll(self._patience(), self._plan.config.tables.queue.max_batch)
                self._answer()
                self._tend(clock())
                following = self._next_plan()
            self._finish()
        finally:
            self._close()
        return following

    @property
    def _save_every(self) -> float:
        """Seconds between looks at idle streams, and saves where these are not of each batch."""
        return self._plan.config.tables.state.save_every or IDLE_SECONDS

    def _continue(self) -> None:
        self._report_evictions(self._plan.pipeline.load(self._journal.load(), clock()))
        if self._journal.discarded:
            log.warning("discarded %d streams of another model", self._journal.discarded)
        if self._journal.kept:
            text = "%d streams go on: the model's number format has changed, the network has not"
            log.warning(text, self._journal.kept)

    def _make_link(self) -> Link:
        settings = self._plan.settings
        known: list[str] = msgspec.json.decode(self._journal.recall("filters") or "[]")
        return Link(
            replace(settings, known=known),
            self._inbox,
            self._metrics,
            wakeup=self._signals.fileno(),
            clock=clock,
            patient=bool(self._metrics.connects),
        )

    def _patience(self) -> float:
        """How long a poll may wait."""
        now = clock()
        if self._unsaved is not None:
            return max(0.0, min(1.0, self._retry_at - now))
        if len(self._inbox) and self._link.room:
            return 0.0
        return max(0.0, min(1.0, self._save_at - now, self._plan.pipeline.due() - now))

    def _answer(self) -> None:
        """Step what has arrived; make it safe; only then acknowledge it and send the answers."""
        if self._unsaved is None:
            self._unsaved = self._next_answer()
        if self._unsaved is not None and clock() >= self._retry_at and self._make_safe():
            answer, self._unsaved = self._unsaved, None
            self._link.ack(answer.batch)
            self._report(answer.result)
        self._outbox.send(self._link)
        self._link.flush()

    def _next_answer(self) -> _Answer | None:
        most = min(self._plan.config.tables.queue.max_batch, self._link.room)
        batch = [] if self._outbox.waiting else self._inbox.take(most)
        start = clock()
        if not batch and start < self._plan.pipeline.due():
            return None
        answer = _Answer(batch, self._plan.pipeline.feed(batch, start))
        self._metrics.batch(clock() - start)
        return answer

    def _make_safe(self) -> bool:
        """The answer's states and letters are on disk, if each batch is saved. When the disk does
        not take them, nothing is acknowledged and nothing more is stepped until it does."""
        assert self._unsaved is not None  # noqa: S101 - asked for then only
        letters = [(p.topic, p.payload) for p in self._unsaved.result.predictions]
        box = 0
        if self._exact:
            try:
                box = self._save(letters if self._outbox.qos else ())
            except OSError as e:
                self._metrics.save_errors += 1
                self._retry_at = clock() + RETRY_SECONDS
                log.error("%s; nothing is acknowledged until it works", e)
                return False
        self._outbox.put(box, letters)
        return True

    def _tend(self, now: float) -> None:
        """What is due by the clock."""
        self._signals.drain()
        if now >= self._beat_at:
            notify("WATCHDOG=1")
            self._beat_at = now + 1.0
        if now >= self._save_at:
            if self._unsaved is None:
                self._report_evictions(self._plan.pipeline.expire(now))
                self._save_or_log()
            self._save_at = now + self._save_every
        if now >= self._stats_at:
            self._log_stats()
            self._stats_at = now + self._plan.config.tables.log.stats_every
        if self._link.ready and not self._noted:
            filters = msgspec.json.encode(list(self._plan.settings.filters)).decode()
            self._journal.remember("filters", filters)
            self._noted = True

    def _next_plan(self) -> Plan | None:
        """The new configuration if we are told to read it and it is good."""
        if not self._signals.take_reload():
            return None
        path = self._plan.config.source.path
        try:
            plan = make_plan(load_config(path))
        except (EdgeRnnError, OSError) as e:
            log.error("configuration not taken, going on as before: %s", e)
            return None
        log.info("%s: read again", path)
        return plan

    def _finish(self) -> None:
        """Answer what has arrived, save, and see the answers off. Raises OSError if not saved."""
        deadline = clock() + FLUSH_SECONDS
        self._link.stop_receiving()
        while (len(self._inbox) or self._unsaved) and self._link.ready and clock() < deadline:
            if not self._link.room:
                self._link.poll(0.1, 1)
            self._answer()
        if self._unsaved is None:
            self._save()
        self._flush(deadline)
        self._link.offline()
        self._flush(deadline)

    def _flush(self, deadline: float) -> None:
        self._link.flush()
        while (self._link.busy or self._outbox.waiting) and clock() < deadline:
            self._link.poll(0.1, 1)
            self._outbox.send(self._link)
            self._signals.drain()

    def _close(self) -> None:
        """Give everything back, whatever has happened."""
        self._link.close()
        self._save_or_log()
        self._journal.close()
        if self._rejects:
            self._rejects.close()
        self._log_stats()

    def _save(self, letters: Sequence[Letter] = ()) -> int:
        """Make durable what has changed -> the id of the letters' box. Raises OSError."""
        commit = self._plan.pipeline.changes()
        if not (commit or letters or self._outbox.arrived):
            return 0
        box = self._journal.commit(commit, letters, self._outbox.arrived)
        self._plan.pipeline.saved()
        self._outbox.arrived.clear()
        self._metrics.saves += 1
        return box

    def _save_or_log(self) -> None:
        """Save unless a batch is in the making, whose letters must be saved with it."""
        if self._unsaved is not None and self._exact:
            return
        try:
            self._save()
        except OSError as e:
            self._metrics.save_errors += 1
            log.error("%s; trying again later", e)

    def _report(self, result: Result) -> None:
        self._metrics.predicted += len(result.predictions)
        self._metrics.duplicates += len(result.duplicates)
        for rejected in result.rejected:
            self._report_rejected(rejected)
        for gap in result.gaps:
            self._report_gap(gap)
        self._report_evictions(result.evictions)

    def _report_rejected(self, r: Rejected) -> None:
        self._metrics.rejected[r.reason] += 1
        level = logging.INFO if r.reason == "retained" else logging.WARNING
        if self._is_first(r.kind, r.reason):
            log.log(level, "%r set aside (%s): %s", r.message.topic, r.reason, r.detail)
        if self._rejects and r.reason != "retained":
            self._set_aside(self._rejects, r)

    def _report_gap(self, g: Gap) -> None:
        self._metrics.gaps += 1
        self._metrics.missing += g.last - g.first + 1
        policy = self._plan.config.tables.input.on_gap
        text = "stream %r: messages %d to %d (epoch %d) never came; input.on_gap: %s"
        log.warning(text, g.stream, g.first, g.last, g.epoch, policy)

    def _set_aside(self, file: RejectFile, r: Rejected) -> None:
        try:
            file.write(time.time(), r.message.topic, r.reason, r.detail, r.message.payload)
        except OSError as e:
            log.error("%s: %s; setting no more aside", file.path, e.strerror)
            file.close()
            self._rejects = None

    def _report_evictions(self, evictions: list[Eviction]) -> None:
        for e in evictions:
            self._metrics.evicted[e.reason] += 1
            level = logging.WARNING if self._is_first("", e.reason) else logging.DEBUG
            log.log(level, "stream %r forgotten (%s) after %d steps", e.stream, e.reason, e.steps)

    def _is_first(self, kind: str, reason: str) -> bool:
        """Each kind is logged once, then only counted."""
        first = (kind, reason) not in self._reported
        self._reported.add((kind, reason))
        return first

    def _log_stats(self) -> None:
        stats = self._metrics.summary() | {"streams": self._plan.pipeline.streams}
        text = " ".join(f"{k}={v}" for k, v in stats.items())
        log.info("stats %s", text, extra={"stats": stats})


def _open_journal(plan: Plan) -> Journal:
    config, state = plan.config, plan.config.tables.state
    return Journal(
        config.state_file,
        model=plan.pipeline.digest,
        lineage=lineage(plan.pipeline.model),
        pipeline=config.name,
        on_model_change=state.on_model_change,
        synchronous=state.synchronous,
    )
