"""Whatever a broker does to numbered messages: each is stepped once, in order, and gaps show."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn.ordering import Gap, Ordering, Position, Turn
from tests.effort import examples


class Item(msgspec.Struct):
    stream: str
    epoch: int
    sequence: float


def message(number: float, stream: str = "s", epoch: int = 0) -> Item:
    return Item(stream, epoch, number)


def ordering(patience: float = 10.0, room: int = 100, dense: bool = True) -> Ordering[Item]:
    return Ordering(dense, patience, room)


def admitted(o: Ordering[Item], numbers: list[int], now: float = 0.0) -> list[float]:
    turns = [t for n in numbers for t in o.admit(message(n), now) or []]
    assert not any(t.gap for t in turns)
    return [t.message.sequence for t in turns]


@examples(200)
@given(st.data())
def test_duplicates_and_another_order_change_nothing(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    numbers = list(range(1, n + 1))
    again = data.draw(st.lists(st.sampled_from(numbers), max_size=30))
    o = ordering()
    o.positions["s"] = Position(0, 0)
    seen = admitted(o, data.draw(st.permutations(numbers + again)))
    assert seen == numbers
    assert o.waiting == 0 and o.positions["s"] == Position(0, n)


@examples(200)
@given(st.sets(st.integers(1, 40), min_size=1), st.integers(0, 2**32 - 1))
def test_what_never_comes_is_told_as_gaps(there: set[int], seed: int) -> None:
    """Whatever is stepped and whatever the gaps say is missing make up all numbers, in order."""
    o = ordering(patience=5)
    o.positions["s"] = Position(0, 0)
    order = np.random.default_rng(seed).permutation(sorted(there)).tolist()
    turns = [t for n in order for t in o.admit(message(n), 0.0) or []]
    while o.waiting:
        assert o.due() == 5.0
        turns += o.expire(5.0)
    told = [n for t in turns for n in (*_numbers(t.gap), t.message.sequence)]
    assert told == list(range(1, max(there) + 1))
    assert [t.message.sequence for t in turns] == sorted(there)


def _numbers(gap: Gap | None) -> range:
    return range(0) if gap is None else range(gap.first, gap.last + 1)


ITEMS = st.builds(Item, st.sampled_from("ab"), st.integers(0, 1), st.integers(1, 6))


@examples(300)
@given(st.lists(ITEMS, max_size=30), st.booleans())
def test_what_passes_is_what_would_be_admitted_alone(items: list[Item], dense: bool) -> None:
    plain, quick = (ordering(room=5, dense=dense) for _ in range(2))
    for item in items:
        expected = plain.admit(item, 0.0)
        assert ([Turn(item)] if quick.passes(item) else quick.admit(item, 0.0)) == expected
        assert quick.positions == plain.positions
        assert (quick.moved, quick.held, quick.gaps) == (plain.moved, plain.held, plain.gaps)


def test_a_stream_never_heard_of_begins_where_it_is() -> None:
    assert admitted(ordering(), [7, 8, 9]) == [7, 8, 9]


def test_patience_is_not_lost_before_its_time() -> None:
    o = ordering(patience=5)
    assert admitted(o, [1, 3], now=2.0) == [1]
    assert o.expire(6.9) == []
    (turn,) = o.expire(7.0)
    assert turn == Turn(message(3), Gap("s", 0, 2, 2))
    assert o.due() == math.inf
    assert o.admit(message(2), 8.0) is None


def test_a_full_hold_gives_up_the_stream_that_waits_longest() -> None:
    o = ordering(room=2)
    for stream in "ab":
        assert o.admit(message(1, stream), 0.0)
    assert o.admit(message(3, "a"), 0.0) == []
    assert o.admit(message(3, "b"), 0.0) == []
    turns = o.admit(message(5, "b"), 0.0)
    assert turns == [Turn(message(3, "a"), Gap("a", 0, 2, 2))]
    assert o.waiting == 2


def test_a_publisher_that_lives_again_counts_anew() -> None:
    o = ordering(patience=5)
    assert admitted(o, [1, 2, 4]) == [1, 2]
    assert o.admit(message(2, epoch=1), 0.0) == []
    turns = o.admit(message(1, epoch=1), 0.0)
    assert turns is not None
    keys = [(t.message.epoch, t.message.sequence, t.gap) for t in turns]
    assert keys == [(0, 4, Gap("s", 0, 3, 3)), (1, 1, None), (1, 2, None)]
    assert o.admit(message(3, epoch=0), 0.0) is None


def test_times_only_go_up() -> None:
    o = ordering(dense=False)
    assert admitted(o, [10, 30, 30, 20, 31]) == [10, 30, 31]  # type: ignore[list-item]
    assert o.admit(message(31.5), 0.0) == [Turn(message(31.5))]


@pytest.mark.parametrize("number", [3, 4])
def test_what_was_held_goes_on_being_held_after_a_restart(number: int) -> None:
    before, after = ordering(), ordering()
    admitted(before, [1, number])
    (held,) = before.held.values()
    after.positions.update(before.positions)
    after.hold(held, 0.0)
    assert admitted(after, list(range(2, number))) == list(range(2, number + 1))
