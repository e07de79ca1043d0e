"""JSON payloads: message -> features, prediction -> message.

A path names a place in a payload: `temperature`, `accel.x`, `values[2]`, `["odd key"][0].x`, and
`$` for the payload itself. Paths are compiled once into a typed decoder; what is not asked for
is skipped unread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any

import msgspec

from edge_rnn.errors import PayloadError
from edge_rnn.graph import Embedding, Model
from edge_rnn.payload.paths import (
    Feature,
    Number,
    PayloadReason,
    Place,
    Timestamp,
    Whole,
    attribute,
    bad,
    document_type,
    parse_path,
)
from edge_rnn.payload.stamps import Properties, Stamps, property_name

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "Decoder",
    "Encoder",
    "PayloadReason",
    "Prediction",
    "Properties",
    "Sample",
    "Stamps",
    "parse_path",
    "property_name",
    "vocabularies",
]

MAX_PAYLOAD_BYTES = 64 * 1024
_GENERIC = msgspec.json.Decoder(float_hook=float)


class Sample(msgspec.Struct, frozen=True, gc=False):
    """What a message says: `features` as wide as the model's input, its `timestamp` if any; its
    number `sequence` in its publisher's `epoch`, if these are asked for."""

    features: Sequence[float]
    timestamp: Timestamp = None
    sequence: Number | None = None
    epoch: int = 0


class Prediction(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What an outgoing payload says; `n` counts the stream's steps from 1, in each of its runs: a
    new `run` begins where the stream starts anew."""

    stream: str
    n: int
    run: int = 0
    sequence: Number | None = None
    timestamp: Timestamp = None
    values: list[float]
    label: str | None = None
    probabilities: dict[str, float] | None = None


def vocabularies(model: Model) -> dict[int, int]:
    """Input column -> vocabulary size of each embedding."""
    columns = dict(zip((i.name for i in model.inputs), _starts(model), strict=True))
    sizes: dict[int, int] = {}
    for node in model.nodes:
        if isinstance(node, Embedding):
            column, size = columns[node.input], len(node.table.data)
            sizes[column] = min(size, sizes.get(column, size))
    return sizes


def _starts(model: Model) -> list[int]:
    return list(accumulate((i.width for i in model.inputs[:-1]), initial=0))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Gets a place's value out of what the typed decoder makes of a document."""

    place: Place
    get: Callable[[Any], Any]


class Decoder:
    """Reads `width` features by one path each (`fields`) or from one array (`array`).

    timestamp: path of a number or string to be handed through; a message may lack it.
    sequence, epoch: paths of the message's number and of its publisher's life, whole numbers;
    increasing: path of a number that only goes up, in place of `sequence`.
    vocabulary: column -> size, for features that are an embedding's index.
    Raises ValueError when paths are malformed or contradict each other.
    """

    def __init__(
        self,
        width: int,
        *,
        fields: Sequence[str] = (),
        array: str | None = None,
        timestamp: str | None = None,
        sequence: str | None = None,
        epoch: str | None = None,
        increasing: str | None = None,
        vocabulary: Mapping[int, int] | None = None,
        max_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        if bool(fields) == (array is not None):
            raise ValueError("features come from fields or from an array: give one of the two")
        if fields and len(fields) != width:
            raise ValueError(f"{len(fields)} fields for a model of {width} features")
        self.width, self.max_bytes = width, max_bytes
        self._vocabulary = dict(vocabulary or {})
        self._places = [Place(f, parse_path(f), Feature) for f in fields]
        if array is not None:
            self._places = [Place(array, parse_path(array), list[Feature])]
        self._features = _reader(self._places, many=bool(fields))
        self._sequence = self._also(sequence, Whole) or self._also(increasing, Number)
        self._epoch = self._also(epoch, Whole)
        shared = timestamp is not None and timestamp in (sequence, increasing)
        self._timestamp = self._sequence if shared else self._also(timestamp, Timestamp)
        self._decode = msgspec.json.Decoder(document_type(self._places)).decode

    def decode(self, payload: bytes) -> Sample:
        """The payload's sample. Raises PayloadError with a `PayloadReason`."""
        if len(payload) > self.max_bytes:
            raise bad("too_large", f"{len(payload)} bytes, at most {self.max_bytes} allowed")
        try:
            document = self._decode(payload)
        except (ValueError, RecursionError) as e:
            raise self._explain(payload, e) from None
        features = self._features(document)
        if len(features) != self.width or self._vocabulary:
            self._check(features)
        return Sample(
            features,
            self._timestamp.get(document) if self._timestamp else None,
            self._sequence.get(document) if self._sequence else None,
            self._epoch.get(document) if self._epoch else 0,
        )

    def number(self, payload: bytes) -> tuple[int, Number] | None:
        """(epoch, sequence) of a payload that can't be used, if it tells as much."""
        if self._sequence is None or len(payload) > self.max_bytes:
            return None
        try:
            document = _GENERIC.decode(payload)
            sequence = self._sequence.place.find(document)
            return self._epoch.place.find(document) if self._epoch else 0, sequence
        except (ValueError, RecursionError):
            return None

    def _also(self, path: str | None, kind: Any) -> _Reader | None:
        """What reads a further value of a document, if it is asked for."""
        if path is None:
            return None
        place = Place(path, parse_path(path), kind)
        self._places.append(place)
        return _Reader(place, attrgetter(attribute(place.path)) if place.path else _itself)

    def _check(self, features: Sequence[float]) -> None:
        if len(features) != self.width:
            raise bad("wrong_length", f"{len(features)} features, expected {self.width}")
        for column, size in self._vocabulary.items():
            index = features[column]
            if not (0 <= index < size and index.is_integer()):
                raise bad("bad_index", f"feature {column} is {index}, expected 0 to {size - 1}")

    def _explain(self, payload: bytes, error: Exception) -> PayloadError:
        """Say in the user's own paths what the compiled decoder stumbled over."""
        try:
            document = _GENERIC.decode(payload)
            for place in self._places:
                place.find(document)
        except PayloadError as e:
            return e
        except RecursionError:
            return bad("not_json", "nested too deeply")
        except msgspec.ValidationError as e:  # a number beyond float64
            return bad("not_finite", str(e))
        except ValueError as e:
            return bad("not_json", str(e))
        return bad("wrong_type", str(error))


class Encoder:
    """Writes predictions; `classes` name the values, of which the largest is the label."""

    def __init__(self, classes: Sequence[str] = (), *, probabilities: bool = False) -> None:
        self._classes, self._probabilities = tuple(classes), probabilities
        self._encode = msgspec.json.Encoder().encode

    def encode(self, stream: str, n: int, run: int, sample: Sample, values: list[float]) -> bytes:
        """The payload of the prediction made of a sample at step n of a stream's run. A float32 in
        `values` comes back the same float32."""
        label = probabilities = None
        if self._classes:
            label = self._classes[values.index(max(values))]
            if self._probabilities:
                probabilities = dict(zip(self._classes, values, strict=True))
        return self._encode(
            Prediction(
                stream=stream,
                n=n,
                run=run,
                sequence=sample.sequence,
                timestamp=sample.timestamp,
                values=values,
                label=label,
                probabilities=probabilities,
            )
        )


def _itself(document: Any) -> Any:
    return document


def _reader(places: Sequence[Place], *, many: bool) -> Callable[[Any], Sequence[float]]:
    """A function from the decoded document to the features."""
    paths = [attribute(p.path) for p in places]
    get: Callable[[Any], Any] = attrgetter(*paths) if all(paths) else _itself
    return (lambda document: (get(document),)) if many and len(paths) == 1 else get
