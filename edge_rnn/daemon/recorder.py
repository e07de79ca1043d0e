"""Recording what a pipeline receives, and what it publishes, beside it.

The recorder has a connection and a session of its own, which end with it, and is no part of the
daemon: it takes no message away from it, not even of a shared subscription.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_rnn.config import Config
from edge_rnn.daemon.plan import make_settings
from edge_rnn.messages import Message
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt import Inbox, Link, Settings
from edge_rnn.replay import Event, Header, Writer
from edge_rnn.signals import Signals

SYNC_SECONDS = 1.0
_WAITING = 100_000
_AT_ONCE = 1000

clock = time.monotonic


@dataclass(frozen=True, slots=True)
class Recorded:
    """How much is in a recording so far: messages, predictions, how often the connection was lost;
    `seconds` since it began; `ready`: the broker sends us what comes."""

    messages: int = 0
    predictions: int = 0
    breaks: int = 0
    seconds: float = 0.0
    ready: bool = False


class Recorder:
    """Records a pipeline's topics into a new file: its inputs, with `outputs` its predictions too.

    Raises ConfigError, or OSError where the file can't be made.
    """

    def __init__(self, config: Config, path: Path, *, outputs: bool) -> None:
        self.path, self._routes = path, config.routes
        own = [p.own_filter for p in config.routes.patterns]
        published = config.routes.output_filters if outputs else []
        self._settings = _beside(make_settings(config), [*own, *published])
        self._start, self._wall = clock(), time.time()
        self._writer = Writer(path, Header(config.name, self._wall, own, published))
        self._so_far = Recorded()

    def run(
        self, signals: Signals, until: Callable[[Recorded], bool], tell: Callable[[Recorded], None]
    ) -> Recorded:
        """Record until a signal or until `until` says so; `tell` is told how far it is.

        Raises BrokerError if the broker refuses us, OSError if the disk takes no more: the file
        then holds all that came before.
        """
        inbox, metrics = Inbox(_WAITING, "wait"), Metrics()
        link = Link(self._settings, inbox, metrics, wakeup=signals.fileno(), clock=clock)
        synced = clock()
        try:
            with self._writer:
                while not signals.stop and not until(self._so_far):
                    link.poll(0.2, _AT_ONCE)
                    signals.drain()
                    batch = inbox.take(len(inbox))
                    self._write(batch, metrics.disconnects, link.ready)
                    link.ack(batch)
                    if clock() - synced > SYNC_SECONDS:
                        self._writer.sync()
                        synced = clock()
                    tell(self._so_far)
        finally:
            link.close()
        return self._so_far

    def _write(self, batch: Sequence[Message], breaks: int, ready: bool) -> None:
        """Add what came; a connection that was lost since is between."""
        s, elapsed = self._so_far, clock() - self._start
        at = self._wall + elapsed
        events = [Event("break", at)] * (breaks - s.breaks) + [
            e for m in batch if (e := self._event(m, at))
        ]
        if events:
            self._writer.append(events)
        outs = sum(e.kind == "out" for e in events)
        ins = sum(e.kind == "in" for e in events)
        self._so_far = Recorded(s.messages + ins, s.predictions + outs, breaks, elapsed, ready)

    def _event(self, m: Message, at: float) -> Event | None:
        """A message as it is recorded; not a prediction that the broker has kept from before."""
        if self._routes.is_input(m.topic):
            return Event("in", at, m.topic, m.payload, m.retain, m.properties)
        return None if m.retain else Event("out", at, m.topic, m.payload)


def _beside(settings: Settings, filters: Sequence[str]) -> Settings:
    """The settings of a second connection that leaves nothing behind."""
    return replace(
        settings,
        client_id=f"edge-rnn-rec-{secrets.token_hex(4)}",
        filters=filters,
        session_expiry=0,
        properties=True,
        status=None,
    )
