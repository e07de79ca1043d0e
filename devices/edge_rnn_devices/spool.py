"""Numbers and messages on disk: a stream's last number, and each message until it is done with."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

_TABLES = """
CREATE TABLE IF NOT EXISTS life (epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS streams (stream TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, seq INTEGER NOT NULL,
    payload BLOB NOT NULL
);
"""


class Spooled(NamedTuple):
    """A message: `id` counts the spool's, `seq` the stream's."""

    id: int
    stream: str
    seq: int
    payload: bytes


class Spool:
    """An SQLite file, of one process at a time. Raises OSError when it can't be used.

    epoch: the time at which the file was made, in microseconds; numbers: each stream's last one;
    last: the last message's id.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_TABLES)
            self.epoch = self._claim()
        except sqlite3.Error as e:
            raise OSError(f"{path}: can't be used as a spool: {e}") from e
        self.numbers: dict[str, int] = dict(self._db.execute("SELECT stream, seq FROM streams"))
        self.last = self._scalar("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence")

    def messages(self) -> list[Spooled]:
        """All that it has, the oldest first."""
        query = "SELECT id, stream, seq, payload FROM messages ORDER BY id"
        return [Spooled(*row) for row in self._db.execute(query)]

    def save(
        self, fresh: Iterable[Spooled], numbers: Mapping[str, int], gone: Iterable[int]
    ) -> None:
        """Add messages and numbers, remove messages by their ids: all of it, or nothing."""
        try:
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", fresh)
                rows = numbers.items()
                self._db.executemany("INSERT OR REPLACE INTO streams VALUES (?, ?)", rows)
                self._db.executemany("DELETE FROM messages WHERE id = ?", [(i,) for i in gone])
        except sqlite3.Error as e:
            raise OSError(f"{self._path}: can't save: {e}") from e

    def close(self) -> None:
        """End the use of the file."""
        self._db.close()

    def _claim(self) -> int:
        if not self._scalar("SELECT COUNT(*) FROM life"):
            self._db.execute("INSERT INTO life VALUES (?)", (time.time_ns() // 1000,))
        return self._scalar("SELECT epoch FROM life")

    def _scalar(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])
