"""Does a replay give what the daemon published?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from edge_rnn.messages import Outgoing
from edge_rnn.replay.recording import Event

_Key = tuple[str, int, int]


class _Named(msgspec.Struct, frozen=True, gc=False):
    stream: str
    n: int
    run: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """The first prediction that is another: topic and payload as `recorded` and as `replayed`."""

    stream: str
    run: int
    n: int
    recorded: tuple[str, str]
    replayed: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`compared` predictions, of which `different`; `earlier`: of steps before the replay begins;
    `repeated`: recorded again with a number that was compared, as brokers do; `unmade`: recorded,
    not replayed; `unrecorded`: the other way round; `unknown`: on a topic of ours, but no
    prediction."""

    compared: int
    different: int
    earlier: int
    repeated: int
    unmade: int
    unrecorded: int
    unknown: int
    first_difference: Difference | None

    @property
    def identical(self) -> bool:
        """Every recorded prediction was replayed, bit for bit, and there was one."""
        return bool(self.compared) and not self.different and not self.unmade


class Verifier:
    """Compares predictions by (stream, run, n), in whatever order they come from both sides.

    begun: (run, n) of the last step that a stream has taken before. It holds the predictions that
    have come from one side only.
    """

    def __init__(self, begun: Mapping[str, tuple[int, int]] | None = None) -> None:
        self._begun = dict(begun or {})
        self._recorded: dict[_Key, tuple[str, bytes]] = {}
        self._replayed: dict[_Key, tuple[str, bytes]] = {}
        self._last: dict[str, tuple[int, int]] = {}  # (run, n) compared last, of each stream
        self._compared = self._different = self._earlier = self._repeated = self._unknown = 0
        self._first: Difference | None = None

    def recorded(self, event: Event) -> None:
        """The daemon published this."""
        try:
            p = msgspec.json.decode(event.payload, type=_Named)
        except msgspec.MsgspecError:
            self._unknown += 1
            return
        key, mine = (p.stream, p.run, p.n), (event.topic, event.payload)
        if key in self._replayed:
            self._compare(key, mine, self._replayed.pop(key))
        elif (p.run, p.n) <= self._begun.get(p.stream, (-1, 0)):
            self._earlier += 1
        elif key in self._recorded or (p.run, p.n) <= self._last.get(p.stream, (-1, 0)):
            self._repeated += 1
        else:
            self._recorded[key] = mine

    def replayed(self, p: Outgoing) -> None:
        """The replay gave this."""
        key, mine = (p.stream, p.run, p.n), (p.topic, p.payload)
        if key in self._recorded:
            self._compare(key, self._recorded.pop(key), mine)
        else:
            self._replayed[key] = mine

    def verdict(self) -> Verdict:
        """What was found so far."""
        return Verdict(
            self._compared,
            self._different,
            self._earlier,
            self._repeated,
            len(self._recorded),
            len(self._replayed),
            self._unknown,
            self._first,
        )

    def _compare(self, key: _Key, recorded: tuple[str, bytes], replayed: tuple[str, bytes]) -> None:
        stream, run, n = key
        self._compared += 1
        self._last[stream] = max((run, n), self._last.get(stream, (run, n)))
        if recorded != replayed:
            self._different += 1
            self._first = self._first or Difference(
                stream, run, n, _shown(recorded), _shown(replayed)
            )


def _shown(message: tuple[str, bytes]) -> tuple[str, str]:
    return message[0], message[1].decode("utf-8", "replace")
