"""What a message says: whose it is, its number, and a sample to step, or why there is none."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_rnn.errors import PayloadError
from edge_rnn.graph import Model
from edge_rnn.journal import Held
from edge_rnn.messages import Message, Reason, Rejected, Spec
from edge_rnn.ordering import Number
from edge_rnn.payload import Sample
from edge_rnn.topics import Route, Routes

_NO_SAMPLE = Sample(())


class Item(msgspec.Struct, gc=False):
    """A message whose turn may come: with a sample to step, or the reason why there is none.
    `fresh`: its stream begins anew with it."""

    stream: str
    epoch: int
    sequence: Any  # a Number where messages are numbered
    message: Message
    route: Route
    sample: Sample
    rejected: Rejected | None = None
    fresh: bool = False


class Reader:
    """Reads a pipeline's messages: by their topic, payload and user properties alone.

    Raises ValueError when spec and model don't fit.
    """

    def __init__(self, model: Model, spec: Spec) -> None:
        self._routes = Routes(spec.topics, spec.stream, spec.output, spec.capacity)
        self._decoder, self._stamps = spec.decoder(model), spec.stamps
        self._retained = spec.retained

    def read(self, message: Message) -> Item | Rejected:
        """What a message says. One that can't be used has its turn too, if it tells its number: it
        is not missing."""
        route = self._routes.route(message.topic)
        if route is None:
            detail = f"{message.topic!r} matches no input topic"
            return Rejected(message, "bad_topic", detail, "")
        if message.retain and not self._retained:
            detail = "kept by the broker; input.retained is off"
            return Rejected(message, "retained", detail, route.pattern)
        number: tuple[int, Number] | None = None
        try:
            if self._stamps:
                number = self._stamps.read(message.properties)
            sample = self._decoder.decode(message.payload)
        except PayloadError as e:
            reason: Reason = e.reason  # type: ignore[assignment]
            rejected = Rejected(message, reason, str(e), route.pattern)
            number = number or self._decoder.number(message.payload)
            if number is None:
                return rejected
            return Item(route.stream, *number, message, route, _NO_SAMPLE, rejected)
        if number is not None:
            epoch, sequence = number
            sample = Sample(sample.features, sample.timestamp, sequence, epoch)
        return Item(route.stream, sample.epoch, sample.sequence, message, route, sample)

    def again(self, h: Held) -> Item | Rejected:
        """What a message said that was held; its number is not always in its payload."""
        properties = self._stamps.write(h.epoch, int(h.sequence)) if self._stamps else ()
        return self.read(Message(h.topic, h.payload, properties=properties))
