"""Convolution and pooling: over the steps, or along the positions inside one message."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from edge_rnn.graph import F32, Conv1d, Dense, Matrix, Pad, Padding, Pool
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import CHAIN
from edge_rnn_converters.tensors.positions import conv_inside, pool_inside
from edge_rnn_converters.tensors.sweeps import Sweep, over_steps, sweep_of
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, weights
from edge_rnn_converters.tensors.values import AxisError, Dim, Role, State, Stream, Value

operator = Operators()

LOWEST = -3.4028234663852886e38


@operator("Conv", "over steps (causal, valid, same), or along the positions of one message")
def _conv(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    w = weights(op, args[1], "W")
    there = len(args) > 2 and args[2] is not None
    b = weights(op, args[2], "B") if there else np.zeros(len(w), np.float32)
    x, around = _unpadded(trace, op, args[0])
    sweep = sweep_of(trace, op, x, list(w.shape[2:]))
    w = w.reshape(*w.shape[:2], -1)
    if not over_steps(trace, x, sweep):
        return [conv_inside(trace, op, x, sweep, w, b)]
    x, sweep = _with_pads(trace, op, x, sweep, around, 0.0)
    return [_conv_over_steps(trace, op, x, sweep, w, b)]


def _unpadded(
    trace: Trace, op: Op, value: Value | None
) -> tuple[Stream, tuple[int, int, float] | None]:
    """The stream, and the steps that a Pad wants around it."""
    value = value.stream if isinstance(value, State) and value.stream else value
    if isinstance(value, Stream) and value.padded is not None:
        return replace(value, padded=None), value.padded
    return as_stream(trace, op, value, "X"), None


def _with_pads(
    trace: Trace,
    op: Op,
    x: Stream,
    sweep: Sweep,
    around: tuple[int, int, float] | None,
    number: float,
) -> tuple[Stream, Sweep]:
    """Steps that a Pad in front put there become the operator's own, if they are the same."""
    if around is None:
        return x, sweep
    before, after, value = around
    if value == number or (number == LOWEST and value < -3e38):
        size = x.dims[sweep.along][0].size
        shorter = None if size is None else size - before - after
        dim = trace.axis(f"steps of {op.outputs[0]}", shorter, Role.TIME)
        dims = (*x.dims[: sweep.along], dim, *x.dims[sweep.along + 1 :])
        sweep = replace(sweep, before=sweep.before + before, after=sweep.after + after)
        return replace(x, dims=dims), sweep
    return as_stream(trace, op, replace(x, padded=around), "X"), sweep


def _conv_over_steps(trace: Trace, op: Op, x: Stream, sweep: Sweep, w: F32, b: F32) -> Stream:
    groups = op.integer("group", 1)
    width = trace.features(x, 1, size=w.shape[1] * groups)
    if width != trace.width(x):
        raise op.refuse("X", "a step has several positions", "convolve along one axis")
    matrix = Matrix(np.ascontiguousarray(w.transpose(0, 2, 1).reshape(len(w), -1)))
    if groups == sweep.kernel == sweep.stride == 1 and not sweep.before and not sweep.after:
        name = trace.emit(op, x.value, lambda name: Dense(name, x.value, matrix, b), len(b))
        features = trace.axis(f"{name} features", len(b))
        dims = (x.dims[0], features, *x.dims[2:])
        return replace(x, value=name, dims=dims, order=features)

    def made(sweep: Sweep) -> Stream:
        source, padding = _padded(trace, op, x.value, sweep, 0.0, width)
        name = trace.emit(
            op,
            source,
            lambda name: Conv1d(
                name, source, matrix, b, sweep.kernel, sweep.stride, sweep.dilation, groups, padding
            ),
            len(b),
        )
        features = trace.axis(f"{name} features", len(b))
        return _after(trace, replace(x, value=name, order=features), sweep, {1: features})

    result = made(sweep)
    if sweep.after and sweep.stride == 1:
        # A slice may take the steps off again that look ahead: a common way to write "causal".
        trace.cropped[result.value] = lambda n: made(replace(sweep, after=sweep.after - n))
    return result


def _padded(
    trace: Trace, op: Op, source: str, sweep: Sweep, number: float, width: int
) -> tuple[str, Padding]:
    """What to read, and how: steps put in front of all a window needs are "causal"; others need
    a whole window."""
    before, after = sweep.before, sweep.after
    if min(before, after) < 0:
        raise op.refuse(f"pads {before}, {after}", "cut steps off", "use valid convolutions")
    if before == after == 0:
        return source, "valid"
    if before == sweep.window - 1 and after == 0:
        return source, "causal"
    return trace.emit(
        op, source, lambda name: Pad(name, source, before, after, number), width
    ), "valid"


def _after(trace: Trace, x: Stream, sweep: Sweep, changed: dict[int, Dim]) -> Stream:
    """The stream with the steps that there are after the sweep; of one step, a window's end."""
    dim = x.dims[sweep.along]
    size = None if dim[0].size is None else sweep.count(dim[0].size)
    if size is not None and size < 1:
        raise AxisError(f"a window of {dim[0].size} steps is too short for {sweep.window}")
    same = size == dim[0].size and size is not None
    new = dim if same else trace.axis(f"steps of {x.value}", size, Role.TIME)
    changed = {**changed, sweep.along: new}
    dims = tuple(changed.get(i, d) for i, d in enumerate(x.dims))
    return replace(x, dims=dims, last=x.last or size == 1)


@operator("MaxPool AveragePool", "over steps, or along the positions of one message")
def _pool(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    kind: Literal["max", "average"] = "max" if op.kind == "MaxPool" else "average"
    counted = kind == "average" and op.integer("count_include_pad", 0) == 1
    x, around = _unpadded(trace, op, args[0])
    sweep = sweep_of(trace, op, x, list(op.attributes["kernel_shape"]))
    if sweep.dilation != 1 or op.integer("storage_order", 0) or len(op.outputs) > 1:
        raise op.refuse("dilations", "leaves places out, or gives their indices", CHAIN)
    steps = over_steps(trace, x, sweep)
    _no_ceiling(trace, op, x, sweep)
    if not steps:
        return [pool_inside(trace, op, x, sweep, kind, counted)]
    number = LOWEST if kind == "max" else 0.0
    x, sweep = _with_pads(trace, op, x, sweep, around if kind == "max" or counted else None, number)
    if around is not None and kind == "average" and not counted:
        x = as_stream(trace, op, replace(x, padded=around), "X")
    return [_pool_over_steps(trace, op, x, sweep, kind, counted)]


def _no_ceiling(trace: Trace, op: Op, x: Stream, sweep: Sweep) -> None:
    if not op.integer("ceil_mode", 0) or sweep.stride == 1:
        return
    length = trace.axes.length(x.dims[sweep.along]) if x.dims[sweep.along] else 1
    if (length + sweep.before + sweep.after - sweep.window) % sweep.stride:
        raise op.refuse("ceil_mode=1", "its last window is cut short", "export with ceil_mode=0")


def _pool_over_steps(
    trace: Trace, op: Op, x: Stream, sweep: Sweep, kind: Literal["max", "average"], counted: bool
) -> Stream:
    order, width = trace.order(x), trace.width(x)
    causal = sweep.before == sweep.window - 1 and not sweep.after
    if kind == "average" and (sweep.before or sweep.after) and not counted and not causal:
        why = "the mean of the steps that are there, at both ends of a window"
        raise op.refuse(f"pads {sweep.before}, {sweep.after}", why, "use count_include_pad=1")
    if counted and causal and sweep.window > 1:
        source = trace.emit(
            op, x.value, lambda name: Pad(name, x.value, sweep.before, 0, 0.0), width
        )
        padding: Padding = "valid"
    else:
        number = LOWEST if kind == "max" else 0.0
        source, padding = _padded(trace, op, x.value, sweep, number, width)
    name = trace.emit(
        op,
        source,
        lambda name: Pool(name, source, kind, sweep.kernel, sweep.stride, padding),
        width,
    )
    return _after(trace, replace(x, value=name, order=order), sweep, {})
