"""A graph of tensors is executed symbolically: what it does to the stream is the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edge_rnn.errors import EdgeRnnError
from edge_rnn.graph import AHEAD, Input, Model, Node, reads
from edge_rnn_converters.fold import fold
from edge_rnn_converters.recurrence.graphs import recognised
from edge_rnn_converters.source import LAST_ONLY, WINDOW, Options, Regime, Source, refuse
from edge_rnn_converters.tensors import (
    arithmetic,
    cells,
    control,
    convs,
    delays,
    functions,
    joins,
    layers,
    loops,
    moves,
    norms,
    parts,
    pools,
    ready,
)
from edge_rnn_converters.tensors.enter import Entered, enter, readings
from edge_rnn_converters.tensors.graph import LENGTHS, STATES, Op, TensorGraph, reaching
from edge_rnn_converters.tensors.run import Engine, GraphRunner, Layout, Port, StatePair
from edge_rnn_converters.tensors.trace import KnownOp, Trace, as_stream
from edge_rnn_converters.tensors.values import AxisError, Role, State, Stream, Value
from edge_rnn_converters.tensors.vectors import arranged

OPERATORS: dict[str, KnownOp] = {
    kind: known
    for module in (
        *(cells, ready, delays, layers, arithmetic, functions, norms),
        *(convs, pools, parts, joins, moves, control, loops),
    )
    for kind, known in module.operator.known.items()
}
"""Every operator that converts."""


def as_source(
    graph: TensorGraph, engine: Callable[[], Engine], options: Options | None = None
) -> Source:
    """The model that the graph computes; `engine` loads the graph in its own framework.

    A graph that takes its recurrent state as inputs and returns it as outputs becomes a model
    that keeps that state itself. A graph that answers for the last step only becomes a stream that
    answers at every step, with what the source would say if the sequence ended there.

    Which axes are steps and which lie inside one message is what the operators read them as; where
    that leads nowhere, other readings are tried.

    Raises UnsupportedError naming the operator and attribute that can't be run faithfully,
    ModelError for operands that do not fit together.
    """
    graph, hidden = recognised(graph, reaching(graph, (*STATES, *LENGTHS)))
    failures: list[tuple[int, EdgeRnnError]] = []
    for reading in readings(graph):
        trace = Trace(OPERATORS, softmax_axis=-1 if graph.opset >= 13 else 1)
        try:
            entered = enter(trace, graph, reading, options or Options())
            trace.run(graph.operators)
            return _leave(trace, graph, entered, engine)
        except EdgeRnnError as e:
            failures.append((trace.done, e))
    raise hidden or max(failures, key=lambda failure: failure[0])[1]


def _leave(
    trace: Trace, graph: TensorGraph, entered: Entered, engine: Callable[[], Engine]
) -> Source:
    outputs = {name: trace.values.get(name) for name in graph.outputs}
    states = _pair(trace, entered, outputs)
    _begin(trace, entered)
    results = _results(trace, graph, outputs, {pair.output for pair in states})
    model = _model(trace, entered, results)
    ports = tuple(
        Port(i, _layout(trace, entered.streams[i.name], f"input {i.name!r}"), n.width)
        for i, n in zip(entered.used(trace), model.inputs, strict=True)
    )
    steps = _steps(trace, ports)
    if Role.TIME not in ports[0].layout:
        _no_hidden_state(trace, ports, results)
    last_only = any(s.last for s in results.values())
    run = GraphRunner(
        engine,
        ports,
        tuple((n, _layout(trace, s, f"output {n!r}")) for n, s in results.items()),
        states,
        fixed=entered.fixed,
        lengths=entered.lengths,
        steps=steps,
        last_only=last_only,
        carries=_carries(trace, model),
        schedule=None if any(isinstance(n, AHEAD) for n in model.nodes) else model.schedule,
    )
    goes_on = bool(states) and run.carries
    window = steps if steps is not None and steps > 1 and not goes_on else None
    left = set(graph.outputs) - set(results) - {pair.output for pair in states}
    notes = (*_notes(trace, results, left, window, ports), *entered.notes, *trace.notes)
    return Source(fold(model), graph.framework, notes, run, Regime(window, last_only))


def _steps(trace: Trace, ports: tuple[Port, ...]) -> int | None:
    """How many steps the graph takes at once: one without an axis of steps, None for any."""
    sizes = [port.input.shape[port.layout.index(Role.TIME)]
             for port in ports if Role.TIME in port.layout]  # fmt: skip
    return next((n for n in sizes if n is not None), None) if sizes else 1


def _no_hidden_state(trace: Trace, ports: tuple[Port, ...], results: dict[str, Stream]) -> None:
    """Refuse a graph of one step that hands a state around which no cell was seen to keep: run
    alone it would forget."""
    for port in ports[1:]:
        for name, stream in results.items():
            sizes = [None if any(a.size is None for a in d) else trace.axes.length(d)
                     for d in stream.dims]  # fmt: skip
            known = [n or m for n, m in zip(port.input.shape, sizes, strict=False)]
            if len(sizes) == len(port.input.shape) and known == [m or n for m, n in zip(
                sizes, port.input.shape, strict=True)]:  # fmt: skip
                why = f"comes back as output {name!r}, as a state does, but no cell keeps it"
                way_out = "export with the framework's own recurrent layers, not their equations"
                raise refuse(f"input {port.input.name!r}", "state", why, way_out)


def _carries(trace: Trace, model: Model) -> bool:
    """Can the graph's state be carried on from run to run?"""
    convolved = [n for n in model.nodes if n.name not in trace.delays
                 and ("ring" in n.STATE or isinstance(n, AHEAD))]  # fmt: skip
    given = [cell for cell in trace.cells if cell.initial is not None]
    if convolved and given:
        why = "takes its state as an input, but sees nothing of the steps before a run"
        raise refuse(f"node {convolved[0].name!r}", "state", why, "export without state inputs")
    return not convolved and len(given) == len(trace.cells)


def _stream(value: Value | None) -> Stream | None:
    if isinstance(value, State):
        return value.stream
    return value if isinstance(value, Stream) else None


def _results(
    trace: Trace, graph: TensorGraph, outputs: dict[str, Value | None], paired: set[str]
) -> dict[str, Stream]:
    """The outputs that are the model's, each with its vector in the order of its dimensions.

    A final state is the result only where there is no other: a model of nothing but a cell.
    """
    streams = {name: stream for name, v in outputs.items() if (stream := _stream(v))}
    plain = [name for name, value in outputs.items() if not isinstance(value, State)]
    found = plain or [name for name in streams if name not in paired] or list(streams)
    bad = [name for name in found if name not in streams]
    mixed = len({streams[name].last for name in found if name in streams}) > 1
    if bad or mixed or not found:
        why = f"expected results that depend on the input, found {bad or found}"
        if mixed:
            why = "some are of every step, some of the last step only"
        raise refuse("model", f"outputs {list(outputs)}", why, "export a model without those")
    maker = {name: op for op in graph.operators for name in op.outputs}
    return {name: _ordered(trace, maker.get(name), name, streams[name]) for name in found}


def _ordered(trace: Trace, op: Op | None, name: str, stream: Stream) -> Stream:
    op = op or Op("Identity", name, (name,), (name,))
    try:
        return arranged(trace, op, as_stream(trace, op, stream, "output"))
    except AxisError as e:
        raise op.refuse("axes", str(e), "export with plain (batch, steps, features) axes") from e


def _pair(
    trace: Trace, entered: Entered, outputs: dict[str, Value | None]
) -> tuple[StatePair, ...]:
    """Which output is the next value of which state input, element for element.

    Raises UnsupportedError for an input whose next value is not an output: without it the state
    could not be carried on, as a graph of a single step needs.
    """
    following = _following(trace)
    returned = {n: v.ids for n, v in outputs.items() if isinstance(v, State)}
    pairs = []
    for name, ids in entered.states.items():
        after = [following.get(int(id_), -1) for id_ in ids.flat]
        found = next((n for n, out in returned.items() if out.ravel().tolist() == after), None)
        if found is None:
            why = "no output is its next value, element for element"
            raise refuse(f"input {name!r}", "state", why, "return the final states as outputs")
        pairs.append(StatePair(name, found, ids.shape))
    return tuple(pairs)


def _begin(trace: Trace, entered: Entered) -> None:
    """Have the states begin where their inputs do."""
    first = {
        int(element): number
        for i in entered.inputs
        if i.name in entered.states and i.first is not None
        for element, number in zip(entered.states[i.name].flat, i.first.flat, strict=True)
    }
    for cell in trace.cells:
        if cell.initial is not None:
            own = np.array([first.get(e, 0.0) for e in cell.initial.tolist()], np.float32)
            cells.begin(trace, cell.node, cell.slot, own if own.any() else None)


def _following(trace: Trace) -> dict[int, int]:
    """The state element that follows each initial one. Two cells can't start from the same: each
    would go on from its own."""
    found: dict[int, int] = {}
    for cell in trace.cells:
        if cell.initial is None:
            continue
        elements = cell.initial.tolist()
        if not found.keys().isdisjoint(elements):
            why = "starts from elements that another state starts from too"
            raise cell.op.refuse(f"initial_{cell.slot}", why, "give each state an input of its own")
        found.update(zip(elements, cell.final.ravel().tolist(), strict=True))
    return found


def _model(trace: Trace, entered: Entered, results: dict[str, Stream]) -> Model:
    values = [s.value for s in results.values()]
    if not set(values).isdisjoint(trace.inputs):
        raise refuse("model", "output", "is the input itself", "export the whole model")
    inputs = tuple(
        Input(entered.streams[i.name].value, trace.widths[entered.streams[i.name].value])
        for i in entered.used(trace)
    )
    return Model(inputs, tuple(_live(trace, set(values))), tuple(values))


def _live(trace: Trace, wanted: set[str]) -> Iterator[Node]:
    """The nodes that the outputs need."""
    for node in reversed(trace.nodes.values()):
        if node.name in wanted:
            wanted.update(reads(node))
    return (node for node in trace.nodes.values() if node.name in wanted)


def _layout(trace: Trace, stream: Stream, what: str) -> Layout:
    """What each dimension is; axes that nothing read are the steps and the batch.

    A batch of any size merged with the steps is the steps: streams run one at a time.
    """
    taken = any(trace.axes.has(dim, Role.TIME) for dim in stream.dims)
    roles: list[Role | None] = []
    for dim in stream.dims:
        for atom in dim:
            if trace.axes.role(atom) is None:
                trace.axes.of[atom] = Role.BATCH if taken else Role.TIME
                taken = True
        found = {trace.axes.role(atom) for atom in dim}
        if (Role.FEATURE in found and len(found) > 1) or (
            len(dim) > 1 and Role.FEATURE not in found and any(a.size for a in dim)
        ):
            raise refuse("model", what, f"merges the axes {list(dim)}", "export them apart")
        roles.append(Role.TIME if Role.TIME in found else next(iter(found), None))
    return tuple(roles)


def _notes(
    trace: Trace,
    results: dict[str, Stream],
    left: set[str],
    steps: int | None,
    ports: tuple[Port, ...],
) -> Iterator[str]:
    for name in sorted(left):
        yield f"output {name!r} is a final state, which edge-rnn keeps itself: left out"
    for name, stream in results.items():
        if stream.last:
            yield LAST_ONLY.format(f"output {name!r} is of the last step only")
    if steps is not None and steps > 1:
        yield WINDOW.format(steps, steps)
