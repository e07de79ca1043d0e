"""One configuration at work."""

from __future__ import annotations

import logging
import math
import time

import msgspec

from edge_rnn import keeper
from edge_rnn.config import load_config
from edge_rnn.daemon.commits import RETRY_SECONDS, Answer, Commits
from edge_rnn.daemon.exporter import Exporter
from edge_rnn.daemon.outbox import Outbox
from edge_rnn.daemon.plan import Plan, make_plan
from edge_rnn.daemon.report import Reporter
from edge_rnn.daemon.systemd import notify
from edge_rnn.daemon.watermarks import Watermarks
from edge_rnn.daemon.wires import Wires
from edge_rnn.errors import EdgeRnnError, StateError
from edge_rnn.graph import state_width
from edge_rnn.journal import Commit, Journal
from edge_rnn.lineage import lineage
from edge_rnn.metrics import Gauges, Metrics
from edge_rnn.mqtt import Inbox
from edge_rnn.signals import Signals

FLUSH_SECONDS = 5.0
EXPIRE_SECONDS = 1.0

log = logging.getLogger(__name__)
clock = time.monotonic


class Service:
    """One configuration at work: journal open, connection up, messages answered."""

    def __init__(self, plan: Plan, metrics: Metrics, signals: Signals) -> None:
        self._plan, self._metrics, self._signals = plan, metrics, signals
        config, tables = plan.config, plan.config.tables
        logging.getLogger("edge_rnn").setLevel(tables.log.level.upper())
        self._inbox = Inbox(tables.queue.size, tables.queue.policy)
        self._journal = _open_journal(plan)
        try:
            self._reporter = Reporter(tables, metrics)
            self._continue()
            self._wires = self._make_wires()
            self._exporter = Exporter(config, plan.pipeline, metrics) if tables.metrics else None
        except BaseException:
            self._journal.close()
            raise
        self._note_at = 0.0
        self._outbox = Outbox(tables.output.qos, tables.output.retain)
        for box, letters in self._journal.outbox():
            self._outbox.put(box, letters)
        self._commits = Commits(
            tables.state,
            plan.pipeline,
            self._journal,
            self._outbox,
            metrics,
            clock,
            self._watermarks,
        )
        now = clock()
        self._beat_at = self._expire_at = now
        self._stats_at = now + tables.log.stats_every
        self._counter = self._open_counter()
        log.info("pipeline %s: %d streams", config.name, plan.pipeline.streams)

    def serve(self) -> Plan | None:
        """Answer messages until told otherwise; returns what to serve next, None to end."""
        notify("READY=1")
        following = None
        try:
            while not self._signals.stop and following is None:
                self._wires.poll(self._patience(), self._plan.config.tables.queue.max_batch)
                self._answer()
                self._tend(clock())
                following = self._next_plan()
            self._finish()
            if self._commits and following is None:
                text = f"{self._plan.config.state_file}: stopped with messages that could not be"
                raise OSError(f"{text} saved; they were not acknowledged, and will be sent again")
        except (EdgeRnnError, OSError):
            self._commits.close()
            raise
        finally:  # of anything else, such as no memory, half a batch may be left: don't save that
            self._close()
        return following

    def _continue(self) -> None:
        saved, output = self._journal.load(), self._plan.config.tables.output
        self._reporter.evictions(self._plan.pipeline.load(saved, clock()))
        self._watermarks = None
        if output.watermark:
            every = float(output.watermark_every)
            self._watermarks = Watermarks(output.watermark, every, saved.marks)
        if self._journal.discarded:
            log.warning("discarded %d streams of another model", self._journal.discarded)
        if self._journal.kept:
            text = "%d streams go on: the model's number format has changed, the network has not"
            log.warning(text, self._journal.kept)

    def _make_wires(self) -> Wires:
        known: list[str] = msgspec.json.decode(self._journal.recall("filters") or "[]")
        return Wires(
            self._plan,
            self._inbox,
            self._metrics,
            known,
            max_delay=float(self._plan.config.tables.queue.max_delay),
            wakeup=self._signals.fileno(),
            clock=clock,
        )

    def _open_counter(self) -> keeper.Counter | None:
        """Where an operator's requests about streams come; without it the daemon works too."""
        path = self._plan.config.state_file
        try:
            return keeper.Counter(path, self._signals.wake)
        except OSError as e:
            log.warning("%s: no requests can come: %s", keeper.socket_path(path), e.strerror)
            return None

    def _serve_request(self, request: keeper.Request) -> keeper.Answer:
        """Answer it from the journal, when that holds all that has happened."""
        self._save()
        own = keeper.Keeper(self._journal, self._plan.pipeline.state_bytes, self._adopt)
        answer = own.answer(request)
        if isinstance(answer, keeper.Done):
            log.warning("%d streams changed by an operator", answer.streams)
        return answer

    def _save(self) -> None:
        """Have all that has happened on disk. Raises StateError, OSError if it doesn't take it."""
        self._settle(early=True)
        if self._commits:
            raise StateError("states can't be saved at the moment: see the daemon's log")
        self._commits.save()

    def _adopt(self, commit: Commit) -> None:
        self._reporter.evictions(self._plan.pipeline.adopt(commit))
        if self._watermarks:
            self._watermarks.committed(commit.marks, commit.dropped)

    def _patience(self) -> float:
        """How long a poll may wait."""
        now = clock()
        if len(self._inbox) and self._takes():
            return 0.0
        due = min(self._expire_at, self._commits.due())
        if not self._commits.failing:
            due = min(due, self._plan.pipeline.due())
        return max(0.0, min(1.0, due - now))

    def _answer(self, *, early: bool = False) -> None:
        """Step what has arrived; make it safe; only then acknowledge it and send the answers."""
        if (answer := self._next_answer()) is not None:
            self._commits.add(answer)
        self._settle(early=early or self._commits.waiting >= self._plan.config.tables.queue.size)
        self._send()

    def _settle(self, *, early: bool) -> None:
        """Acknowledge and report what is safe."""
        for safe in self._commits.settle(clock(), early=early):
            self._wires.input.ack(safe.batch)
            self._metrics.answer.observe(clock() - safe.taken)
            self._reporter.result(safe.result)

    def _send(self) -> None:
        start, sends = clock(), self._outbox.waiting
        self._outbox.send(self._wires.output)
        self._wires.flush()
        if sends:
            self._metrics.publish.observe(clock() - start)

    def _takes(self) -> int:
        """How many messages can be stepped now: none while the disk takes no states, or the
        broker no predictions."""
        if self._commits.failing or self._outbox.waiting:
            return 0
        return min(self._plan.config.tables.queue.max_batch, self._wires.room)

    def _next_answer(self) -> Answer | None:
        batch = self._inbox.take(self._takes())
        start = clock()
        if not batch and (start < self._plan.pipeline.due() or self._commits.failing):
            return None
        answer = Answer(batch, start, self._plan.pipeline.feed(batch, start))
        self._metrics.step.observe(clock() - start)
        self._metrics.batch_size.observe(len(batch))
        return answer

    def _tend(self, now: float) -> None:
        """What is due by the clock."""
        self._signals.drain()
        if self._counter:
            self._counter.serve(self._serve_request)
        if now >= self._beat_at:
            notify("WATCHDOG=1")
            self._beat_at = now + 1.0
        if now >= self._expire_at:
            self._reporter.evictions(self._plan.pipeline.expire(now))
            self._metrics.now = self._gauges()
            self._expire_at = now + EXPIRE_SECONDS
        if now >= self._stats_at:
            self._reporter.stats(self._plan.pipeline.streams)
            self._stats_at = now + self._plan.config.tables.log.stats_every
        if self._watermarks:
            self._watermarks.publish(self._wires.input, now, self._metrics.sessions_lost)
        if self._wires.input.ready and now >= self._note_at:
            self._note_at = self._note(now)

    def _note(self, now: float) -> float:
        """Remember what we have subscribed to -> when to do it again: if it works, never."""
        filters = msgspec.json.encode(list(self._plan.settings.filters)).decode()
        try:
            self._journal.remember("filters", filters)
        except OSError as e:
            log.error("%s; trying again", e)
            return now + RETRY_SECONDS
        return math.inf

    def _gauges(self) -> Gauges:
        pipeline, streams = self._plan.pipeline, self._plan.pipeline.streams
        return Gauges(
            streams=streams,
            state_bytes=streams * 4 * state_width(pipeline.model),
            state_file_bytes=self._journal.size(),
            queued=len(self._inbox),
            held=pipeline.waiting,
            uncommitted=self._commits.waiting,
            outbox=len(self._outbox),
            connected=self._wires.ready,
            commit_interval=self._commits.interval,
        )

    def _next_plan(self) -> Plan | None:
        """The new configuration if we are told to read it, it is good, and the disk takes what is
        written: who opens the state file writes to it, so that we could not even go back."""
        if not self._signals.take_reload():
            return None
        path = self._plan.config.source.path
        try:
            plan = make_plan(load_config(path))
            self._save()
            self._journal.remember("reload", "")  # a write, even if there was nothing to save
        except (EdgeRnnError, OSError) as e:
            log.error("configuration not taken, going on as before: %s", e)
            return None
        log.info("%s: read again", path)
        return plan

    def _finish(self) -> None:
        """Answer what has arrived, save, and see the answers off. Raises OSError if not saved."""
        deadline = clock() + FLUSH_SECONDS
        self._wires.input.stop_receiving()
        while self._left() and clock() < deadline:
            if not self._takes():
                self._wires.poll(0.1, 1)
            self._answer(early=True)
        if not self._commits:
            self._commits.save()
        if self._watermarks:
            self._watermarks.publish(self._wires.input, math.inf, self._metrics.sessions_lost)
        self._flush(deadline)
        self._wires.output.offline()
        self._flush(deadline)
        self._commits.close()

    def _left(self) -> bool:
        """Is there something to answer, or to make safe?"""
        return bool(self._commits) or (self._wires.input.ready and len(self._inbox) > 0)

    def _flush(self, deadline: float) -> None:
        self._wires.flush()
        while (self._wires.busy or self._outbox.waiting) and clock() < deadline:
            self._wires.poll(0.1, 1)
            self._outbox.send(self._wires.output)
            self._signals.drain()

    def _close(self) -> None:
        """Give everything back, whatever has happened."""
        if self._counter:
            self._counter.close()
        if self._exporter:
            self._exporter.close()
        self._wires.close()
        self._journal.close()
        self._reporter.close()
        self._reporter.stats(self._plan.pipeline.streams)


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
