"""A graph of tensors is executed symbolically: what it does to the stream is the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_rnn.graph import Input, Model
from edge_rnn_converters.fold import fold
from edge_rnn_converters.refused import ONNX_REFUSED, UNKNOWN
from edge_rnn_converters.source import LAST_ONLY, WINDOW, Regime, Source, reading, refuse
from edge_rnn_converters.tensors import cells, layers, moves
from edge_rnn_converters.tensors.graph import Op, TensorGraph, TensorInput
from edge_rnn_converters.tensors.run import Engine, GraphRunner, Layout, Port, StatePair
from edge_rnn_converters.tensors.trace import Trace
from edge_rnn_converters.tensors.values import (
    AxisError,
    Known,
    Opaque,
    Role,
    State,
    Stream,
    Value,
    axis,
)

OPERATORS = cells.operator.known | layers.operator.known | moves.operator.known
"""Every operator that converts."""

_FOLLOWED = ("Identity", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Slice", "Gather", "Split",
             "Concat", "Cast", "Expand")  # fmt: skip


def as_source(graph: TensorGraph, engine: Callable[[], Engine]) -> Source:
    """The model that the graph computes; `engine` loads the graph in its own framework.

    A graph that takes its recurrent state as inputs and returns it as outputs becomes a model
    that keeps that state itself. A graph that answers for the last step only becomes a stream that
    answers at every step, with what the source would say if the sequence ended there.

    Raises UnsupportedError naming the operator and attribute that can't be run faithfully,
    ModelError for operands that do not fit together.
    """
    trace = Trace(softmax_axis=-1 if graph.opset >= 13 else 1)
    source = _enter(trace, graph)
    for op in graph.operators:
        _execute(trace, op)
    output, result, states = _leave(trace, graph)
    stream = trace.values[source.name]
    assert isinstance(stream, Stream)  # noqa: S101 - as _enter made it
    model = _model(trace, stream, result)
    layout = _layout(trace, stream, f"input {source.name!r}")
    time = layout.index(Role.TIME) if Role.TIME in layout else None
    run = GraphRunner(
        engine,
        (Port(source, layout, model.input_width),),
        ((output, _layout(trace, result, f"output {output!r}")),),
        states,
        fixed={},
        steps=1 if time is None else source.shape[time],
        last_only=result.last,
        carries=all(cell.initial is not None for cell in trace.cells),
    )
    window = run.steps if run.steps is not None and run.steps > 1 else None
    regime = Regime(window, result.last)
    notes = _notes(graph, output, result, run.steps, states)
    return Source(fold(model), graph.framework, notes, run, regime)


def _enter(trace: Trace, graph: TensorGraph) -> TensorInput:
    """Give constants and inputs their values; returns the input that is the stream."""
    trace.values.update({name: Known(a) for name, a in graph.constants.items()})
    state_names = _state_inputs(graph)
    streams = []
    for i in graph.inputs:
        if i.name in state_names:
            trace.values[i.name] = State(trace.new_ids([n or 1 for n in i.shape]))
            continue
        streams.append(i)
        dims = tuple(axis(f"axis {k} of {i.name!r}", n) for k, n in enumerate(i.shape))
        value = trace.names.unique(i.name)
        trace.values[i.name] = Stream(value, dims)
        trace.inputs.add(value)
        if i.dtype.kind in "iu":
            trace.indices.add(value)
        elif i.dtype != np.float32:
            raise refuse(f"input {i.name!r}", f"{i.dtype}", "expected float32", "export in float32")
    trace.entered = trace.ids
    if len(streams) != 1:
        names = ", ".join(repr(i.name) for i in streams) or "none"
        why = "expected one input besides the recurrent states"
        raise refuse("model", f"inputs {names}", why, "export a model with one input")
    return streams[0]


def _state_inputs(graph: TensorGraph) -> set[str]:
    """The graph inputs that reach a cell's initial state through moves of their elements."""
    maker = {name: op for op in graph.operators for name in op.outputs}
    recurrent = (op for op in graph.operators if op.kind in cells.operator.known)
    todo = [name for op in recurrent for name in op.inputs[5:7]]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        op = maker.get(name)
        if op and op.kind in _FOLLOWED and name not in found:
            todo.extend(op.inputs if op.kind == "Concat" else op.inputs[:1])
        found.add(name)
    return found.intersection(i.name for i in graph.inputs)


def _execute(trace: Trace, op: Op) -> None:
    args = trace.arguments(op)
    try:
        with reading(str(op)):
            results = _results(trace, op, args)
    except AxisError as e:
        way_out = "export with plain (batch, steps, features) axes"
        raise op.refuse("axes", str(e), way_out) from e
    trace.values.update(zip(op.outputs, results, strict=False))


def _results(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if op.kind in OPERATORS:
        return OPERATORS[op.kind].run(trace, op, args)
    if any(isinstance(a, Stream | State) for a in args):
        raise op.refuse("operator", *ONNX_REFUSED.get(op.kind, UNKNOWN))
    return [Opaque(name) for name in op.outputs]


def _stream(value: Value | None) -> Stream | None:
    if isinstance(value, State):
        return value.stream
    return value if isinstance(value, Stream) else None


def _leave(trace: Trace, graph: TensorGraph) -> tuple[str, Stream, tuple[StatePair, ...]]:
    """The output that is the model's result, its value, and the pairs of states.

    A final state is the result only where there is no other: a model of nothing but a cell.
    """
    outputs = {name: trace.values.get(name) for name in graph.outputs}
    states = _pair(trace, graph, outputs)
    paired = {pair.output for pair in states}
    streams = {name: _stream(value) for name, value in outputs.items()}
    plain = [name for name, value in outputs.items() if not isinstance(value, State)]
    final = [name for name, stream in streams.items() if stream]
    found = plain or [name for name in final if name not in paired] or final
    result = streams[found[0]] if len(found) == 1 else None
    if result is None:
        why = f"expected one result besides the recurrent states, found {found}"
        way_out = "export a model with one output that depends on its input"
        raise refuse("model", f"outputs {list(outputs)}", why, way_out)
    return found[0], result, states


def _pair(
    trace: Trace, graph: TensorGraph, outputs: dict[str, Value | None]
) -> tuple[StatePair, ...]:
    """Which output is the next value of which state input, element for element.

    Raises UnsupportedError for an input whose next value is not an output: without it the state
    could not be carried on, as a graph of a single step needs.
    """
    following = _following(trace)
    returned = {n: v.ids for n, v in outputs.items() if isinstance(v, State)}
    pairs = []
    for i in graph.inputs:
        value = trace.values[i.name]
        if not isinstance(value, State):
            continue
        after = [following.get(int(id_), -1) for id_ in value.ids.flat]
        name = next((n for n, ids in returned.items() if ids.ravel().tolist() == after), None)
        if name is None:
            why = "no output is its next value, element for element"
            raise refuse(f"input {i.name!r}", "state", why, "return the final states as outputs")
        pairs.append(StatePair(i.name, name, value.ids.shape))
    return tuple(pairs)


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


def _model(trace: Trace, source: Stream, result: Stream) -> Model:
    if result.value == source.value:
        raise refuse("model", "output", "is the input itself", "export the whole model")
    inputs = (Input(source.value, trace.widths[source.value]),)
    return Model(inputs, tuple(trace.nodes), (result.value,))


def _layout(trace: Trace, stream: Stream, what: str) -> Layout:
    """What each dimension is; axes that nothing read are the steps and the batch.

    A batch of any size merged with the steps is the steps: streams run one at a time.
    """
    roles = []
    for dim in stream.dims:
        for atom in dim:
            if atom not in trace.roles.of:
                taken = Role.TIME in trace.roles.of.values()
                trace.roles.of[atom] = Role.BATCH if taken else Role.TIME
        found = {trace.roles.of[atom] for atom in dim}
        if len(dim) > 1 and (Role.FEATURE in found or any(atom.size for atom in dim)):
            raise refuse("model", what, f"merges the axes {list(dim)}", "export them apart")
        roles.append(Role.TIME if Role.TIME in found else next(iter(found), None))
    return tuple(roles)


def _notes(
    graph: TensorGraph,
    output: str,
    result: Stream,
    steps: int | None,
    states: tuple[StatePair, ...],
) -> tuple[str, ...]:
    kept = {output, *(pair.output for pair in states)}
    notes = [
        f"output {name!r} is a final state, which edge-rnn keeps itself: left out"
        for name in graph.outputs
        if name not in kept
    ]
    if result.last:
        notes.append(LAST_ONLY.format(f"output {output!r} is of the last step only"))
    if steps is not None and steps > 1:
        notes.append(WINDOW.format(steps, steps))
    return tuple(notes)
