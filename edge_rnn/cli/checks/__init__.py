"""What `edge-rnn doctor` looks at: each check yields what it found, with the fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `fix` says what to do unless it is ok, of a note what may be to do."""

    area: str
    level: Level
    text: str
    fix: str = ""


def ok(area: str, text: str) -> Finding:
    """All is well."""
    return Finding(area, "ok", text)


def note(area: str, text: str, fix: str) -> Finding:
    """What can't be seen from here, or can't be helped here."""
    return Finding(area, "note", text, fix)


def warning(area: str, text: str, fix: str) -> Finding:
    """It runs, with a loss that can be avoided."""
    return Finding(area, "warning", text, fix)


def error(area: str, text: str, fix: str) -> Finding:
    """It does not run, or not as promised."""
    return Finding(area, "error", text, fix)
