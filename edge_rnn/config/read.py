"""TOML values into the schema's tables, one key at a time so that each error knows its line."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from edge_rnn.config.schema import Address, ByteRate, Seconds
from edge_rnn.config.source import Keys, Source

T = TypeVar("T")


def read_table(cls: type[T], data: Any, source: Source, folder: Path, keys: Keys = ()) -> T:
    """A table of the schema; relative paths start from `folder`.

    Raises ConfigError at the line of the first key that is unknown, missing or wrong.
    """
    if not isinstance(data, dict):
        raise source.error(keys, f"is {_brief(data)}, expected a table: [{_dotted(keys)}]")
    hints = get_type_hints(cls, include_extras=True)
    types = {f.name: hints[f.name] for f in dataclasses.fields(cast(Any, cls))}
    for key in data:
        if key not in types:
            raise source.error((*keys, key), f"unknown; {_allowed(key, types)}")
    for name in _required(cls):
        if name not in data:
            raise source.error((*keys, name), "missing")
    values = {
        key: _read(types[key], value, source, folder, (*keys, key)) for key, value in data.items()
    }
    return cls(**values)


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))


def _required(cls: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]


def _read(kind: Any, value: Any, source: Source, folder: Path, keys: Keys) -> Any:
    kind = _without_none(kind)
    if dataclasses.is_dataclass(kind):
        return read_table(cast(type[Any], kind), value, source, folder, keys)
    if get_origin(kind) is Literal:
        if not any(value == a and type(value) is type(a) for a in get_args(kind)):
            raise source.error(keys, f"is {_brief(value)}; {_allowed(value, get_args(kind))}")
        return value
    try:
        if kind in (Seconds, ByteRate, Address):
            return kind.parse(value)
        if kind is Path:
            return folder / msgspec.convert(value, str)
        return msgspec.convert(value, kind)
    except ValueError as e:
        raise source.error(keys, f"is {_brief(value)}: {_plain(str(e))}") from e


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    left = [k for k in get_args(kind) if k is not type(None)]
    return left[0] if len(left) == 1 else kind


def _allowed(came: object, allowed: Iterable[object]) -> str:
    """The choices, and the one that was probably meant."""
    names = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(came), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"allowed: {', '.join(names)}{hint}"


def _plain(message: str) -> str:
    return message[0].lower() + message[1:].replace("`", "").replace(" - at $", " at ")


def _brief(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
