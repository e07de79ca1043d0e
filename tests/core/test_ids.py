"""The table of ids beside a dict, whatever the ids; two ids are never one stream."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_rnn.errors import CapacityError, InputError, StreamError
from edge_rnn.kernels import NAME, SLOT, WRONG_TYPE, enter, find, leave, make_ids, zeros
from edge_rnn.kernels.context import ID_ROOM
from edge_rnn.state import Eviction, StateStore
from tests.effort import examples, fewer

HOSTILE = [
    *("", "\0", "a", "a\0", "a\0b", "\0a", "é", "e\u0301", "\ud800", "\udfff", "a\ud800", "😀"),
    *("x" * n for n in (ID_ROOM - 1, ID_ROOM, ID_ROOM + 1, 10_000)),
    *("é" * (ID_ROOM // 2 + n) for n in (-1, 0, 1)),
    *("x" * (ID_ROOM + 1) + last for last in "ab"),
    *("same/prefix/of/many/streams/" + str(n) for n in range(20)),
]
ID = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(), max_size=3),
    st.text("ab", max_size=6),
    st.text(st.characters(categories=["Cs", "Lu"]), min_size=ID_ROOM - 3, max_size=ID_ROOM + 3),
)
STEP = st.tuples(st.sampled_from(["open", "open", "close"]), st.lists(ID, max_size=9))


def store(capacity: int, events: list[Eviction] | None = None) -> StateStore:
    heard = events.append if events is not None else None
    return StateStore(1, np.arange(1), capacity, None, heard)


def anew(stream: str) -> str:
    """An equal str at another place in memory, where there can be one."""
    return (stream + "!")[:-1]


class Beside:
    """A store and the dict that it must be like, least recently used first."""

    def __init__(self, capacity: int) -> None:
        self.events: list[Eviction] = []
        self.store, self.slots = store(capacity, self.events), dict[str, int]()

    def open(self, streams: Sequence[str]) -> None:
        distinct = list(dict.fromkeys(streams))
        if len(distinct) > self.store.capacity:
            with pytest.raises(CapacityError):
                self.store.handles(streams, 0.0)
            return
        handles = self.store.handles([anew(s) for s in streams], 0.0).tolist()
        new = [s for s in distinct if s not in self.slots]
        if new:
            for s in distinct:
                if s in self.slots:
                    self.slots[s] = self.slots.pop(s)
            gone = max(0, len(self.slots) + len(new) - self.store.capacity)
            assert [e.stream for e in self.events] == list(self.slots)[:gone]
            for s in list(self.slots)[:gone]:
                del self.slots[s]
        self.events.clear()
        self.slots |= {s: h for s, h in zip(streams, handles, strict=True) if s not in self.slots}
        assert handles == [self.slots[s] for s in streams]

    def close(self, streams: Sequence[str]) -> None:
        for s in streams:
            if s in self.slots:
                self.store.close(anew(s))
                del self.slots[s]
            else:
                with pytest.raises(StreamError):
                    self.store.close(s)

    def check(self) -> None:
        assert len(self.store) == len(self.slots)
        assert self.store.streams() == list(self.slots)
        assert [self.store.handle(anew(s)) for s in self.slots] == list(self.slots.values())
        assert len({h & 0xFFFFFFFF for h in self.slots.values()}) == len(self.slots)
        for s in HOSTILE:
            if s not in self.slots:
                with pytest.raises(StreamError):
                    self.store.handle(s)


@examples(300)
@given(st.integers(1, 40), st.lists(STEP, max_size=12))
def test_like_a_dict(capacity: int, steps: list[tuple[str, list[str]]]) -> None:
    beside = Beside(capacity)
    for action, streams in steps:
        getattr(beside, action)(streams)
        beside.check()


def test_like_a_dict_among_many() -> None:
    """Long runs of the index, full as it gets, are entered and left in random order."""
    rng, capacity = np.random.default_rng(0), fewer(2048)
    beside = Beside(capacity)
    for _ in range(fewer(60)):
        chosen = [f"sensor-{k}" for k in rng.integers(0, 3 * capacity, capacity // 3)]
        beside.open(chosen)
        beside.close([f"sensor-{k}" for k in rng.integers(0, 3 * capacity, capacity // 5)])
        beside.check()


def of_one_tag() -> list[tuple[str, str]]:
    """Pairs of ids whose hashes agree in the bits that the index holds, so in their places, too."""
    seen: dict[int, str] = {}
    pairs = []
    for k in range(400_000):
        stream = hashlib.md5(str(k).encode()).hexdigest()[:12]
        if (other := seen.setdefault(hash(stream) >> 32, stream)) != stream:
            pairs.append((other, stream))
    return pairs


def test_ids_of_one_hash_are_two_streams() -> None:
    pairs = of_one_tag()
    assert pairs  # 18 are expected, whatever the seed of this process's hashes
    for one, other in pairs:
        s = store(4)
        first = int(s.handles([one], 0.0)[0])
        with pytest.raises(StreamError):
            s.handle(other)
        second = int(s.handles([other], 0.0)[0])
        assert first != second
        assert s.handles([anew(other), anew(one), other], 0.0).tolist() == [second, first, second]
        s.close(one)
        assert s.handle(other) == second
        with pytest.raises(StreamError):
            s.handle(one)


class Name(str):
    """A str that calls itself equal to all others."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 7


def test_a_subclass_of_str_is_the_stream_of_its_letters() -> None:
    s = store(8)
    plain = s.handles(["a", "b"], 0.0).tolist()
    assert s.handles([Name("b"), Name("a"), Name("c")], 0.0).tolist()[:2] == plain[::-1]
    assert s.handles(np.array(["a", "c"]), 0.0).tolist() == [plain[0], s.handle("c")]  # type: ignore[arg-type]
    assert s.handles(("b", "a"), 0.0).tolist() == plain[::-1]
    assert {type(name) for name in s.streams()} == {str}


@pytest.mark.parametrize("bad", [1, None, b"a", ("a",), 1.5])
def test_an_id_that_is_no_str_is_refused(bad: Any) -> None:
    s = store(8)
    with pytest.raises(InputError, match=r"stream id .* is of type .*, expected str"):
        s.handles(["new", bad], 0.0)
    with pytest.raises(InputError, match="expected str"):
        s.alone([bad], 0.0)
    assert len(s) == 0


def test_what_is_looked_up_is_not_kept() -> None:
    """A reference too many would keep each message's id for ever, one too few end in a crash."""
    s, names = store(4), [anew("x" * n) for n in (10, 1000)]
    before = counted(names)
    s.handles(names, 0.0)
    kept = counted(names)
    assert kept == [before[0], before[1] + 1]  # a long one
    for _ in range(100):
        s.handles(names, 0.0)
        s.streams()
    assert counted(names) == kept
    s.close(names[0])
    s.close(names[1])
    assert counted(names) == before


def counted(names: list[str]) -> list[int]:
    return [sys.getrefcount(n) for n in names]


KEPT: list[Any] = []
"""Arrays that only an address is known of."""


def table(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Any]:
    index, names = zeros(size, np.int64), zeros(size // 2, NAME)
    records, states = zeros(size // 2 + 1, SLOT), zeros((size // 2, 1), np.float32)
    KEPT.extend((records, states))
    return make_ids(index, names, records, states), index, names


def test_a_full_index_is_empty_again_when_all_have_left() -> None:
    context, index, kept = table(64)
    names = [f"sensor-{k}" for k in range(32)]
    rng = np.random.default_rng(0)
    for _ in range(fewer(20)):
        for slot, name in enumerate(names):
            enter(context, name, slot)
        assert np.count_nonzero(index) == len(names)
        for slot in rng.permutation(len(names)).tolist():
            leave(context, names[slot], slot)
            handles = np.empty(1, np.int64)
            assert find(context, [names[slot]], handles) == 1
            assert handles[0] == -1
        assert not index.any()
    assert kept["size"][: len(names)].tolist() == [len(n) for n in names]


def test_lists_and_tuples_of_plain_str_only() -> None:
    context, _, _ = table(8)
    for taken in ([], (), ["a"], ("a",), ["a"] * 200):
        assert find(context, taken, np.empty(len(taken), np.int64)) == len(taken)
    for bad in (None, 7, "a", {"a"}, {"a": 1}, [b"a"], [Name("a")], [None], ["a", "b"], []):
        assert find(context, bad, np.empty(1, np.int64)) == WRONG_TYPE
    assert find(context, ["a"], np.empty(1, np.int32)) == WRONG_TYPE
