"""Durable stream states: one SQLite file a pipeline, one transaction a commit.

The file belongs to one model and one pipeline, is readable by its owner only, and is used by one
process at a time.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from edge_rnn.errors import JournalError
from edge_rnn.state import StreamState

SCHEMA = "1"
_MAGIC = b"SQLite format 3\0"
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE streams (
    id TEXT PRIMARY KEY,
    steps INTEGER NOT NULL,
    used INTEGER NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;
"""

OnModelChange = Literal["refuse", "discard"]
Synchronous = Literal["full", "normal"]


@dataclass(frozen=True, slots=True)
class Commit:
    """What becomes durable together: states, least recently used first, and ids to forget."""

    states: Sequence[StreamState] = field(default_factory=tuple)
    forgotten: Sequence[str] = field(default_factory=tuple)


class Journal:
    """The states of a pipeline's streams on disk.

    model: the digest of the model whose states they are; pipeline: whose streams they are.
    on_model_change: what to do with another model's states.
    synchronous: "full" survives power loss; "normal" may then lose the last commits.
    Raises JournalError, naming the file, if it is another model's or pipeline's, in use by
    another process, damaged, or of an unknown schema; OSError if it can't be created.
    """

    def __init__(
        self,
        path: Path,
        *,
        model: str,
        pipeline: str,
        on_model_change: OnModelChange = "refuse",
        synchronous: Synchronous = "full",
    ) -> None:
        self.path = path
        self._lock = _lock(path)
        try:
            self._db = _open(path, synchronous)
            try:
                self.discarded = self._claim(model, pipeline, on_model_change)
                self._used = self._scalar("SELECT COALESCE(MAX(used), 0) FROM streams")
            except BaseException:
                self._db.close()
                raise
        except BaseException as e:
            os.close(self._lock)
            if isinstance(e, sqlite3.Error):
                raise _damaged(path, e) from e
            raise

    def load(self) -> list[StreamState]:
        """All states, least recently used first. Raises JournalError if the file is damaged."""
        query = "SELECT id, steps, state FROM streams ORDER BY used"
        try:
            return [StreamState(*row) for row in self._db.execute(query)]
        except sqlite3.Error as e:
            raise _damaged(self.path, e) from e

    def commit(self, commit: Commit) -> None:
        """Make it durable, all of it or nothing. Raises OSError when the disk does not take it."""
        rows = [
            (s.stream, s.steps, used, s.state)
            for used, s in enumerate(commit.states, self._used + 1)
        ]
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(
                    "DELETE FROM streams WHERE id = ?", [(s,) for s in commit.forgotten]
                )
                self._db.executemany("INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as e:
            raise OSError(f"{self.path}: can't save: {e}") from e
        self._used += len(rows)

    def recall(self, key: str) -> str | None:
        """A note kept by `remember`."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row and str(row[0])

    def remember(self, key: str, value: str) -> None:
        """Keep a note beside the states."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Close the file and let others use it."""
        self._db.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self, model: str, pipeline: str, on_model_change: OnModelChange) -> int:
        """Create or check the file's owner; returns how many states were discarded."""
        if not self._scalar("SELECT COUNT(*) FROM sqlite_schema"):
            self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
            self.remember("schema", SCHEMA)
        schema = self.recall("schema")
        if schema != SCHEMA:
            raise JournalError(
                f"{self.path}: schema {schema}, this version reads {SCHEMA}: it was written by "
                "another version of edge-rnn"
            )
        owner = self.recall("pipeline")
        if owner not in (None, pipeline):
            raise JournalError(
                f"{self.path}: holds the streams of pipeline {owner!r}, not of {pipeline!r}: "
                "give each pipeline its own state.file"
            )
        count = self._change_model(model, on_model_change)
        self.remember("pipeline", pipeline)
        self.remember("model", model)
        return count

    def _change_model(self, model: str, on_model_change: OnModelChange) -> int:
        before = self.recall("model")
        count = self._scalar("SELECT COUNT(*) FROM streams")
        if before in (None, model) or not count:
            return 0
        if on_model_change == "refuse":
            raise JournalError(
                f"{self.path}: holds {count} streams of model {before[:12]}, this pipeline runs "
                f"{model[:12]}: go back to that model, move the file away, or set "
                'state.on_model_change = "discard" to start all streams anew'
            )
        with self._db:
            self._db.execute("DELETE FROM streams")
        return count

    def _scalar(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])


def _open(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "rb") as file:
        if file.read(len(_MAGIC)) not in (b"", _MAGIC):  # SQLite takes a short file for empty
            raise sqlite3.DatabaseError("file is not a database")
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _lock(path: Path) -> int:
    """A locked file descriptor; the file beside the journal holds the owner's process id."""
    lock = Path(f"{path}.lock")
    fd = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with closing(os.fdopen(fd, "rb")) as file:
            pid = file.read(20).decode("ascii", "replace").strip() or "unknown"
        raise JournalError(
            f"{path}: in use by process {pid}: a state file serves one process at a time"
        ) from None
    os.truncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _damaged(path: Path, e: sqlite3.Error) -> JournalError:
    return JournalError(
        f"{path}: not a readable state file ({e}): restore it from a backup, or move it away to "
        "start all streams anew"
    )
