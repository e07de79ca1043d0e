"""Whether messages wait a moment for more of them, to be stepped and saved at once."""

from __future__ import annotations

from collections.abc import Callable

from edge_rnn.mqtt import Inbox


class Fill:
    """Batches of up to `most` messages, none of which waits longer than `delay` seconds for it."""

    def __init__(self, inbox: Inbox, most: int, delay: float, clock: Callable[[], float]) -> None:
        self._inbox, self._most, self._delay, self._clock = inbox, most, delay, clock
        self._began: float | None = None

    def until(self) -> float:
        """Until when those that are there wait; 0 if they don't."""
        if not self._delay or not 0 < len(self._inbox) < self._most:
            return 0.0
        now = self._clock()
        if self._began is None:
            self._began = now
        end = self._began + self._delay
        return end if now < end else 0.0

    def taken(self) -> None:
        """A batch was taken; what it left over has waited long enough."""
        if not len(self._inbox):
            self._began = None
