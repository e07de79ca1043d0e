"""The recurrent cells that a graph has written out in operators, in any of the ways to do so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, islice, product

import numpy as np

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.recurrence.step import WAY_OUT
from edge_rnn_converters.recurrence.unrolled import rolled
from edge_rnn_converters.recurrence.written import Pair, inside, with_cells
from edge_rnn_converters.source import refuse
from edge_rnn_converters.tensors.graph import (
    CELLS,
    STATES,
    Op,
    Sizes,
    TensorGraph,
    TensorInput,
    carried,
    flat,
    handed_in,
    reaching,
)

_ATTEMPTS = 64


def recognised(graph: TensorGraph, taken: set[str]) -> tuple[TensorGraph, UnsupportedError | None]:
    """The graph with cells in place of their equations: of loops over the steps, held as a graph or
    written out, and of a single step whose states are inputs and outputs.

    `taken` are inputs that are known not to be states of such equations. Of a graph without cells,
    what is in the way of a single step's is returned too, for it may be none. Raises
    UnsupportedError for the other ones.
    """
    graph = rolled(_looped(graph))
    found, failure = _single(graph, taken)
    return found, None if any(op.kind in CELLS for op in flat(graph)) else failure


def _looped(graph: TensorGraph) -> TensorGraph:
    """With cells in the bodies of `Scan` and `Loop`; a body without equations stays as it is."""
    operators = tuple(_body(graph, op) for op in graph.operators)
    return replace(graph, operators=operators)


def _body(graph: TensorGraph, op: Op) -> Op:
    if op.kind not in ("Scan", "Loop"):
        return op
    body = inside(_looped(inside(op.attributes["body"], graph)), graph)
    body = replace(body, shapes=body.shapes | dict(_handed(graph, op, body)))
    pairs = _equations(op, body)
    return (
        replace(op, attributes=op.attributes | {"body": with_cells(body, pairs)}) if pairs else op
    )


def _handed(graph: TensorGraph, op: Op, body: TensorGraph) -> Iterator[tuple[str, Sizes]]:
    """The shapes of what is handed on: the same before, inside and after."""
    given = dict(handed_in(op))
    for i, after in carried(op, body):
        shapes = [s for s in (body.shapes.get(i.name), graph.shapes.get(given[i.name]),
                              body.shapes.get(after)) if s is not None]  # fmt: skip
        if shapes:
            best = min(shapes, key=lambda shape: sum(n is None for n in shape))
            yield i.name, best
            yield after, best


def _equations(op: Op, body: TensorGraph) -> list[Pair]:
    """The states of a loop that are not those of a cell that is known, nor only handed on."""
    known = reaching(body, STATES)
    return [
        Pair(i.name, after)
        for i, after in carried(op, body)
        if i.dtype.kind == "f" and i.name not in known and not body.same(after, i.name)
    ]


def _single(graph: TensorGraph, taken: set[str]) -> tuple[TensorGraph, UnsupportedError | None]:
    """Which inputs are states, and which outputs their next values, is what is recognised: as many
    as are, in one way only."""
    nexts = {i.name: _nexts(graph, i) for i in graph.inputs if i.name not in taken}
    nexts = {name: outputs for name, outputs in nexts.items() if outputs}
    floats = [i for i in graph.inputs if i.dtype.kind == "f"]
    failure: UnsupportedError | None = None
    for size in range(min(len(nexts), len(floats) - 1), 0, -1):
        found: dict[tuple[str, ...], TensorGraph] = {}
        for states in combinations(reversed(nexts), size):
            try:
                found[states] = _first(graph, nexts, states)
            except UnsupportedError as e:
                failure = failure or e
        if len(found) == 1:
            return next(iter(found.values())), None
        if found:
            shown = " or ".join(", ".join(map(repr, reversed(states))) for states in found)
            why = f"is {shown}: each may be the one that is kept"
            return graph, refuse("model", "state", why, "return each state as an output of its own")
    return graph, failure


def _nexts(graph: TensorGraph, i: TensorInput) -> list[str]:
    """The outputs that may be the input's next value."""
    if i.dtype != np.float32 or not i.shape:
        return []
    return [o for o in graph.outputs if _both(i.shape, graph.shapes.get(o, ())) is not None]


def _both(a: Sizes, b: Sizes) -> Sizes | None:
    """What the dimensions are of what is a and b, the batch alone open; None if it can't be."""
    pairs = list(zip(a, b, strict=False))
    if len(a) != len(b) or not all(m == n or None in (m, n) for m, n in pairs):
        return None
    sizes = tuple(n if m is None else m for m, n in pairs)
    return sizes if sum(n is None for n in sizes) < 2 else None


def _paired(graph: TensorGraph, pairs: Sequence[Pair]) -> TensorGraph:
    """The graph with what is known of the shapes of these states, the same before and after."""
    before = {i.name: i.shape for i in graph.inputs}
    both = {p: _both(before[p.before], graph.shapes[p.after]) for p in pairs}
    shapes = {name: sizes for p, sizes in both.items() if sizes for name in (p.before, p.after)}
    inputs = tuple(replace(i, shape=shapes.get(i.name, i.shape)) for i in graph.inputs)
    return replace(graph, inputs=inputs, shapes=graph.shapes | shapes)


def _first(
    graph: TensorGraph, nexts: Mapping[str, list[str]], states: Sequence[str]
) -> TensorGraph:
    """With the cells of these states, by the first way to pair them that is one."""
    ordered = [name for name in nexts if name in states]
    ways = (way for way in product(*(nexts[n] for n in ordered)) if len(set(way)) == len(way))
    failure: UnsupportedError | None = None
    for way in islice(ways, _ATTEMPTS):
        pairs = [Pair(*pair) for pair in zip(ordered, way, strict=True)]
        try:
            return with_cells(_paired(graph, pairs), pairs)
        except UnsupportedError as e:
            failure = failure or e
    raise failure or refuse("model", "state", "has no next value", WAY_OUT)
