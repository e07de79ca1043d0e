"""Other runtimes to measure beside ours, found through the entry point group `edge_rnn.peers`.

An entry is a function (model, batch) -> list of `measure.Variant`, each with streams of its own
in their initial state. It raises MissingExtraError when the peer isn't installed and
UnsupportedError, naming the node, when it can't express the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TypeAlias

from edge_rnn.cli.measure import Compared, Timing, Variant, compare
from edge_rnn.errors import ConfigError, MissingExtraError, UnsupportedError
from edge_rnn.graph import Model

Peer: TypeAlias = Callable[[Model, int], list[Variant]]


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer that can't be measured, and why."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured: our timing of each batch size, the peers beside it, those left out."""

    timings: tuple[Timing, ...]
    compared: tuple[Compared, ...]
    absent: tuple[Absent, ...]


def names() -> list[str]:
    """The peers that this installation knows, installed or not."""
    return sorted(e.name for e in entry_points(group="edge_rnn.peers"))


def load(wanted: Sequence[str]) -> dict[str, Peer]:
    """The peers' functions by name. Raises ConfigError for a name that no package has."""
    found = {e.name: e for e in entry_points(group="edge_rnn.peers")}
    for name in wanted:
        if name not in found:
            raise ConfigError(f"unknown peer {name!r}, expected some of {', '.join(names())}")
    return {name: found[name].load() for name in wanted}


def run(model: Model, batches: Sequence[int], peers: dict[str, Peer], seconds: float) -> Bench:
    """Measure each batch size, ours and the peers' variants in turn, `seconds` for each."""
    timings, compared, absent = [], [], {}
    for batch in batches:
        found, missing = variants(model, batch, peers)
        own, others = compare(model, batch, found, seconds)
        timings.append(own)
        compared += others
        absent.update({a.peer: a for a in missing})
    return Bench(tuple(timings), tuple(compared), tuple(absent.values()))


def variants(
    model: Model, batch: int, peers: dict[str, Peer]
) -> tuple[list[Variant], list[Absent]]:
    """All ways in which the peers run the model, and the peers that don't."""
    found: list[Variant] = []
    absent = []
    for name, peer in peers.items():
        try:
            found += peer(model, batch)
        except (MissingExtraError, UnsupportedError) as e:
            absent.append(Absent(name, str(e)))
    return found, absent
