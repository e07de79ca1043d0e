"""What goes into a pipeline and what comes out: messages, predictions, reasons; what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import msgspec

from edge_rnn.graph import Model
from edge_rnn.ordering import Gap
from edge_rnn.payload import (
    MAX_PAYLOAD_BYTES,
    Decoder,
    PayloadReason,
    Properties,
    Stamps,
    property_name,
    vocabularies,
)
from edge_rnn.state import Eviction

Reason = Literal[PayloadReason, "bad_topic", "retained", "diverged", "stopped"]
"""Why a message has no prediction: a `PayloadReason`, or

bad_topic  no input pattern matches, or a named part is empty
retained   an old message that the broker kept, when those are not asked for
diverged   the prediction was not finite; its stream starts anew from the next message on
stopped    a message of its stream is missing, and the stream stops at gaps until it is reset
"""
REASONS: tuple[str, ...] = (
    *get_args(PayloadReason),
    "bad_topic",
    "retained",
    "diverged",
    "stopped",
)

OnGap = Literal["flag", "reset", "stop"]
"""What a stream does where messages are missing for good: go on, begin anew, or stop."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """An incoming message. `mid` is its packet id, unlike those of other connections, and 0 when it
    needs no acknowledgement; `properties` are MQTT 5's user properties, where they are read."""

    topic: str
    payload: bytes
    retain: bool = False
    mid: int = 0
    properties: Properties = ()


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A prediction to publish; (stream, run, n) identifies it for ever."""

    topic: str
    payload: bytes
    stream: str
    n: int
    run: int = 0


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A message without a prediction; `kind` is the input pattern it came by, "" for none."""

    message: Message
    reason: Reason
    detail: str
    kind: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a batch, in the batch's order. `duplicates` are messages that were stepped
    before, or wait for their turn already; of `gaps` the messages are given up."""

    predictions: list[Outgoing] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    evictions: list[Eviction] = field(default_factory=list)
    duplicates: list[Message] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a pipeline does. ttl and hold in seconds; `fields` and `array` empty take the features
    by the names the model gives them. `sequence` and `epoch`, or `increasing`, number the messages
    of a stream (see `ordering`); `hold` and `hold_size` bound what waits for its turn."""

    topics: Sequence[str]
    output: str
    stream: str | None = None
    fields: Sequence[str] = ()
    array: str | None = None
    timestamp: str | None = None
    sequence: str | None = None
    epoch: str | None = None
    increasing: str | None = None
    on_gap: OnGap = "flag"
    hold: float = 5.0
    hold_size: int = 10_000
    retained: bool = False
    max_payload_bytes: int = MAX_PAYLOAD_BYTES
    capacity: int = 1000
    ttl: float | None = None

    @property
    def numbered(self) -> bool:
        """Do messages have numbers, which put them in order?"""
        return self.sequence is not None or self.increasing is not None

    @property
    def stamps(self) -> Stamps | None:
        """Where the numbers are, if they are in user properties."""
        name = property_name(self.sequence)
        return None if name is None else Stamps(name, property_name(self.epoch))

    def decoder(self, model: Model) -> Decoder:
        """Reads the model's features. Raises ValueError when the paths don't fit the model."""
        named = () if self.array is not None else [_key(f.name) for f in model.features]
        if not self.fields and not named and self.array is None:
            raise ValueError(
                f"the model does not name its {model.input_width} features: say where they "
                "stand in a message with fields or array"
            )
        return Decoder(
            model.input_width,
            fields=self.fields or named,
            array=self.array,
            timestamp=self.timestamp,
            sequence=None if self.stamps else self.sequence,
            epoch=None if self.stamps else self.epoch,
            increasing=self.increasing,
            vocabulary=vocabularies(model),
            max_bytes=self.max_payload_bytes,
        )


def _key(name: str) -> str:
    """The path of a field whose name may hold dots and brackets."""
    return f"[{msgspec.json.encode(name).decode()}]"
