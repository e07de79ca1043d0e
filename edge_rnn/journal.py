"""What survives a crash: one SQLite file a pipeline, one transaction a commit.

States, the positions of their streams, messages that wait for their turn and predictions that are
on their way become durable together or not at all. The file belongs to one model and one pipeline,
is readable by its owner only, and is used by one process at a time.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from edge_rnn.database import Synchronous, damaged, lock, open_database
from edge_rnn.errors import JournalError
from edge_rnn.ordering import Gap, Number
from edge_rnn.state import StreamState

_GAPS_KEPT = 10_000
_AT_ONCE = 32  # rows in a statement: each statement costs about as much as three rows in it
_ROW = ", (?, ?, ?, ?, ?)"
_STREAM = "INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?, ?)"
_MARK = "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?)"

OnModelChange = Literal["refuse", "discard"]


class Mark(msgspec.Struct, frozen=True, gc=False):
    """What is known of a stream besides its state: how often it began anew, the last number that
    was stepped (None: its messages have none), whether it stopped at a gap."""

    stream: str
    run: int = 0
    epoch: int = 0
    sequence: Number | None = None
    stopped: bool = False


class Held(msgspec.Struct, frozen=True, gc=False):
    """A message that waits for its turn."""

    stream: str
    epoch: int
    sequence: Number
    topic: str
    payload: bytes


Letter = tuple[str, bytes]
"""Topic and payload of a prediction on its way."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What becomes durable together: states, least recently used first; ids to forget; marks, and
    ids whose mark goes; messages now held, and keys (stream, epoch, sequence) of those no longer;
    gaps found."""

    states: Sequence[StreamState] = ()
    forgotten: Sequence[str] = ()
    marks: Sequence[Mark] = ()
    dropped: Sequence[str] = ()
    held: Sequence[Held] = ()
    released: Sequence[tuple[str, int, Number]] = ()
    gaps: Sequence[Gap] = ()

    def __bool__(self) -> bool:
        """Is there anything in it?"""
        return any((self.states, self.forgotten, self.marks, self.dropped, self.held,
                    self.released, self.gaps))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Saved:
    """What a journal holds: states, least recently used first, marks, and messages that wait."""

    states: Sequence[StreamState] = ()
    marks: Sequence[Mark] = ()
    held: Sequence[Held] = ()


class Journal:
    """The states of a pipeline's streams on disk.

    model: the digest of the model whose states they are, None: whatever is in the file; lineage:
    that of the network it is a number format of, whose states are kept when only the format
    changed; pipeline: whose streams they are. on_model_change: what to do with another model's
    states.
    synchronous: "full" survives power loss; "normal" may then lose the last commits.
    Raises JournalError, naming the file, if it is another model's or pipeline's, in use by
    another process, damaged, or of an unknown schema; OSError if it can't be created.
    """

    def __init__(
        self,
        path: Path,
        *,
        model: str | None,
        pipeline: str,
        lineage: str | None = None,
        on_model_change: OnModelChange = "refuse",
        synchronous: Synchronous = "full",
    ) -> None:
        self.path = path
        self._lock = lock(path)
        try:
            self._db = open_database(path, synchronous)
            try:
                self.kept = self.discarded = 0
                self._claim(model, lineage, pipeline, on_model_change)
                self._used = self._scalar("SELECT COALESCE(MAX(used), 0) FROM streams")
            except BaseException:
                self._db.close()
                raise
        except BaseException as e:
            os.close(self._lock)
            if isinstance(e, sqlite3.Error):
                raise damaged(path, e) from e
            raise

    def load(self) -> Saved:
        """All that is needed to go on. Raises JournalError if the file is damaged."""
        execute = self._db.execute
        states = "SELECT id, steps, state FROM streams ORDER BY used"
        marks = "SELECT stream, run, epoch, sequence, stopped FROM marks"
        held = "SELECT stream, epoch, sequence, topic, payload FROM held"
        try:
            return Saved(
                [StreamState(*row) for row in execute(states)],
                [Mark(s, r, e, n, bool(stopped)) for s, r, e, n, stopped in execute(marks)],
                [Held(*row) for row in execute(held)],
            )
        except sqlite3.Error as e:
            raise damaged(self.path, e) from e

    def outbox(self) -> list[tuple[int, list[Letter]]]:
        """(id, letters) of what was sent and not yet confirmed, in order."""
        rows = self._db.execute("SELECT id, messages FROM outbox ORDER BY id")
        return [(id_, msgspec.msgpack.decode(blob, type=list[Letter])) for id_, blob in rows]

    def commit(
        self, commit: Commit, letters: Sequence[Letter] = (), delivered: Sequence[int] = ()
    ) -> int:
        """Make it durable, all of it or nothing, with letters to send; those of the ids
        `delivered` leave the outbox. Returns the id of the new ones, 0 without any.

        Raises OSError when the disk does not take it.
        """
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._write(commit)
                return self._post(letters, delivered)
        except sqlite3.Error as e:
            raise self._unsaved(e) from e

    def _unsaved(self, e: sqlite3.Error) -> OSError:
        """SQLite hides what the system says: write to the lock's file, and see."""
        try:
            os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)
            reason = str(e)
        except OSError as system:
            reason = f"{e}: {system.strerror}"
        return OSError(f"{self.path}: can't save: {reason}")

    def _write(self, c: Commit) -> None:
        many = self._db.executemany
        used = range(self._used + 1, self._used + 1 + len(c.states))
        now = time.time()
        rows = [(s.stream, s.steps, n, s.state, now) for s, n in zip(c.states, used, strict=True)]
        many("DELETE FROM streams WHERE id = ?", [(s,) for s in c.forgotten])
        self._put(_STREAM, rows)
        many("DELETE FROM marks WHERE stream = ?", [(s,) for s in c.dropped])
        marks = [(m.stream, m.run, m.epoch, m.sequence, m.stopped) for m in c.marks]
        self._put(_MARK, marks)
        many("DELETE FROM held WHERE (stream, epoch, sequence) = (?, ?, ?)", c.released)
        held = [(h.stream, h.epoch, h.sequence, h.topic, h.payload) for h in c.held]
        many("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?)", held)
        if c.gaps:
            gaps = [(g.stream, g.epoch, g.first, g.last) for g in c.gaps]
            many("INSERT INTO gaps (stream, epoch, first, last) VALUES (?, ?, ?, ?)", gaps)
            query = "DELETE FROM gaps WHERE id <= (SELECT MAX(id) FROM gaps) - ?"
            self._db.execute(query, (_GAPS_KEPT,))
        self._used += len(rows)

    def _put(self, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of five, many in a statement as far as they go."""
        whole = len(rows) - len(rows) % _AT_ONCE
        at_once = [
            tuple(chain.from_iterable(rows[i : i + _AT_ONCE])) for i in range(0, whole, _AT_ONCE)
        ]
        self._db.executemany(insert + _ROW * (_AT_ONCE - 1), at_once)
        self._db.executemany(insert, rows[whole:])

    def _post(self, letters: Sequence[Letter], delivered: Sequence[int]) -> int:
        self._db.executemany("DELETE FROM outbox WHERE id = ?", [(i,) for i in delivered])
        if not letters:
            return 0
        blob = msgspec.msgpack.encode(letters)
        return self._db.execute("INSERT INTO outbox (messages) VALUES (?)", (blob,)).lastrowid or 0

    def query(self, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows that a SELECT finds. Raises JournalError if the file is damaged."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as e:
            raise damaged(self.path, e) from e

    def size(self) -> int:
        """Bytes of the file and of its log."""
        files = self.path, Path(f"{self.path}-wal")
        return sum(f.stat().st_size for f in files if f.exists())

    def recall(self, key: str) -> str | None:
        """A note kept by `remember`."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row and str(row[0])

    def remember(self, key: str, value: str) -> None:
        """Keep a note beside the states. Raises OSError when the disk does not take it."""
        try:
            with self._db:
                self._note(key, value)
        except sqlite3.Error as e:
            raise self._unsaved(e) from e

    def _note(self, key: str, value: str) -> None:
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

    def _claim(
        self,
        model: str | None,
        lineage: str | None,
        pipeline: str,
        on_model_change: OnModelChange,
    ) -> None:
        """Become the file's owner, or check that we are."""
        owner = self.recall("pipeline")
        if owner not in (None, pipeline):
            raise JournalError(
                f"{self.path}: holds the streams of pipeline {owner!r}, not of {pipeline!r}: "
                "give each pipeline its own state.file"
            )
        if model is None:
            return
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._change_model(model, lineage, on_model_change)
            for key, value in (("pipeline", pipeline), ("model", model), ("lineage", lineage)):
                self._note(key, value or "")

    def _change_model(
        self, model: str, lineage: str | None, on_model_change: OnModelChange
    ) -> None:
        before = self.recall("model")
        count = self._scalar("SELECT COUNT(*) FROM streams")
        if before in (None, model) or not count:
            return
        if lineage and lineage == self.recall("lineage"):
            self.kept = count
            return
        if on_model_change == "refuse":
            raise JournalError(
                f"{self.path}: holds {count} streams of model {before[:12]}, this pipeline runs "
                f"{model[:12]}: go back to that model, move the file away, or set "
                'state.on_model_change = "discard" to start all streams anew'
            )
        self._db.execute("DELETE FROM streams")
        self._db.execute("UPDATE marks SET run = run + 1, stopped = 0")
        self.discarded = count

    def _scalar(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])
