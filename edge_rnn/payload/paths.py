"""Paths into JSON documents, and the types that read just what they lead to."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from edge_rnn.errors import PayloadError

PayloadReason = Literal[
    "too_large",
    "not_json",
    "missing_field",
    "wrong_type",
    "wrong_length",
    "not_finite",
    "bad_index",
]
"""Why a payload can't be used:

too_large      more bytes than allowed
not_json       not JSON in UTF-8, or nested too deeply
missing_field  a path leads nowhere
wrong_type     a path leads to something else: true, null and "1" are not numbers
wrong_length   an array of another length than the model's input
not_finite     a number too large for float32
bad_index      an embedding's index that is not a whole number in its vocabulary
"""

MAX_INDEX = 65535
FLOAT32_MAX = math.nextafter(2.0**128 - 2.0**103, 0)  # beyond it a float64 rounds to infinity
_STEP = re.compile(r"""\.?([^.\[\]"$]+)|\[(\d{1,5})\]|\[("(?:[^"\\]|\\.)*")\]""")

Path = tuple[str | int, ...]
Feature = Annotated[float, msgspec.Meta(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
Timestamp = int | float | str | None
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Number = int | float


def parse_path(text: str) -> Path:
    """The keys and indices that a path goes through; () for `$`. Raises ValueError."""
    rest = text.removeprefix("$")
    path: list[str | int] = []
    at = 0
    while at < len(rest):
        match = _STEP.match(rest, at)
        if match is None or (at == 0 and text[0] == "."):
            raise ValueError(f"{text!r} is not a path such as accel.x, values[2], [0] or $")
        name, index, quoted = match.groups()
        path.append(name or (msgspec.json.decode(quoted, type=str) if quoted else int(index)))
        at = match.end()
    if not path and text != "$":
        raise ValueError('an empty path; the payload itself is "$"')
    if any(isinstance(step, int) and step > MAX_INDEX for step in path):
        raise ValueError(f"{text!r}: an index goes from 0 to {MAX_INDEX}")
    return tuple(path)


@dataclass(frozen=True, slots=True)
class Place:
    """A path as written, as parsed, and the type found there."""

    text: str
    path: Path
    type: Any

    @property
    def optional(self) -> bool:
        """True if a document may lack it."""
        return self.type is Timestamp

    def find(self, document: Any) -> Any:
        """What a generic document has there, None where it may lack it. Raises PayloadError where
        it does not have what we want."""
        value: Any = document
        for depth, step in enumerate(self.path):
            where = _show(self.path[:depth])
            indexed = isinstance(step, int)
            if not isinstance(value, list if indexed else dict):
                kind = "an array" if indexed else "an object"
                raise bad("wrong_type", f"{where} is {_brief(value)}, expected {kind}")
            if step not in (range(len(value)) if indexed else value):
                if self.optional:
                    return None
                raise bad("missing_field", f"no {_show(self.path[: depth + 1])}")
            value = value[step]  # type: ignore[index]
        self._check_leaf(value)
        return value

    def _check_leaf(self, value: Any) -> None:
        if self.optional:
            if value is not None and not isinstance(value, str):
                _check_number(self.text, value, "a number or a string", sys.float_info.max)
        elif self.type is Whole:
            if type(value) is not int or not 0 <= value < 2**63:
                wanted = "a whole number from 0 to 2^63 - 1"
                raise bad("wrong_type", f"{self.text} is {_brief(value)}, expected {wanted}")
        elif self.type is Number:
            _check_number(self.text, value, limit=sys.float_info.max)
        elif self.type is Feature:
            _check_number(self.text, value)
        elif not isinstance(value, list):
            raise bad("wrong_type", f"{self.text} is {_brief(value)}, expected an array")
        else:
            for i, element in enumerate(value):
                _check_number(f"{self.text}[{i}]", element)


@dataclass(slots=True)
class _Tree:
    """The paths of all places, shared beginnings once."""

    type: Any = None
    children: dict[str | int, _Tree] = field(default_factory=dict)
    optional: bool = True


def document_type(places: Sequence[Place]) -> Any:
    """What msgspec shall decode to read the places. Raises ValueError if they contradict."""
    return _compile(_tree(places))


def _tree(places: Sequence[Place]) -> _Tree:
    root = _Tree()
    for place in places:
        node = root
        node.optional &= place.optional
        for step in place.path:
            node = node.children.setdefault(step, _Tree())
            node.optional &= place.optional
        if node.type not in (None, place.type):
            raise ValueError(f"{place.text!r} is both a feature and something else")
        node.type = place.type
    _check_tree(root, ())
    return root


def _check_tree(node: _Tree, path: Path) -> None:
    kinds = {type(step) for step in node.children}
    if len(kinds) + (node.type is not None) > 1:
        raise ValueError(f"{_show(path)} can't be both a value, an object or an array")
    for step, child in node.children.items():
        _check_tree(child, (*path, step))


def _compile(node: _Tree) -> Any:
    """The type that msgspec shall decode: structs for objects, positional ones for arrays."""
    if node.type is not None:
        return node.type
    if isinstance(next(iter(node.children)), str):
        names = {_name(step): str(step) for step in node.children}
        fields = [_field(_name(step), child) for step, child in node.children.items()]
        ordered = sorted(fields, key=len)  # required ones first
        return msgspec.defstruct("Object", ordered, rename=names, frozen=True, gc=False)
    indices = [int(step) for step in node.children]
    required = max((i for i in indices if not node.children[i].optional), default=-1)
    skipped = _Tree(msgspec.Raw)
    fields = [
        _field(_name(i), node.children.get(i, skipped), optional=i > required)
        for i in range(max(indices) + 1)
    ]
    return msgspec.defstruct("Array", fields, array_like=True, frozen=True, gc=False)


def _field(name: str, node: _Tree, optional: bool | None = None) -> tuple[Any, ...]:
    kind = _compile(node)
    if not (node.optional if optional is None else optional):
        return name, kind
    if kind is Timestamp:
        return name, kind, None
    return name, kind, msgspec.field(default_factory=kind)


def _name(step: str | int) -> str:
    return f"i{step}" if isinstance(step, int) else "k" + step.encode().hex()


def attribute(path: Path) -> str:
    """Where `document_type` keeps what a path leads to; "" for the document itself."""
    return ".".join(map(_name, path))


def _check_number(
    where: str, value: Any, wanted: str = "a number", limit: float = FLOAT32_MAX
) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad("wrong_type", f"{where} is {_brief(value)}, expected {wanted}")
    if abs(value) > limit:
        kind = "float32" if limit == FLOAT32_MAX else "float64"
        raise bad("not_finite", f"{where} is {_brief(value)}, too large for {kind}")


def _show(path: Path) -> str:
    text = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)
    return text.removeprefix(".") or "the payload"


def _brief(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = msgspec.json.encode(value).decode() if not isinstance(value, float) else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def bad(reason: PayloadReason, detail: str) -> PayloadError:
    """An error with a reason that is one of ours."""
    return PayloadError(reason, detail)
