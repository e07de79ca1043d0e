"""The file of a journal: its tables, how older ones become newer, and whose it is while in use."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal

from edge_rnn.errors import JournalError

SCHEMA = "3"
_MAGIC = b"SQLite format 3\0"
_SINCE_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE streams (
    id TEXT PRIMARY KEY,
    steps INTEGER NOT NULL,
    used INTEGER NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema', '1');
"""
_SINCE_2 = """
CREATE TABLE marks (
    stream TEXT PRIMARY KEY,
    run INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence NUMERIC,
    stopped INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE held (
    stream TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    sequence NUMERIC NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (stream, epoch, sequence)
) WITHOUT ROWID;
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL DEFAULT (julianday('now')),
    stream TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL
);
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, messages BLOB NOT NULL);
"""
_SINCE_3 = "ALTER TABLE streams ADD COLUMN saved REAL NOT NULL DEFAULT 0;"
_MIGRATIONS = {"1": _SINCE_2, "2": _SINCE_3}
"""What makes the next schema of each older one; a new file goes the same way."""
_NEXT = "UPDATE meta SET value = value + 1 WHERE key = 'schema';"

_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}

Synchronous = Literal["full", "normal"]


def open_database(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    """The file at the newest schema; it is made where there is none.

    Raises sqlite3.Error if it is damaged, JournalError if a newer version wrote it, and OSError.
    """
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "rb") as file:
        if file.read(len(_MAGIC)) not in (b"", _MAGIC):  # SQLite takes a short file for empty
            raise sqlite3.DatabaseError("file is not a database")
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA temp_store = MEMORY")  # how to undo half a statement needs no disk
        db.execute(f"PRAGMA synchronous = {synchronous}")
        _bring_up_to_date(db, path)
    except BaseException:
        db.close()
        raise
    return db


def lock(path: Path) -> int:
    """A locked file descriptor; the file beside the journal holds the owner's process id.

    Raises JournalError while another process has it, and OSError.
    """
    fd = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
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


def damaged(path: Path, e: sqlite3.Error) -> JournalError:
    """The error to raise when SQLite can't read the file, or at its opening write it."""
    if getattr(e, "sqlite_errorcode", 0) & 0xFF in _DISK:
        return JournalError(f"{path}: the disk does not take it, or give it back: {e}")
    return JournalError(
        f"{path}: not a readable state file ({e}): restore it from a backup, or move it away to "
        "start all streams anew"
    )


def _bring_up_to_date(db: sqlite3.Connection, path: Path) -> None:
    if not db.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]:
        db.executescript(f"BEGIN IMMEDIATE; {_SINCE_1} COMMIT;")
    while (found := _schema(db)) in _MIGRATIONS:
        db.executescript(f"BEGIN IMMEDIATE; {_MIGRATIONS[found]} {_NEXT} COMMIT;")
    if found != SCHEMA:
        raise JournalError(
            f"{path}: schema {found}, this version reads {SCHEMA}: it was written by another "
            "version of edge-rnn"
        )


def _schema(db: sqlite3.Connection) -> str:
    row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    return str(row and row[0])
