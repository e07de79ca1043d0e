"""Which tensors of a model are its message, its answer and its states."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from edge_rnn.errors import UnsupportedError
from edge_rnn.graph import Carried
from edge_rnn_converters.source import refuse

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]
Way: TypeAlias = tuple[str, str, dict[str, str]]
"""(message, answer, states before and after)."""

MOST = 6
"""So many states at most are paired by their shapes: all ways are tried."""

_SIDES = {"in", "input", "out", "output", "prev", "previous", "next", "new", "old", "0", "n"}


@dataclass(frozen=True, slots=True)
class Roles:
    """The message's tensor, the answer's, and the states."""

    x: str
    y: str
    states: tuple[Carried, ...]


def roles(inputs: Shapes, outputs: Shapes, told: Mapping[str, str]) -> Roles:
    """Who is what: from what the user told; then from the shapes, if these leave one way; then
    from the names, the message being the first input and its answer the first output.

    Raises UnsupportedError, with the tensors, where that is not one message, one answer and the
    states in pairs, or where it could be in several ways.
    """
    for before, after in told.items():
        if before not in inputs or inputs[before] != outputs.get(after):
            why = "expected an input and an output of the same shape"
            raise refuse(f"state {before}={after}", "tensors", why, _listed(inputs, outputs))
    left, asked = _without(inputs, told), _without(outputs, told.values())
    if len(left) != len(asked) or not left:
        why = f"{len(left)} inputs and {len(asked)} outputs are not known as states, expected one "
        raise _unclear(why + "message, its answer, and states in pairs", inputs, outputs)
    ways = _ways(left, asked) if len(left) <= 1 + MOST else []
    if len(ways) != 1:
        ways = _by_name(left, asked)
    if not ways:
        why = f"which of {', '.join(left)} is the message, and which states become which of "
        raise _unclear(why + f"{', '.join(asked)}, can't be told", inputs, outputs)
    x, y, more = ways[0]
    pairs = {**told, **more}
    return Roles(x, y, tuple(Carried(a, pairs[a], inputs[a]) for a in inputs if a in pairs))


def _without(shapes: Shapes, names: Iterable[str]) -> dict[str, Shape]:
    gone = set(names)
    return {name: shape for name, shape in shapes.items() if name not in gone}


def _by_name(inputs: Shapes, outputs: Shapes) -> list[Way]:
    """h and hn, c0 and cn, state and stateN, h_in and h_out, of equal shapes."""
    (x, *befores), (y, *afters) = inputs, outputs
    pairs = {}
    for before in befores:
        akin = [o for o in afters if _stem(o) == _stem(before) and outputs[o] == inputs[before]]
        if len(akin) != 1 or not _stem(before):
            return []
        pairs[before] = akin[0]
    return [(x, y, pairs)] if len(set(pairs.values())) == len(pairs) else []


def _stem(name: str) -> str:
    """A name without what says on which side it is."""
    words = [w for w in re.split(r"[^a-z0-9]+", name.lower()) if w not in _SIDES]
    stem = "".join(words)
    return stem[:-1] if stem[1:].endswith(("n", "0")) else stem


def _ways(inputs: Shapes, outputs: Shapes) -> list[Way]:
    """Every (message, answer, pairs) in which all pairs have equal shapes; at most two."""
    found = []
    for x, y in itertools.product(inputs, outputs):
        rest = [name for name in inputs if name != x]
        others = [name for name in outputs if name != y]
        for order in itertools.permutations(others):
            pairs = dict(zip(rest, order, strict=True))
            if all(inputs[a] == outputs[b] for a, b in pairs.items()):
                found.append((x, y, pairs))
            if len(found) > 1:
                return found
    return found


def _unclear(why: str, inputs: Shapes, outputs: Shapes) -> UnsupportedError:
    way = "say --state IN=OUT of each state, --input NAME=NUMBER of what is always the same"
    return refuse("the model", "tensors", why, f"{way}; {_listed(inputs, outputs)}")


def _listed(inputs: Shapes, outputs: Shapes) -> str:
    def one(shapes: Shapes) -> str:
        return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())

    return f"inputs: {one(inputs)}; outputs: {one(outputs)}"
