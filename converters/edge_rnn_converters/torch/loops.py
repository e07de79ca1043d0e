"""A Python loop over the steps, which a recording shows unrolled, read as one step with a state.

A recording of one step and one of three have the same operators before and after the loop, and in
it one and three times the same. What the second time reads of the first is the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edge_rnn_converters.torch.record import BLANK, Call, Round, Value, values

_COUNTED = ("aten.select.int", "aten.slice.Tensor", "aten.narrow.default")
_CUT = (
    "aten.unbind.int",
    "aten.split.Tensor",
    "aten.chunk.default",
    "aten.split_with_sizes.default",
)


class NoLoopError(Exception):
    """The recordings are not of a loop with one state; the text says where they differ."""


def rolled(one: Round, three: Round) -> tuple[Round, dict[Any, Any]]:
    """The round of one step, in which the loop's first values are those of the call before, and by
    their keys what they are before the first step.

    Raises NoLoopError where these are not rounds of a loop over one and three steps.
    """
    length, rest = divmod(len(three.calls) - len(one.calls), 2)
    first = _alike(one.calls, three.calls) - length
    if rest or length < 1 or first < 0:
        raise NoLoopError("the operators of one step and of three are not those of a loop")
    loop = _Loop(one, three, first, length)
    inside = [loop.body(i) for i in range(first, first + length)]
    for i in range(first + length, len(one.calls)):
        loop.check_after(one.calls[i].arguments, three.calls[i + 2 * length].arguments)
    for a, b in zip(one.outputs, three.outputs, strict=True):
        loop.check_after(a, b)
    calls = (*one.calls[:first], *inside, *one.calls[first + length :])
    return _settled(replace(one, calls=calls)), loop.starts


def _settled(round: Round) -> Round:
    """What follows from neither the input nor a state is constant, and computed."""
    made, calls = {v.key for v in round.inputs}, []
    for call in round.calls:
        arguments = _told(call.arguments, made, round.number)
        if any(v.varies for v in values(arguments)):
            made.update(v.key for v in call.outputs)
            outputs = tuple(replace(v, varies=True) for v in call.outputs)
            calls.append(replace(call, arguments=arguments, outputs=outputs))
    ends = tuple(_told(list(round.outputs), made, round.number))
    return replace(round, calls=tuple(calls), outputs=ends)


def _told(arguments: Any, made: set[Any], number: int) -> Any:
    """The arguments, of which those vary that are made, or that the call before left."""
    if isinstance(arguments, Value):
        if arguments.round < number or arguments.key in made:
            return replace(arguments, varies=True)
        return Value(arguments.tensor, None, False, number)
    if isinstance(arguments, dict):
        return {name: _told(a, made, number) for name, a in arguments.items()}
    if isinstance(arguments, list):
        return [_told(a, made, number) for a in arguments]
    return arguments


def _alike(one: Sequence[Call], three: Sequence[Call]) -> int:
    """How many operators both begin with."""
    pairs = zip(one, three, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a.target != b.target), len(one))


@dataclass(frozen=True, slots=True, eq=False)
class _Loop:
    """The loop's body is `length` calls from `first` on."""

    one: Round
    three: Round
    first: int
    length: int
    starts: dict[Any, Any] = field(default_factory=dict)
    """What each state is before the first step, by its key."""

    def body(self, i: int) -> Call:
        """The call i of the body, its state read from the call before."""
        call, second = self.one.calls[i], self.three.calls[i + self.length]
        if call.target != second.target:
            raise NoLoopError(f"operator {call.target}")
        counted = call.target in _COUNTED
        arguments = {
            name: self._argument(a, second.arguments[name], counted)
            for name, a in call.arguments.items()
        }
        return replace(call, arguments=arguments)

    def _argument(self, a: Any, b: Any, counted: bool) -> Any:
        if isinstance(a, Value) and isinstance(b, Value):
            return self._value(a, b)
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            return [self._argument(i, j, counted) for i, j in zip(a, b, strict=True)]
        if a == b or (counted and isinstance(a, int) and isinstance(b, int) and b - a == 1):
            return a
        raise NoLoopError(f"a number that is {a} in the first step and {b} in the second")

    def _value(self, a: Value, b: Value) -> Value:
        """What the first step reads, if the second reads the same a step later."""
        place = self._place(b)
        if place is None or place < self.first:
            same = a.key == b.key and (_is_made(b) or _equal(a.tensor, b.tensor))
            if same or self._next_part(a, b):
                return a
        elif place >= self.first + self.length:
            if a.key == (place - self.length, *(b.key or ())[1:]):
                return a
        elif a.key is None or not self._is_inside(a):
            if _is_made(a):
                raise NoLoopError("the state before the first step depends on the input")
            start = self.starts.setdefault(b.key, _spread(a.tensor, b.tensor))
            if not _equal(start, _spread(a.tensor, b.tensor)):
                raise NoLoopError("a state that is of two values before the first step")
            return Value(start, b.key, True, self.one.number - 1)
        raise NoLoopError("where an operator in the loop takes its input from")

    def _next_part(self, a: Value, b: Value) -> bool:
        """Is it the next one of the parts into which the steps were cut before the loop?"""
        if a.key is None or b.key is None or len(a.key) != 2 or a.key[0] != b.key[0]:
            return False
        maker = self.one.calls[a.key[0]].target if isinstance(a.key[0], int) else ""
        return maker in _CUT and b.key[1] == a.key[1] + 1

    def check_after(self, a: Any, b: Any) -> None:
        """After the loop, a value of it is the last step's, and a list has those of all steps."""
        if isinstance(a, dict):
            for name in a:
                self.check_after(a[name], b[name])
        elif isinstance(a, Value) and isinstance(b, Value):
            if self._later(a, 2) != b.key or (not _is_made(b) and not _equal(a.tensor, b.tensor)):
                raise NoLoopError("what follows the loop does not read its last step")
        elif isinstance(a, list) and len(a) == 1 and len(b) == 3:
            if [self._later(a[0], k) for k in range(3)] != [v.key for v in b]:
                raise NoLoopError("what follows the loop does not read each of its steps")
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for i, j in zip(a, b, strict=True):
                self.check_after(i, j)
        elif a != b and not (type(a) is int and type(b) is int):
            raise NoLoopError(f"a number after the loop that is {a} or {b}")

    def _later(self, v: Value, steps: int) -> tuple[Any, ...] | None:
        """Where the value is that many steps later, in the recording of three."""
        place = self._place(v)
        if v.key is None or place is None or place < self.first:
            return v.key
        return (place + steps * self.length, *v.key[1:])

    def _place(self, v: Value) -> int | None:
        return v.key[0] if v.key is not None and isinstance(v.key[0], int) else None

    def _is_inside(self, v: Value) -> bool:
        place = self._place(v)
        return place is not None and place >= self.first


def _is_made(v: Value) -> bool:
    """Is it the input's, or an operator's?"""
    return v.varies and v.key != BLANK


def _spread(start: Any, state: Any) -> Any:
    """The state before the first step in the shape that it has after it."""
    try:
        return start.broadcast_to(state.shape)
    except RuntimeError as e:
        shapes = f"{list(start.shape)}, and {list(state.shape)} after it"
        raise NoLoopError(f"the state before the first step is of shape {shapes}") from e


def _equal(a: Any, b: Any) -> bool:
    import torch

    return bool(a.shape == b.shape and torch.equal(a, b))
