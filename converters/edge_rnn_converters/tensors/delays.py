"""What a model keeps of earlier messages as they were: a delay of some of their numbers."""

from __future__ import annotations

import numpy as np

from edge_rnn.graph import Concat, Conv1d, Matrix
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream
from edge_rnn_converters.tensors.values import Stream, Value
from edge_rnn_converters.tensors.vectors import Places, arranged, taken

operator = Operators()

DELAY = "edge_rnn.Delay"
"""Our own operator: Y (1, n), y_j = the element `places`_j of X, row by row, `steps`_j messages
ago, zero before the first. X is one message."""


@operator(DELAY, "")
def _delay(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    x = as_stream(trace, op, args[0], "X")
    trace.features(x, *range(len(x.dims)))
    x = arranged(trace, op, x)
    ago, places = (np.asarray(op.attributes[n], np.int64) for n in ("steps", "places"))
    groups = [np.flatnonzero(ago == n) for n in np.unique(ago)]
    names = [_late(trace, op, x, places[group], int(ago[group[0]])) for group in groups]
    name, more = names[0], tuple(names[1:])
    if more:
        name = trace.emit(op, name, lambda new: Concat(new, names[0], more), len(places))
    features = trace.axis(f"{name} features", len(places))
    joined = Stream(name, ((), features), features)
    back = np.argsort(np.concatenate(groups), kind="stable")
    ordered = taken(trace, op, joined, back)
    last = trace.axis(f"{ordered} features", len(places))
    return [Stream(ordered, ((), last), last)]


def _late(trace: Trace, op: Op, x: Stream, places: Places, steps: int) -> str:
    """The elements of that many steps ago: a convolution of each by itself, its oldest tap 1."""
    source, n = taken(trace, op, x, places), len(places)
    w = np.zeros((n, steps + 1), np.float32)
    w[:, 0] = 1
    b = np.zeros(n, np.float32)
    name = trace.emit(
        op, source, lambda new: Conv1d(new, source, Matrix(w), b, kernel=steps + 1, groups=n), n
    )
    trace.delays.add(name)
    return name
