"""Operators that take the mean, sum or maximum: over steps, or inside one message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from edge_rnn.graph import FramePool, Pool
from edge_rnn_converters.tensors.arithmetic import scaled
from edge_rnn_converters.tensors.functions import activated
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.moves import parameter
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream
from edge_rnn_converters.tensors.values import AxisError, Dim, Known, Role, Stream, Value
from edge_rnn_converters.tensors.vectors import gathered, places

operator = Operators()

Kind = Literal["max", "average"]

_REDUCE = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceSumSquare GlobalAveragePool "
    "GlobalMaxPool"
)


@operator(_REDUCE, "over features, positions of a message, or all steps of a window")
def _reduce(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    if isinstance(args[0], Known):
        return [_constant(op, args[0], args)]
    x = as_stream(trace, op, args[0], "data")
    rank = len(x.dims)
    if op.kind.startswith("Global"):
        at, keep = list(range(2, rank)), True
    else:
        which = parameter(op, args, 1, "axes")
        at = sorted(int(i) % rank for i in (range(rank) if which is None else which))
        keep = bool(op.integer("keepdims", 1))
        if not at or (which == [] and op.integer("noop_with_empty_axes", 0)):
            return [x]
    return [reduced(trace, op, x, at, keep)]


def _constant(op: Op, value: Known, args: list[Value | None]) -> Value:
    functions: dict[str, Callable[..., Any]] = {
        "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceMean": np.mean,
    }  # fmt: skip
    if op.kind not in functions or value.array.dtype == object:
        raise op.refuse("data", "is a constant", "fold constants in the export")
    which = parameter(op, args, 1, "axes")
    at = None if which is None else tuple(int(i) for i in which)
    keep = bool(op.integer("keepdims", 1))
    found = functions[op.kind](value.array, axis=at, keepdims=keep)
    return Known(np.asarray(found, value.array.dtype))


def reduced(trace: Trace, op: Op, x: Stream, at: list[int], keep: bool) -> Stream:
    """One number of each of what lies along these dimensions."""
    kind: Kind = "max" if op.kind in ("ReduceMax", "ReduceMin", "GlobalMaxPool") else "average"
    count = 1
    if op.kind == "ReduceMin":
        x = scaled(trace, op, x, 0, -1, 0)
    if op.kind in ("ReduceL2", "ReduceSumSquare"):
        x = activated(trace, op, x, "square")
    for i in reversed(at):
        steps = trace.axes.has(x.dims[i], Role.TIME)
        n = trace.axes.length(x.dims[i]) if x.dims[i] and not _batch(trace, x, i) else 1
        count *= n
        x = _over_steps(trace, op, x, i, kind, n) if steps else x
    x = _over_features(trace, op, x, at, kind)
    if not keep:
        x = _without(x, at)
    if op.kind == "ReduceMin":
        return scaled(trace, op, x, 0, -1, 0)
    if op.kind in ("ReduceSum", "ReduceL2", "ReduceSumSquare") and count > 1:
        x = scaled(trace, op, x, 0, float(count), 0)
    return activated(trace, op, x, "sqrt") if op.kind == "ReduceL2" else x


def _batch(trace: Trace, x: Stream, i: int) -> bool:
    """Read the dimension; refuse the batch: a mean over it is no stream's."""
    dim = x.dims[i]
    unread = [a for a in dim if trace.axes.role(a) is None]
    if trace.axes.has(dim, Role.BATCH) or any(a.size is None for a in unread):
        raise AxisError(f"it runs over {list(dim)}, the batch or an unknown number of steps")
    if unread:
        trace.features(x, i)
    return False


def _without(x: Stream, at: list[int]) -> Stream:
    kept: tuple[Dim, ...] = tuple(d for i, d in enumerate(x.dims) if i not in at)
    return Stream(x.value, kept, x.order, x.last)


def _over_steps(trace: Trace, op: Op, x: Stream, i: int, kind: Kind, n: int) -> Stream:
    """Over all n steps of a window: there is one answer, at its end."""
    if len(x.dims[i]) > 1:
        raise AxisError(f"it runs over the merged axes {list(x.dims[i])}")
    order = trace.order(x)
    name = trace.emit(
        op, x.value, lambda name: Pool(name, x.value, kind, n, n, "valid"), trace.width(x)
    )
    return Stream(name, (*x.dims[:i], (), *x.dims[i + 1 :]), order, last=True)


def _over_features(trace: Trace, op: Op, x: Stream, at: list[int], kind: Kind) -> Stream:
    """Over those of the dimensions that are features, put innermost."""
    at = [i for i in at if x.dims[i]]
    if not at:
        return x
    old = places(trace, x)
    inner = np.moveaxis(old, at, range(-len(at), 0))
    n = int(np.prod([old.shape[i] for i in at]))
    outer = [i for i in range(old.ndim) if i not in at]
    flat = gathered(trace, op, x, inner.reshape(*inner.shape[: len(outer)], n),
                    [*(x.dims[i] for i in outer), ()])  # fmt: skip
    width = old.size // n
    name = trace.emit(
        op, flat.value, lambda name: FramePool(name, flat.value, kind, 1, n, n), width
    )
    left = iter(flat.dims[:-1])
    dims = tuple(() if i in at else next(left) for i in range(old.ndim))
    order = sum((trace.axes.features(d) for d in dims), ())
    return Stream(name, dims, order, x.last)
