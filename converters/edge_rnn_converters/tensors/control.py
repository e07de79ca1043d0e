"""Operators that hold graphs of their own."""

from __future__ import annotations

import numpy as np

from edge_rnn_converters.tensors.graph import Op, TensorGraph
from edge_rnn_converters.tensors.trace import Operators, Trace
from edge_rnn_converters.tensors.values import Known, Value

operator = Operators()


@operator("If", "on what is known before the graph runs: constants, sizes, a rate that is given")
def _if(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    condition = args[0]
    if not isinstance(condition, Known) or condition.array.size != 1:
        why = "depends on the stream, or on a size that is open"
        raise op.refuse("cond", why, "export with fixed sizes, or give them: --input NAME=1x512")
    chosen = "then_branch" if bool(np.ravel(condition.array)[0]) else "else_branch"
    graph: TensorGraph = op.attributes[chosen]
    trace.values.update({name: Known(a) for name, a in graph.constants.items()})
    trace.run(graph.operators)
    return [trace.value(op, name) for name in graph.outputs]
