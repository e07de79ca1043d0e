"""Numbered messages that survive the sensor's own crash.

    with Publisher("spool", "localhost", topic="sensors/{stream}", client_id="pump-7") as p:
        p.send("pump-7", {"x": 0.1, "y": 0.0})

Each message gets its stream's next number, `seq`, and the publisher's `epoch`, and stays in a
SQLite file until the broker has confirmed it: after a kill or a power loss it is sent again, under
the same number. A number is never sent with two different messages: where the file was lost, the
new one is of a later epoch. edge-rnn reads both by `input.sequence = "seq"` and
`input.epoch = "epoch"`.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge_rnn.errors import EdgeRnnError

_TABLES = """
CREATE TABLE IF NOT EXISTS life (epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS streams (stream TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spool (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL
);
"""
_IN_FLIGHT = 100
_HANDED_OVER = 1000
_Spooled = tuple[int, str, bytes]

log = logging.getLogger(__name__)


class SpoolFullError(EdgeRnnError):
    """As many messages wait for the broker as the spool may hold."""


class Publisher:
    """Sends over MQTT 3.1.1 at QoS 1, in order, from a thread of its own.

    path: the spool, used by one publisher at a time. topic: a template with `{stream}`. client_id:
    the same at each start. group: seconds for which numbers and messages are gathered into one
    transaction; a message is sent once it is on disk. size: how many messages may wait; when they
    do, `send` raises SpoolFullError, so that nothing is thrown away in silence.
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
    ) -> None:
        self._path, self._topic, self._group, self._size = path, topic, group, size
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)
        self.epoch = self._claim()
        self._next: dict[str, int] = dict(self._db.execute("SELECT stream, seq FROM streams"))
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._fresh: list[_Spooled] = []  # not on disk yet
        self._dirty: set[str] = set()
        spooled = self._db.execute("SELECT id, topic, payload FROM spool ORDER BY id")
        self._safe: deque[_Spooled] = deque(spooled)  # on disk, to be sent
        self._ids: dict[int, int] = {}  # packet id -> message, of what is on its way
        self._arrived: deque[int] = deque()  # packet ids, from the client's thread
        self._last = self._scalar("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence")
        self._waiting, self._closing = len(self._safe), False
        self._client = self._connect(host, port, client_id)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many messages the broker has not confirmed."""
        return self._waiting

    def send(self, stream: str, values: Mapping[str, Any]) -> int:
        """Number a message and have it sent -> its number. Raises SpoolFullError."""
        with self._lock:
            if self._waiting >= self._size:
                raise SpoolFullError(f"{self._size} messages wait for the broker already")
            number = self._next[stream] = self._next.get(stream, 0) + 1
            payload = msgspec.json.encode({**values, "seq": number, "epoch": self.epoch})
            self._last += 1
            self._waiting += 1
            self._fresh.append((self._last, self._topic.replace("{stream}", stream), payload))
            self._dirty.add(stream)
        return number

    def flush(self) -> None:
        """Make durable what was sent so far, in one transaction. Raises OSError."""
        with self._saving:
            arrived = list(self._arrived)
            with self._lock:
                fresh, dirty = self._fresh, self._dirty
                numbers = [(s, self._next[s]) for s in dirty]
                self._fresh, self._dirty = [], set()
            if not (fresh or arrived):
                return
            try:
                self._save(fresh, numbers, [self._ids[i] for i in arrived])
            except OSError:
                with self._lock:
                    self._fresh, self._dirty = fresh + self._fresh, dirty | self._dirty
                raise
            for mid in arrived:
                self._arrived.popleft()
                del self._ids[mid]
            with self._lock:
                self._waiting -= len(arrived)
            self._safe.extend(fresh)

    def drain(self, seconds: float) -> bool:
        """Wait until the broker has everything -> whether it has."""
        end = time.monotonic() + seconds
        while self._waiting and time.monotonic() < end:
            time.sleep(self._group)
        return not self._waiting

    def close(self) -> None:
        """Make all durable and end; what is not confirmed is sent at the next start."""
        self._closing = True
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()
        self.flush()
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self) -> int:
        """The epoch: of the spool, or the time at which it is made, in microseconds."""
        if not self._scalar("SELECT COUNT(*) FROM life"):
            self._db.execute("INSERT INTO life VALUES (?)", (time.time_ns() // 1000,))
        return self._scalar("SELECT epoch FROM life")

    def _connect(self, host: str, port: int, client_id: str) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id)
        client.max_inflight_messages_set(_IN_FLIGHT)
        client.max_queued_messages_set(0)
        client.reconnect_delay_set(1, 30)
        client.on_publish = self._on_publish
        client.connect_async(host, port)
        client.loop_start()
        return client

    def _run(self) -> None:
        while not self._closing:
            time.sleep(self._group)
            try:
                self.flush()
            except OSError as e:
                log.error("%s; nothing new is sent until it works", e)
            self._hand_over()

    def _save(
        self, fresh: list[_Spooled], numbers: list[tuple[str, int]], arrived: list[int]
    ) -> None:
        try:
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany("INSERT INTO spool VALUES (?, ?, ?)", fresh)
                self._db.executemany("INSERT OR REPLACE INTO streams VALUES (?, ?)", numbers)
                self._db.executemany("DELETE FROM spool WHERE id = ?", [(i,) for i in arrived])
        except sqlite3.Error as e:
            raise OSError(f"{self._path}: can't save: {e}") from e

    def _hand_over(self) -> None:
        """To the client, which keeps them in order and sends them again after a reconnect."""
        with self._saving:
            while self._safe and len(self._ids) < _HANDED_OVER:
                id_, topic, payload = self._safe.popleft()
                self._ids[self._client.publish(topic, payload, 1).mid] = id_

    def _on_publish(self, *args: Any) -> None:
        self._arrived.append(args[2])

    def _scalar(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])
