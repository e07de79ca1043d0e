"""From something that can be called to the program that it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from edge_rnn_converters.source import refuse
from edge_rnn_converters.torch.delays import delays
from edge_rnn_converters.torch.loops import NoLoopError, rolled
from edge_rnn_converters.torch.overlay import DifferentError, lay
from edge_rnn_converters.torch.program import Program
from edge_rnn_converters.torch.record import Round, Value, record, replay, values

ROUNDS = 4

_Axis: TypeAlias = tuple[int, int]
"""Which tensor input, which of its axes."""


@dataclass(frozen=True, slots=True, eq=False)
class Recordable:
    """Something to record: `fresh` makes a callable in its initial state, `example` is what it is
    called with, `names` are of its tensor inputs, `labels` of its parameters (by their ids);
    `guessed`: nobody said how many steps the example should have."""

    fresh: Callable[[], tuple[Callable[..., Any], dict[int, str]]]
    example: tuple[Any, ...]
    names: tuple[str, ...]
    guessed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """The program of a call. Where it is one step of a loop that the source runs over axis `loop`
    of its one input, the source itself must be given whole sequences; `ends`: it answers at their
    end only."""

    program: Program
    loop: int | None = None
    ends: bool = False


def trace(source: Recordable, whole: frozenset[str]) -> Traced:
    """The program that the source computes in a call.

    Raises UnsupportedError for what can't be followed, and for a state that is not zero at first.
    """
    function, labels = source.fresh()
    given = [_random(source.example, seed) for seed in range(ROUNDS)]
    rounds = record(function, given, whole)
    try:
        lay(rounds[-2:], source.names, labels)
    except DifferentError as e:
        why = "two calls on different data do not run the same operators on the same numbers"
        way_out = "leave out randomness, caches and decisions on values"
        raise refuse("model", str(e), why, way_out) from e
    if _is_carried(rounds[-1]):
        _check_initial(rounds)
        return Traced(_with_delays(lay([rounds[-1]], source.names, labels), rounds[-1]))
    return _opened(source, rounds[-1], whole, labels)


def _random(example: Any, seed: int) -> tuple[Any, ...]:
    """The example with other numbers in its tensors; integers keep theirs, in another order."""
    import torch
    from torch.utils import _pytree

    generator = torch.Generator().manual_seed(seed)

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.is_floating_point():
            return torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
        return leaf.flatten().roll(seed).reshape(leaf.shape)

    result: tuple[Any, ...] = _pytree.tree_map(other, example)
    return result


def _opened(
    source: Recordable, base: Round, whole: frozenset[str], labels: dict[int, str]
) -> Traced:
    """The program with each input axis open whose length changes nothing but numbers."""
    rounds, opened = [base], set[_Axis]()
    for axes in _candidates(base):
        if opened.isdisjoint(axes) and not _is_last(base, axes[0], opened):
            found = _resized(source, axes, whole, lambda n: 2 * n + 1)
            try:
                lay([*rounds, *found], source.names, labels)
            except DifferentError:
                if len(base.inputs) == 1 and len(found[0].calls) != len(base.calls):
                    return _unrolled(source, axes[0], whole)
                continue
            if found and _reads_on(source, found[0], base, axes):
                rounds += found
                opened.update(axes)
            elif found and source.guessed:
                why = "reads some of the steps that were tried, as a traced loop does"
                way_out = "give its shape, with the steps that it is for: --input x=1x30x6"
                raise refuse("model", "input", why, way_out)
    return Traced(lay(rounds, source.names, labels))


def _reads_on(source: Recordable, longer: Round, base: Round, axes: Sequence[_Axis]) -> bool:
    """Does what comes after the example's length change an answer? Not that of a traced loop."""
    import torch
    from torch.utils import _pytree

    given = [v.tensor.clone() for v in longer.inputs]
    for at, axis in axes:
        size = base.inputs[at].tensor.shape[axis]
        tail = given[at].narrow(axis, size, given[at].shape[axis] - size)
        if not tail.is_floating_point():
            return True
        tail.normal_(generator=torch.Generator().manual_seed(1))
    rest, (leaves, spec) = iter(given), _pytree.tree_flatten(source.example)
    filled = [next(rest) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    with torch.inference_mode():
        result = source.fresh()[0](*_pytree.tree_unflatten(filled, spec))
    found = [t for t in _pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
    return not all(torch.equal(a, b.tensor) for a, b in zip(found, longer.outputs, strict=True))


def _unrolled(source: Recordable, axis: _Axis, whole: frozenset[str]) -> Traced:
    """One step of a loop over the axis. Raises UnsupportedError if it can't be told."""
    function, labels = source.fresh()
    one = _resized(source, [axis], whole, lambda _: 1, function)
    three = _resized(source, [axis], whole, lambda _: 3, function)
    try:
        if not one or not three:
            raise NoLoopError("it does not take one step and three")
        step, starts = rolled(one[0], three[0])
    except NoLoopError as e:
        why = f"runs other operators for other numbers of steps, in no loop that is known: {e}"
        way_out = "give an example of one step, with the state as input and output"
        raise refuse("model", "loop", why, way_out) from e
    ends = one[0].outputs[0].tensor.shape == three[0].outputs[0].tensor.shape
    program = lay([step], source.names, labels)
    carried = tuple(replace(c, first=starts[c.key].detach().numpy()) for c in program.carried)
    return Traced(replace(program, carried=carried), axis[1], ends)


def _is_last(base: Round, axis: _Axis, opened: set[_Axis]) -> bool:
    """Are all other axes of its input open? Then no weight tells how long this one is, and it is as
    in the example: the features."""
    rest = {(axis[0], a) for a in range(base.inputs[axis[0]].tensor.dim())} - {axis}
    return rest <= opened


def _candidates(base: Round) -> list[list[_Axis]]:
    """Axes that may be open: each by itself, then those of one length in several inputs."""
    sizes = {(i, a): n for i, v in enumerate(base.inputs) for a, n in enumerate(v.tensor.shape)}
    alike = [[axis for axis, n in sizes.items() if n == size] for size in set(sizes.values())]
    return [[axis] for axis in sizes] + [axes for axes in alike if len(axes) > 1]


def _resized(
    source: Recordable,
    axes: Sequence[_Axis],
    whole: frozenset[str],
    size: Callable[[int], int],
    function: Callable[..., Any] | None = None,
) -> list[Round]:
    """A recording with these axes of another size; none where the source does not take that. With
    a `function`, of it and with what it computes of constants."""
    import torch
    from torch.utils import _pytree

    leaves, spec = _pytree.tree_flatten(source.example)
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    for at, axis in axes:
        leaf = leaves[tensors[at]]
        shape = [size(n) if i == axis else n for i, n in enumerate(leaf.shape)]
        leaves[tensors[at]] = torch.zeros(shape, dtype=leaf.dtype)
    other = _random(_pytree.tree_unflatten(leaves, spec), 0)
    try:
        blanks = function is not None
        return record(function or source.fresh()[0], [other], whole, blanks)
    except Exception:
        # A module may raise whatever it likes for a size that it is not made for.
        return []


def _is_carried(round: Round) -> bool:
    return any(v.varies and v.round < round.number for v in _read(round))


def _with_delays(program: Program, round: Round) -> Program:
    """The program with those of its states told apart that are parts of earlier inputs."""
    older = {v.key: v for v in _read(round) if v.varies and v.round < round.number}
    found = delays(round, list(older.values()))
    carried = tuple(replace(c, delay=found.get(c.key)) for c in program.carried)
    return replace(program, carried=carried)


def _read(round: Round) -> list[Value]:
    return [*(v for call in round.calls for v in values(call.arguments)), *round.outputs]


def _check_initial(rounds: Sequence[Round]) -> None:
    """Is the first call what a later one is on zeros? Bit for bit, on the first one's inputs.

    Raises UnsupportedError if it isn't.
    """
    import torch

    first, later = rounds[0], rounds[-1]
    found = {a.key: b.tensor for a, b in zip(later.inputs, first.inputs, strict=True)}

    def read(v: Value) -> Any:
        if v.varies:
            return found[v.key] if v.round == later.number else torch.zeros_like(v.tensor)
        return v.tensor

    with torch.inference_mode():
        for call in later.calls:
            made = replay(call, read, call.arguments)
            found.update({v.key: t for v, t in zip(call.outputs, made, strict=True)})
        same = all(torch.equal(read(b), a.tensor)
                   for a, b in zip(first.outputs, later.outputs, strict=True))  # fmt: skip
    if not same:
        why = "the first call does not compute what the next ones would on zeros"
        raise refuse("model", "initial state", why, "start the state from zeros")
