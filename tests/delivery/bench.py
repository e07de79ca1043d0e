"""A daemon behind a proxy, and what every fault that is made of it begins and ends with."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.delivery.forge import Forge, Forked
from tests.delivery.proxy import Proxy
from tests.delivery.rig import CONNECTED, Rig

PATIENCE = 40.0


class Bench:
    """A daemon behind a proxy, some of whose messages are answered already."""

    def __init__(self, site: Rig, forge: Forge, proxy: Proxy, **tables: str) -> None:
        self.rig, self.forge, self.proxy = site, forge, proxy
        site.port = proxy.port
        self.tables = {"broker": "keepalive = 1"} | tables
        self.daemon: Forked
        self.how = "recovered"

    def start(self, *preparations: list[object]) -> Forked:
        """A daemon, which may be one that can't go on."""
        self.connects = self.rig.log.count(CONNECTED)
        self.daemon = self.forge.start(self.rig.config(**self.tables), *preparations)
        return self.daemon

    def busy(self, seconds: float, each: int = 2) -> None:
        """Messages come for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.rig.publish(each)
            time.sleep(0.05)

    def wait(self, what: str, condition: Callable[[], object]) -> None:
        """Until this is so. Nothing is published meanwhile."""
        end = time.monotonic() + PATIENCE
        while not condition():
            log = self.rig.log[-3000:]
            assert time.monotonic() < end, f"waited {PATIENCE} s for {what}:\n{log}"
            time.sleep(0.02)

    def subscribed(self) -> None:
        self.wait("a connection", lambda: self.rig.log.count(CONNECTED) > self.connects)

    def complete(self) -> None:
        self.wait("all predictions", lambda: self.rig.complete)


def run(b: Bench) -> None:
    """Start the daemon, and see it answer."""
    b.start()
    b.subscribed()
    b.busy(0.3)
    b.complete()


def end(b: Bench) -> None:
    """See all answered, and stop it."""
    b.busy(0.2)
    b.complete()
    assert b.daemon.stop() == 0, b.rig.log[-3000:]
