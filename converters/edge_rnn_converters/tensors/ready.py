"""Recurrent cells that a reader has made nodes of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_rnn.graph import Node, dimensions
from edge_rnn_converters.tensors.cells import state
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream
from edge_rnn_converters.tensors.values import Role, State, Stream, Value
from edge_rnn_converters.tensors.vectors import arranged

operator = Operators()


@operator("edge_rnn.Cell", "a node as it is: attribute `node`, X and the initial states as in LSTM")
def _cell(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    """(T, B, I) -> Y (T, B, H) and each state at the end, (B, its width); layout 1 is (B, T, I)."""
    node: Node = op.attributes["node"]
    x, layout = as_stream(trace, op, args[0], "X"), op.integer("layout", 0)
    if x.last or len(x.dims) != 3:
        why = "it reads the one last step of a layer before" if x.last else "expected three axes"
        raise op.refuse("X", why, "export the whole sequence into it")
    trace.axes.bind(x.dims[layout], Role.TIME)
    trace.axes.bind(x.dims[1 - layout], Role.BATCH)
    width = trace.features(x, 2, size=node.w.data.shape[1])  # type: ignore[attr-defined]
    source = arranged(trace, op, x).value
    sizes = dimensions(node, width)
    H = sizes[node.OUTPUT]
    name = trace.emit(op, source, lambda name: replace(node, name=name, input=source), H)
    given = dict(zip(node.STATE, [*args[5:], None, None], strict=False))
    single = not x.dims[layout]
    states = [
        state(trace, op, name, slot, _flat(given[slot]), sizes[symbol], single, ahead=False)
        for slot, symbol in node.STATE.items()
    ]
    trace.cells += states
    F = trace.axis(f"{name} features", H)
    y = Stream(name, (*x.dims[:2], F), F)
    last = replace(y, dims=(x.dims[1 - layout], F), last=not single)
    finals = [State(s.final.reshape(1, -1)) for s in states]
    return [y, State(finals[0].ids, last), *finals[1:]]


def _flat(value: Value | None) -> Value | None:
    """A state of a batch of one, as LSTM has it: (1, 1, H)."""
    return State(value.ids.reshape(1, 1, np.size(value.ids))) if isinstance(value, State) else value
