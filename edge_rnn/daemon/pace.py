"""How often the journal is written: as often as asked for, or as a day's budget of bytes allows."""

from __future__ import annotations

import logging
import math
import resource
from collections.abc import Callable

HOUR = 3600.0
_MEMORY = 1 / 200
"""How much of what a commit is thought to cost comes from the last one: SQLite moves its log into
the database every 1000 pages, and that one pays for those before it."""
_ENOUGH = 8  # commits before what one costs is told

log = logging.getLogger(__name__)


def bytes_written() -> int:
    """What this process has had written to disks since its start, as Linux counts it in pages.

    A file system in memory counts nothing, nor does a kernel without CONFIG_TASK_IO_ACCOUNTING.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_oublock * 512


class Pace:
    """The least time between two commits, in seconds.

    least: what is asked for. budget: bytes a second, on average over a day, or None. With a budget
    the interval follows what commits cost. An idle hour's bytes can be used later, no more, and no
    day has more than the budget, to within a commit; unless that took more than `most` seconds from
    one to the next. buys: what waiting costs, for the log.
    """

    def __init__(
        self,
        least: float,
        budget: float | None,
        now: float,
        *,
        buys: str,
        most: float = math.inf,
        written: Callable[[], int] = bytes_written,
    ) -> None:
        self._least, self._budget, self._buys, self._written = least, budget, buys, written
        self._most = most
        self._rate = 0.95 * (budget or 0.0)  # an idle hour's bytes come on top
        self.interval = least
        self._total, self._at = written(), now
        self._commits, self._cost, self._debt = 0, 0.0, 0.0
        self._told = -1.0

    def committed(self, now: float) -> int:
        """A commit is done; returns how many bytes were written since the one before."""
        total = self._written()
        spent, self._total = total - self._total, total
        if self._budget is not None:
            self._pay(spent, now)
        return spent

    def _pay(self, spent: int, now: float) -> None:
        """The interval at which commits of the mean cost use up the budget; longer in debt, shorter
        while an idle time's bytes last."""
        hourly = self._rate * HOUR
        earned = self._rate * (now - self._at)
        self._at = now
        self._debt = max(self._debt - earned, -hourly) + spent
        self._commits += 1
        self._cost += (spent - self._cost) * max(_MEMORY, 1 / self._commits)
        wait = self._cost / self._rate * max(0.0, 1 + self._debt / hourly)
        self.interval = min(max(self._least, wait), self._most)
        self._tell()

    def _tell(self) -> None:
        """Say what the budget comes to, once that is known and when it has much changed."""
        lasting = max(self._least, self._cost / self._rate)
        known = self._commits >= _ENOUGH or lasting > self._most
        if not known or self._told / 2 < lasting < self._told * 2:
            return
        self._told = lasting
        if not self._cost:
            log.warning("state.write_budget: no bytes written are counted here, as where the state "
                        "file is in memory")  # fmt: skip
            return
        each, text = self._cost / 1e3, f"{lasting:.2g} s"
        if lasting > self._most:
            log.warning("state.write_budget can't be kept: a commit writes %.0f kB, and there is "
                        "one every %g s, for answers wait no longer", each, self._most)  # fmt: skip
            return
        log.info("state.write_budget: a commit writes %.0f kB, so there is one about every %s: %s",
                 each, text, self._buys.format(text))  # fmt: skip
