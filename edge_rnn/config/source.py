"""A TOML file that can tell on which line a key stands."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_rnn.errors import ConfigError

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

    def error(self, keys: tuple[str, ...], problem: str) -> ConfigError:
        """An error about the value at `keys`: `file:line: [table] key: problem`."""
        *table, key = keys
        where = f"[{'.'.join(table)}] {key}" if table else key
        return ConfigError(f"{self.path}:{self.line(keys)}: {where}: {problem}")

    def line(self, keys: tuple[str, ...]) -> int:
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


def _has(lines: list[str], keys: tuple[str, ...]) -> bool | None:
    """Does this beginning of a file have the key? None if it is not TOML by itself."""
    try:
        value: Any = tomllib.loads("".join(lines))
    except tomllib.TOMLDecodeError:
        return None
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
