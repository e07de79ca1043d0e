"""JSON payloads: message -> features, prediction -> message.

A path names a place in a payload: `temperature`, `accel.x`, `values[2]`, `["odd key"][0].x`, and
`$` for the payload itself. Paths are compiled once into a typed decoder; what is not asked for
is skipped unread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Any

import msgspec

from edge_rnn.errors import PayloadError
from edge_rnn.graph import Embedding, Model
from edge_rnn.payload.paths import (
    FLOAT32_MAX,
    PayloadReason,
    Place,
    Timestamp,
    attribute,
    bad,
    document_type,
    parse_path,
)

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "Decoder",
    "Encoder",
    "PayloadReason",
    "Prediction",
    "Sample",
    "parse_path",
    "vocabularies",
]

MAX_PAYLOAD_BYTES = 64 * 1024
_GENERIC = msgspec.json.Decoder(float_hook=float)


class Sample(msgspec.Struct, frozen=True, gc=False):
    """What a message says: `features` as wide as the model's input, its `timestamp` if any."""

    features: list[float]
    timestamp: Timestamp = None


class Prediction(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What an outgoing payload says; `n` counts the stream's steps from 1."""

    stream: str
    n: int
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


class Decoder:
    """Reads `width` features by one path each (`fields`) or from one array (`array`).

    timestamp: path of a number or string to be handed through; a message may lack it.
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
        vocabulary: Mapping[int, int] | None = None,
        max_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        if bool(fields) == (array is not None):
            raise ValueError("features come from fields or from an array: give one of the two")
        if fields and len(fields) != width:
            raise ValueError(f"{len(fields)} fields for a model of {width} features")
        self.width, self.max_bytes = width, max_bytes
        self._vocabulary = dict(vocabulary or {})
        self._places = [Place(f, parse_path(f), float) for f in fields]
        if array is not None:
            self._places = [Place(array, parse_path(array), list[float])]
        self._features = _reader(self._places, many=bool(fields))
        self._timestamp: Callable[[Any], Timestamp] = lambda _: None
        if timestamp is not None:
            place = Place(timestamp, parse_path(timestamp), Timestamp)
            self._places.append(place)
            self._timestamp = attrgetter(attribute(place.path))
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
        self._check(features)
        return Sample(features, self._timestamp(document))

    def _check(self, features: list[float]) -> None:
        if len(features) != self.width:
            raise bad("wrong_length", f"{len(features)} features, expected {self.width}")
        if max(features) > FLOAT32_MAX or min(features) < -FLOAT32_MAX:
            raise bad("not_finite", f"{max(features, key=abs)} is too large for float32")
        for column, size in self._vocabulary.items():
            index = features[column]
            if not (0 <= index < size and index.is_integer()):
                raise bad("bad_index", f"feature {column} is {index}, expected 0 to {size - 1}")

    def _explain(self, payload: bytes, error: Exception) -> PayloadError:
        """Say in the user's own paths what the compiled decoder stumbled over."""
        try:
            document = _GENERIC.decode(payload)
            for place in self._places:
                place.check(document)
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

    def encode(self, stream: str, n: int, timestamp: Timestamp, values: list[float]) -> bytes:
        """The payload of one prediction. A float32 in `values` comes back the same float32."""
        label = probabilities = None
        if self._classes:
            label = self._classes[values.index(max(values))]
            if self._probabilities:
                probabilities = dict(zip(self._classes, values, strict=True))
        return self._encode(
            Prediction(
                stream=stream,
                n=n,
                timestamp=timestamp,
                values=values,
                label=label,
                probabilities=probabilities,
            )
        )


def _itself(document: Any) -> Any:
    return document


def _reader(places: Sequence[Place], *, many: bool) -> Callable[[Any], list[float]]:
    """A function from the decoded document to the list of features."""
    paths = [attribute(p.path) for p in places]
    get: Callable[[Any], Any] = attrgetter(*paths) if all(paths) else _itself
    if not many:
        return get
    if len(paths) == 1:
        return lambda document: [get(document)]
    return lambda document: list(get(document))
