"""A message's number in its MQTT 5 user properties, beside the payload: `property:NAME`."""

from __future__ import annotations

from dataclasses import dataclass

from edge_rnn.payload.paths import bad

_PREFIX = "property:"
_MOST = 2**63 - 1

Properties = tuple[tuple[str, str], ...]


def property_name(path: str | None) -> str | None:
    """The user property that a path names; None if it leads into the payload."""
    return path.removeprefix(_PREFIX) if path is not None and path.startswith(_PREFIX) else None


@dataclass(frozen=True, slots=True)
class Stamps:
    """Names of the properties that hold a message's number and, if any, its publisher's epoch."""

    sequence: str
    epoch: str | None = None

    def read(self, properties: Properties) -> tuple[int, int]:
        """(epoch, sequence). Raises PayloadError if one is missing or no whole number."""
        found = dict(properties)
        epoch = 0 if self.epoch is None else _whole(found, self.epoch)
        return epoch, _whole(found, self.sequence)

    def write(self, epoch: int, sequence: int) -> Properties:
        """The properties that say so."""
        also = () if self.epoch is None else ((self.epoch, str(epoch)),)
        return ((self.sequence, str(sequence)), *also)


def _whole(found: dict[str, str], name: str) -> int:
    text = found.get(name)
    if text is None:
        raise bad("missing_field", f"no user property {name!r}")
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= _MOST):
        raise bad("wrong_type", f"user property {name!r} is {text[:40]!r}, not a whole number")
    return int(text)
