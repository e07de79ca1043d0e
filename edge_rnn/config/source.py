"""A TOML file that can tell on which line a key stands."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from edge_rnn.errors import ConfigError

Keys: TypeAlias = tuple[str | int, ...]
"""The way to a value: names of tables and keys, and places, from 0, in an array of tables."""

_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Source:
    """A file's text, and errors that point into it."""

    path: Path
    text: str

    def parse(self) -> dict[str, Any]:
        """Raises ConfigError where it is not TOML."""
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as e:
            at = _AT.search(str(e))
            line = at[1] if at and at[1] else len(self.text.splitlines())
            reason = _AT.sub("", str(e))
            raise ConfigError(f"{self.path}:{line}: not TOML: {reason}") from None

    def error(self, keys: Keys, problem: str) -> ConfigError:
        """An error about the value at `keys`: `file:line: [table] key: problem`."""
        *table, key = (str(k + 1) if isinstance(k, int) else k for k in keys)
        where = f"[{'.'.join(table)}] {key}" if table else key
        return ConfigError(f"{self.path}:{self.line(keys)}: {where}: {problem}")

    def line(self, keys: Keys) -> int:
        """The line of a key, else of its table, else 1.

        The parser gives no positions, but a key begins after the longest beginning of the file
        that parses without it.
        """
        lines = self.text.splitlines(keepends=True)
        while keys:
            last = -1
            for n in range(len(lines) + 1):
                known = _has(lines[:n], keys)
                if known:
                    return last + 1
                last = n if known is not None else last
            keys = keys[:-1]
        return 1


def _has(lines: list[str], keys: Keys) -> bool | None:
    """Does this beginning of a file have the key? None if it is not TOML by itself."""
    try:
        value: Any = tomllib.loads("".join(lines))
    except tomllib.TOMLDecodeError:
        return None
    for key in keys:
        places: Any = dict(enumerate(value)) if isinstance(value, list) else value
        if not isinstance(places, dict) or key not in places:
            return False
        value = places[key]
    return True
