"""Answers an operator's requests from a journal; what changes is one transaction of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_rnn.errors import StateError
from edge_rnn.journal import Commit, Journal, Mark
from edge_rnn.keeper.requests import (
    Done,
    Fetch,
    Kept,
    Put,
    Query,
    Request,
    Reset,
    Row,
    Rows,
    Streams,
)
from edge_rnn.session import MAX_STEPS
from edge_rnn.state import StreamState

_NAMED = 5

_ALL = """
FROM (SELECT id AS stream FROM streams UNION SELECT stream FROM marks) AS i
LEFT JOIN streams AS s ON s.id = i.stream
LEFT JOIN marks AS m ON m.stream = i.stream
"""
_COUNTED = """
LEFT JOIN (SELECT stream, COUNT(*) AS n FROM held GROUP BY stream) AS h ON h.stream = i.stream
LEFT JOIN (SELECT stream, COUNT(*) AS n, SUM(last - first + 1) AS missing FROM gaps GROUP BY stream)
    AS g ON g.stream = i.stream
WHERE i.stream GLOB :match
  AND (NOT :stopped OR m.stopped) AND (NOT :held OR h.n) AND (NOT :gaps OR g.n)
  AND (:before IS NULL OR s.saved <= :before)
"""
_MARK = "i.stream, COALESCE(m.run, 0), COALESCE(m.epoch, 0), m.sequence, COALESCE(m.stopped, 0)"
_COLUMNS = "s.steps, COALESCE(h.n, 0), COALESCE(g.n, 0), COALESCE(g.missing, 0), s.saved"
_PAGE = "AND (:after IS NULL OR i.stream > :after) ORDER BY i.stream LIMIT :limit"

_COUNT = f"SELECT COUNT(*) {_ALL} {_COUNTED}"
_LIST = f"SELECT {_MARK}, {_COLUMNS} {_ALL} {_COUNTED} {_PAGE}"
_FETCH = f"SELECT {_MARK}, s.steps, s.state {_ALL} WHERE TRUE {_PAGE}"
_ONE = f"SELECT {_MARK}, s.steps, s.state {_ALL} WHERE i.stream = :stream"


@dataclass(frozen=True, slots=True)
class Keeper:
    """Answers requests from a journal whose streams have states of `state_bytes`.

    `changed` is told what was made durable, so that whoever has it in memory follows.
    """

    journal: Journal
    state_bytes: int
    changed: Callable[[Commit], None] = lambda commit: None

    def answer(self, request: Request) -> Rows | Streams | Done:
        """Do what is asked. Raises StateError, JournalError or OSError: nothing was done."""
        match request:
            case Query():
                return self._list(request)
            case Fetch():
                return self._fetch(request)
            case Put():
                return self._put(request)
            case Reset():
                return self._reset(request)

    def _list(self, q: Query) -> Rows:
        values = {
            "match": q.match, "stopped": q.stopped, "held": q.held, "gaps": q.gaps,
            "before": time.time() - q.idle if q.idle else None, "after": q.after, "limit": q.limit,
        }  # fmt: skip
        rows = [
            Row(_mark(row), steps, held, gaps, missing, saved or 0.0)
            for *row, steps, held, gaps, missing, saved in self.journal.query(_LIST, values)
        ]
        return Rows(rows, int(self.journal.query(_COUNT, values)[0][0]))

    def _fetch(self, f: Fetch) -> Streams:
        if f.streams is None:
            found = self.journal.query(_FETCH, {"after": f.after, "limit": f.limit})
            kept = [_kept(row) for row in found]
        else:
            kept = self._known(f.streams)
        recall = self.journal.recall
        model, lineage, pipeline = (recall(k) or "" for k in ("model", "lineage", "pipeline"))
        return Streams(model, lineage, pipeline, kept)

    def _put(self, p: Put) -> Done:
        self._check(p)
        there = {k.mark.stream: k for k in self._found(k.mark.stream for k in p.streams)}
        taken = [s for s, k in there.items() if k.state is not None]
        if taken and not p.replace:
            raise StateError(f"{_some(taken)} there already: --replace puts these in their place")
        marks = [_after(k.mark, there.get(k.mark.stream)) for k in p.streams]
        states = [
            StreamState(k.mark.stream, k.steps, k.state) for k in p.streams if k.state is not None
        ]
        given = {s.stream for s in states}
        return self._commit(
            Commit(states=states, forgotten=[s for s in taken if s not in given], marks=marks)
        )

    def _check(self, p: Put) -> None:
        """Are these states that our streams could have?"""
        ours = self.journal.recall("model"), self.journal.recall("lineage")
        if p.model != ours[0] and not (p.lineage and p.lineage == ours[1]):
            raise StateError(
                f"the states are of model {p.model[:12]}, this pipeline runs {(ours[0] or '')[:12]}"
            )
        for k in p.streams:
            size = self.state_bytes if k.state is None else len(k.state)
            if size != self.state_bytes or not 0 <= k.steps < MAX_STEPS:
                raise StateError(
                    f"stream {k.mark.stream!r}: {size} bytes of state at step {k.steps}, this "
                    f"model's streams have {self.state_bytes}"
                )
        if len({k.mark.stream for k in p.streams}) != len(p.streams):
            raise StateError("a stream stands twice")

    def _reset(self, r: Reset) -> Done:
        kept = self._all() if r.streams is None else self._known(dict.fromkeys(r.streams))
        forgotten = [k.mark.stream for k in kept if k.state is not None]
        if not r.position:
            marks = [_anew(k.mark) for k in kept]
            return self._commit(Commit(forgotten=forgotten, marks=marks))
        names = {k.mark.stream for k in kept}
        held = self.journal.query("SELECT stream, epoch, sequence FROM held", {})
        released = [(s, epoch, sequence) for s, epoch, sequence in held if s in names]
        marks = [Mark(k.mark.stream, k.mark.run + 1) for k in kept]
        return self._commit(Commit(forgotten=forgotten, marks=marks, released=released))

    def _commit(self, commit: Commit) -> Done:
        self.journal.commit(commit)
        self.changed(commit)
        return Done(len(commit.marks))

    def _all(self) -> list[Kept]:
        rows = self.journal.query(_FETCH, {"after": None, "limit": -1})
        return [_kept(row) for row in rows]

    def _found(self, streams: Iterable[str]) -> list[Kept]:
        rows = (row for s in streams for row in self.journal.query(_ONE, {"stream": s}))
        return [_kept(row) for row in rows]

    def _known(self, streams: Iterable[str]) -> list[Kept]:
        names = list(streams)
        kept = self._found(names)
        missing = sorted(set(names).difference(k.mark.stream for k in kept))
        if missing:
            raise StateError(f"no stream {_some(missing)}")
        return kept


def _mark(row: Sequence[Any]) -> Mark:
    stream, run, epoch, sequence, stopped = row
    return Mark(stream, run, epoch, sequence, bool(stopped))


def _kept(row: Sequence[Any]) -> Kept:
    *mark, steps, state = row
    return Kept(_mark(mark), steps or 0, state)


def _anew(mark: Mark) -> Mark:
    return Mark(mark.stream, mark.run + 1, mark.epoch, mark.sequence)


def _after(mark: Mark, there: Kept | None) -> Mark:
    """The mark of a stream that takes the place of another: (stream, run, n) never comes twice."""
    if there is None:
        return mark
    run = max(mark.run, there.mark.run) + 1
    return Mark(mark.stream, run, mark.epoch, mark.sequence, mark.stopped)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
