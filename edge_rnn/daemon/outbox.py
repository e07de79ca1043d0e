"""Predictions on their way: sent when they are safe, in order, until the broker has them all."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from edge_rnn.journal import Letter
from edge_rnn.mqtt import Link


class Outbox:
    """Sends boxes of letters, and knows which have arrived whole.

    A box is what one transaction of the journal holds, under its id; 0 is not kept there.
    """

    def __init__(self, qos: int, retain: bool) -> None:
        self.qos, self.retain = qos, retain
        self._letters: deque[tuple[int, Letter]] = deque()
        self._open: dict[int, int] = {}
        self.arrived: list[int] = []

    def __len__(self) -> int:
        """How many letters are neither sent nor, with QoS 1, confirmed."""
        return len(self._letters) + sum(self._open.values())

    @property
    def waiting(self) -> int:
        """How many letters are not handed over yet."""
        return len(self._letters)

    def put(self, box: int, letters: Sequence[Letter]) -> None:
        """Send these after those before them."""
        if box and letters:
            self._open[box] = len(letters)
        self._letters.extend((box, letter) for letter in letters)

    def send(self, link: Link) -> None:
        """Hand over as many letters as the connection takes, and see what has arrived."""
        for _ in range(min(len(self._letters), link.room)):
            box, (topic, payload) = self._letters.popleft()
            link.publish(topic, payload, self.qos, self.retain, box)
        for box, letters in Counter(link.confirmed).items():
            self._open[box] -= letters
            if not self._open[box]:
                del self._open[box]
                self.arrived.append(box)
        link.confirmed.clear()
