"""What an operator asks about the states of a pipeline's streams, and what is answered.

`docs/cli.md` describes the commands. The same structs are asked of a file and of a running daemon.
"""

from __future__ import annotations

import msgspec

from edge_rnn.journal import Mark


class Query(msgspec.Struct, frozen=True, tag="list"):
    """Streams in the order of their ids, from the first one after `after`: those that `match` a
    pattern of * and ?, that stopped, hold messages, have gaps, or were saved `idle` seconds ago."""

    match: str = "*"
    stopped: bool = False
    held: bool = False
    gaps: bool = False
    idle: float = 0.0
    after: str | None = None
    limit: int = 100


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """The states and marks of these streams, of all if None, from the first one after `after`."""

    streams: list[str] | None = None
    after: str | None = None
    limit: int = 1000


class Kept(msgspec.Struct, frozen=True):
    """A stream: its mark, and its state if it has one."""

    mark: Mark
    steps: int = 0
    state: bytes | None = None


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Take over these streams of a model; `replace`: also those that are there already."""

    model: str
    lineage: str
    streams: list[Kept]
    replace: bool = False


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """Have these streams, all if None, begin anew; `position`: at whatever number comes next."""

    streams: list[str] | None
    position: bool = False


Request = Query | Fetch | Put | Reset


class Row(msgspec.Struct, frozen=True):
    """A stream of a list: its mark; steps of this run, None where it has no state; how many
    messages it holds; its gaps and the messages missing in them; when it was saved last, in seconds
    since 1970, 0 where that is not known."""

    mark: Mark
    steps: int | None
    held: int
    gaps: int
    missing: int
    saved: float


class Rows(msgspec.Struct, frozen=True, tag="rows"):
    """The streams asked for, and how many there are in all."""

    rows: list[Row]
    total: int


class Streams(msgspec.Struct, frozen=True, tag="streams"):
    """The streams asked for, of a model."""

    model: str
    lineage: str
    pipeline: str
    streams: list[Kept]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is durable, for so many streams."""

    streams: int


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """Why nothing was done."""

    problem: str


Answer = Rows | Streams | Done | Fault
