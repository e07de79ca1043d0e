"""Up to where each stream is safe, told to publishers as retained messages."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edge_rnn.journal import Mark
from edge_rnn.mqtt import Link

QOS = 1


class Watermarks:
    """Publishes the positions that have been committed: each stream's newest, every `every` seconds
    at most, to the topic that `template` makes of its id.

    A publisher that keeps what is above its stream's watermark can send that again to a broker
    which has lost all it had.
    """

    def __init__(self, template: str, every: float, marks: Iterable[Mark]) -> None:
        self._before, self._after = template.split("{stream}")
        self._every, self._next, self._lost = every, 0.0, 0
        self._marks = {m.stream: m for m in marks if m.sequence is not None}
        self._changed = dict.fromkeys(self._marks)
        self._due: dict[str, None] = {}

    def committed(self, marks: Iterable[Mark], dropped: Iterable[str]) -> None:
        """These are on disk now, and those are known no longer."""
        for m in marks:
            if m.sequence is not None:
                self._marks[m.stream] = m
                self._changed[m.stream] = None
        for stream in dropped:
            for of in (self._marks, self._changed, self._due):
                of.pop(stream, None)

    def publish(self, link: Link, now: float, sessions_lost: int) -> None:
        """Hand over what is due. A broker that has lost a session may have lost retained messages
        too: it is given all of them again, at once, for publishers wait for it."""
        if sessions_lost != self._lost:
            self._lost, self._next = sessions_lost, now
            self._changed = dict.fromkeys(self._marks)
        if now >= self._next and self._changed:
            self._due |= self._changed
            self._changed = {}
            self._next = now + self._every
        while self._due and link.ready and link.room:
            stream = next(iter(self._due))
            del self._due[stream]
            topic = f"{self._before}{stream}{self._after}"
            link.publish(topic, _payload(self._marks[stream]), QOS, retain=True)


def _payload(m: Mark) -> bytes:
    return msgspec.json.encode({"stream": m.stream, "epoch": m.epoch, "sequence": m.sequence})
