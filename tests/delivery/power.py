"""What a lost power supply leaves of a state file: the writes since the last fsync, in part.

SQLite appends the pages of a transaction to the write-ahead log and fsyncs it; a checkpoint then
copies pages of the log into the database and fsyncs that before the log is begun again. A kill
leaves all that was written; here, any part of what was not yet fsynced is taken back: sectors are
lost from an offset on, or each by itself, are zero, or hold what was never meant to be there.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

SECTOR = 512
_HEADER, _FRAME = 32, 24


def frames(log: Path) -> Iterator[tuple[int, int, int]]:
    """(page, offset of its content, offset behind it if it ends a commit or 0) of each frame that
    belongs to the log's present round."""
    data = log.read_bytes() if log.exists() else b""
    if len(data) < _HEADER:
        return
    size, _, *salts = struct.unpack_from(">IIII", data, 8)
    at = _HEADER
    while at + _FRAME + size <= len(data):
        page, commit, *own = struct.unpack_from(">IIII", data, at)
        if own != salts:
            return
        at += _FRAME + size
        yield page, at - size, at if commit else 0


def committed(log: Path) -> int:
    """The offset behind the last whole commit, 0 without any."""
    return max((end for _, _, end in frames(log)), default=0)


def note_safe(log: Path) -> None:
    """Remember, in a file beside the log, how much of it is fsynced."""
    _note(log).write_text(json.dumps([_round(log), committed(log)]))


def tear(log: Path, r: random.Random) -> None:
    """Undo part of what was written to the log since `note_safe`."""
    began, safe = json.loads(_note(log).read_text())
    if began != _round(log):  # the log began anew: all before is in the database, fsynced
        safe = 0
    end = committed(log)
    cut = r.randint(safe, end)
    way = r.choice(["truncated", "zero", "garbage", "sectors"])
    with log.open("r+b") as file:
        if way == "truncated":
            os.truncate(file.fileno(), cut)
        elif way == "sectors":
            for at in range(safe, end, SECTOR):
                if r.random() < 0.5:
                    os.pwrite(file.fileno(), bytes(min(SECTOR, end - at)), at)
        else:
            left = end - cut
            os.pwrite(file.fileno(), r.randbytes(left) if way == "garbage" else bytes(left), cut)


def _note(log: Path) -> Path:
    return log.with_name(f"{log.name}.safe")


def _round(log: Path) -> list[int]:
    """The salts of the log's header."""
    header = log.read_bytes()[:_HEADER] if log.exists() else b""
    return list(struct.unpack_from(">II", header, 16)) if len(header) == _HEADER else []


def tear_checkpoint(file: Path, log: Path, r: random.Random) -> None:
    """Some sectors of the log's pages have reached the database, others not."""
    end = committed(log)
    data = log.read_bytes() if log.exists() else b""
    size = struct.unpack_from(">I", data, 8)[0] if data else 0
    newest = {page: at for page, at, _ in frames(log) if at < end}
    with file.open("r+b") as database:
        for page, at in newest.items():
            for sector in range(0, size, SECTOR):
                if r.random() < 0.5:
                    content = data[at + sector : at + sector + SECTOR]
                    os.pwrite(database.fileno(), content, (page - 1) * size + sector)
