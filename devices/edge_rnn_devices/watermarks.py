"""What may leave the spool: up to where the daemon has each stream on disk (`output.watermark`)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

import msgspec

from edge_rnn.messages import Message
from edge_rnn_devices.spool import Spooled

log = logging.getLogger(__name__)


class _Mark(msgspec.Struct):
    stream: str
    epoch: int
    sequence: int


class Watermarks:
    """Follows the watermarks of the streams of an epoch.

    template: their topic, with `{stream}`. A daemon that begins, or that finds its session gone,
    tells them anew: what was sent before may have reached nobody, so it is to be sent again.
    """

    def __init__(self, template: str, epoch: int) -> None:
        before, _, after = template.partition("{stream}")
        self.filter = f"{before}+{after}" if after else f"{before}#"
        self._epoch = epoch
        self._above: dict[str, deque[tuple[int, int]]] = {}  # (seq, id)
        self._known: dict[str, int] = {}
        self._told: set[str] = set()  # streams, on this connection

    def keep(self, messages: Iterable[Spooled]) -> None:
        """These are in the spool, each stream's in order."""
        for m in messages:
            self._above.setdefault(m.stream, deque()).append((m.seq, m.id))

    def disconnected(self) -> None:
        """What is told next need not be news, for us it is."""
        self._told.clear()

    def take(self, messages: Iterable[Message]) -> tuple[list[int], list[int]]:
        """Watermarks as they came -> ids of what may go, and of what to send again."""
        gone: list[int] = []
        again: list[int] = []
        for m in messages:
            mark = _read(m)
            above = self._above.get(mark.stream) if mark else None
            if mark is None or above is None:
                continue
            reached = mark.sequence if mark.epoch == self._epoch else 0
            while above and above[0][0] <= reached:
                gone.append(above.popleft()[1])
            if not m.retain and not self._is_news(mark.stream, reached):
                again += [id_ for _, id_ in above]
            self._known[mark.stream] = max(reached, self._known.get(mark.stream, 0))
        return gone, again

    def _is_news(self, stream: str, reached: int) -> bool:
        first = stream not in self._told
        self._told.add(stream)
        return not first and reached > self._known.get(stream, 0)


def _read(m: Message) -> _Mark | None:
    try:
        return msgspec.json.decode(m.payload, type=_Mark)
    except msgspec.MsgspecError as e:
        log.warning("%s: expected a watermark: %s", m.topic, e)
        return None
