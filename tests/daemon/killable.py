"""`edge-rnn run` that kills itself: `python -m tests.daemon.killable POINT COUNT CONFIG`.

It sends itself SIGKILL when it comes to the write boundary POINT for the COUNT-th time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from edge_rnn.cli import main
from edge_rnn.daemon.outbox import Outbox
from edge_rnn.journal import Journal
from edge_rnn.mqtt import Link

POINTS = {
    "before the commit": (Journal, "commit", "before"),
    "inside the commit": (Journal, "_post", "before"),
    "after the commit": (Journal, "commit", "after"),
    "before acknowledging": (Link, "ack", "before"),
    "acknowledged": (Link, "ack", "after"),
    "while sending": (Link, "publish", "after"),
    "sent": (Outbox, "send", "after"),
}
"""The boundaries between what is durable, acknowledged and sent, by name."""


def plant(point: str, count: int) -> None:
    """Have the process kill itself at the point."""
    owner, name, side = POINTS[point]
    original: Callable[..., Any] = getattr(owner, name)
    reached = 0

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal reached
        reached += 1
        if reached < count:
            return original(self, *args, **kwargs)
        if side == "after":
            original(self, *args, **kwargs)
            if isinstance(self, Link):
                self.flush()  # what was written is what a kill leaves on the way
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(owner, name, killed)


if __name__ == "__main__":
    point, count, config = sys.argv[1:]
    if point in POINTS:
        plant(point, int(count))
    main(["run", "--json", config])
