"""Numbered messages that survive the sensor's own crash.

    with Publisher("spool", "localhost", topic="sensors/{stream}", client_id="pump-7") as p:
        p.send("pump-7", {"x": 0.1, "y": 0.0})
        p.drain(5)

Each message gets its stream's next number, `seq`, and the publisher's `epoch`, and stays in a
SQLite file until the broker has confirmed it: after a kill or a power loss it is sent again, under
the same number. A number is never sent with two different messages: where the file was lost, the
new one is of a later epoch. edge-rnn reads both by `input.sequence = "seq"` and
`input.epoch = "epoch"`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from edge_rnn.errors import BrokerError, EdgeRnnError
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt.inbox import Inbox
from edge_rnn.mqtt.link import Link, wait
from edge_rnn.mqtt.settings import Settings
from edge_rnn.payload import Properties
from edge_rnn_devices.spool import Spool, Spooled
from edge_rnn_devices.watermarks import Watermarks

_IDLE = 60.0  # seconds; whatever happens ends it
_PACE = 0.002  # seconds for which confirmations gather
_RETRY = 1.0  # seconds, after a save that failed
_MOST = 1000  # messages received at once

log = logging.getLogger(__name__)


class SpoolFullError(EdgeRnnError):
    """As many messages wait for the broker as the spool may hold."""


class Publisher:
    """Sends at QoS 1, in order, from threads of its own: one saves, one speaks with the broker.

    path: the spool, used by one publisher at a time. topic: a template with `{stream}`. client_id:
    the same at each start. group: seconds for which numbers and messages are gathered into one
    transaction; a message is sent once it is on disk. size: how many messages may wait; when they
    do, `send` raises SpoolFullError, so that nothing is thrown away in silence.
    stamped: `seq` and `epoch` go beside the payload, as MQTT 5 user properties.
    watermark: the pipeline's `output.watermark`, a template with `{stream}`: messages stay in the
    spool until they are at or below their stream's watermark, and all that is above it is sent
    again after a broken connection, so that a broker may lose whatever it had.
    connection: further fields of `edge_rnn.mqtt.settings.Settings`: `tls`, `username`, ...;
    `protocol="3.1.1", client="paho"` for a broker that speaks no MQTT 5.
    Raises OSError when the spool can't be used; a broker that can't be reached is tried again.
    """

    def __init__(
        self,
        path: str | Path,
        host: str,
        port: int = 1883,
        *,
        topic: str,
        client_id: str,
        group: float = 0.02,
        size: int = 100_000,
        stamped: bool = False,
        watermark: str | None = None,
        **connection: Any,
    ) -> None:
        self._topic, self._group, self._size, self._stamped = topic, group, size, stamped
        if stamped and connection.get("protocol", "5") != "5":
            raise ValueError("stamped messages need MQTT 5: 3.1.1 has no user properties")
        self._spool = Spool(path)
        self.epoch, self._numbers = self._spool.epoch, self._spool.numbers
        self._marks = Watermarks(watermark, self.epoch) if watermark else None
        if self._marks:
            connection |= {"filters": [self._marks.filter], "qos": 0, "retained": True}
        self._settings = Settings(host, port, client_id, session_expiry=0, **connection)
        self._last = self._spool.last
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._fresh: list[Spooled] = []  # not on disk yet
        self._kept = {m.id: m for m in self._spool.messages()}
        self._safe = deque(self._kept.values())  # of the kept ones, those to be sent
        self._released: deque[int] = deque()  # of the kept ones, those that may go
        self._waiting = len(self._kept)
        if self._marks:
            self._marks.keep(self._kept.values())
        self._unsaved, self._closing = threading.Event(), threading.Event()
        self._wakeup, self._waker = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._waker, False)
        self._metrics, self._inbox = Metrics(), Inbox(_MOST, "drop_oldest")
        self._link = Link(
            self._settings,
            self._inbox,
            self._metrics,
            wakeup=self._wakeup,
            clock=time.monotonic,
            patient=True,
        )
        self._on_its_way = False
        targets = (self._save_on, self._speak_on)
        self._threads = [threading.Thread(target=t, daemon=True) for t in targets]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many messages the broker has not confirmed, or the watermark not reached."""
        return self._waiting

    @property
    def refused(self) -> int:
        """How many messages the broker would not take; the log has the first one's reason."""
        return self._metrics.publish_errors

    def send(self, stream: str, values: Mapping[str, Any]) -> int:
        """Number a message and have it sent -> its number. Raises SpoolFullError."""
        with self._lock:
            if self._waiting >= self._size:
                raise SpoolFullError(f"{self._size} messages wait for the broker already")
            number = self._numbers[stream] = self._numbers.get(stream, 0) + 1
            numbers = {} if self._stamped else {"seq": number, "epoch": self.epoch}
            payload = msgspec.json.encode({**values, **numbers})
            self._last += 1
            self._waiting += 1
            self._fresh.append(Spooled(self._last, stream, number, payload))
        if not self._unsaved.is_set():
            self._unsaved.set()
        return number

    def flush(self) -> None:
        """Make durable what was sent so far, in one transaction. Raises OSError."""
        with self._saving:
            with self._lock:
                fresh, self._fresh = self._fresh, []
            gone = [self._released.popleft() for _ in range(len(self._released))]
            if not (fresh or gone):
                return
            try:
                self._spool.save(fresh, {m.stream: m.seq for m in fresh}, gone)
            except OSError:
                with self._lock:
                    self._fresh = fresh + self._fresh
                self._released.extend(gone)
                raise
            self._saved(fresh, gone)
        if fresh:
            self._wake()

    def drain(self, seconds: float) -> bool:
        """Wait until nothing is `waiting` -> whether that came in time."""
        end = time.monotonic() + seconds
        while self._waiting and time.monotonic() < end:
            time.sleep(self._group)
        return not self._waiting

    def close(self) -> None:
        """Make all durable and end; what is not confirmed is sent at the next start."""
        self._closing.set()
        self._unsaved.set()
        self._wake()
        for thread in self._threads:
            thread.join()
        self._link.close()
        try:
            self.flush()
        finally:
            self._spool.close()
            os.close(self._wakeup)
            os.close(self._waker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _saved(self, fresh: list[Spooled], gone: list[int]) -> None:
        with self._lock:
            self._kept.update((m.id, m) for m in fresh)
            if self._marks:
                self._marks.keep(fresh)
            self._safe.extend(fresh)
            self._waiting -= sum(self._kept.pop(i, None) is not None for i in gone)

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full: it is going to wake up
            os.write(self._waker, b"\0")

    def _save_on(self) -> None:
        while not self._closing.is_set():
            self._unsaved.wait()
            self._closing.wait(self._group)
            self._unsaved.clear()
            try:
                self.flush()
            except OSError as e:
                log.error("%s; nothing new is sent until it works", e)
                self._unsaved.set()
                self._closing.wait(_RETRY)

    def _speak_on(self) -> None:
        while not self._closing.is_set():
            wait([self._link], self._wakeup, _IDLE)
            with suppress(BlockingIOError):
                os.read(self._wakeup, 4096)
            try:
                self._link.work(_MOST)
            except BrokerError as e:
                log.error("%s", e)
                self._closing.wait(self._settings.retry_max)
            self._release()
            self._hand_over()
            time.sleep(_PACE)

    def _stamps(self, m: Spooled) -> Properties:
        return (("seq", str(m.seq)), ("epoch", str(self.epoch))) if self._stamped else ()

    def _release(self) -> None:
        """What has arrived, or is below the watermark, may leave the spool."""
        gone = self._link.confirmed[:]
        self._link.confirmed.clear()
        if self._marks:
            with self._lock:
                gone, again = self._marks.take(self._inbox.take(_MOST))
                if again:
                    wanted = {m.id for m in self._safe}.union(again)
                    self._safe = deque(m for m in self._kept.values() if m.id in wanted)
        if gone:
            self._released.extend(gone)
            self._unsaved.set()

    def _hand_over(self) -> None:
        """To the link; all that is kept again, and in order, after a broken connection."""
        if not self._link.ready:
            if self._marks:
                self._marks.disconnected()
            if self._on_its_way:
                self._link.forget()
                with self._lock:
                    self._safe = deque(self._kept.values())
                self._on_its_way = False
            return
        for _ in range(min(self._link.room, len(self._safe))):
            m = self._safe.popleft()
            topic = self._topic.replace("{stream}", m.stream)
            self._link.publish(topic, m.payload, 1, False, m.id, self._stamps(m))
            self._on_its_way = True
        self._link.flush()
