"""When to try again what has failed."""

from __future__ import annotations

import random

_SHORT_LIVED = 3  # in a row, and something is wrong


class Retries:
    """Waits between connections, from `least` to `most` seconds: they grow until a connection has
    lasted longer than that."""

    def __init__(self, least: float, most: float, now: float) -> None:
        self._least, self._most, self._failures = least, most, 0
        self.at = now

    @property
    def many(self) -> bool:
        """Has it failed several times in a row?"""
        return self._failures >= _SHORT_LIVED

    def failed(self, now: float) -> float:
        """Once more -> seconds to wait."""
        longest = min(self._most, self._least * 2.0 ** min(self._failures, 30))
        wait = longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, no secret
        self._failures += 1
        self.at = now + wait
        return wait

    def lasted(self, seconds: float) -> None:
        """So long did a connection."""
        if seconds > self._most:
            self._failures = 0
