"""Convolution and pooling along the positions inside one message."""

from __future__ import annotations

from typing import Literal

import numpy as np

from edge_rnn.graph import F32, Dense, FrameConv, FramePool, Matrix
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import CHAIN
from edge_rnn_converters.tensors.sweeps import Sweep
from edge_rnn_converters.tensors.trace import Trace
from edge_rnn_converters.tensors.values import AxisError, Stream
from edge_rnn_converters.tensors.vectors import few_enough, places, taken


def conv_inside(trace: Trace, op: Op, x: Stream, sweep: Sweep, w: F32, b: F32) -> Stream:
    """Along positions: features are (channels, positions), and the node wants positions first."""
    groups, (N, each) = op.integer("group", 1), w.shape[:2]
    channels = trace.features(x, 1, size=each * groups)
    length = trace.features(x, sweep.along)
    if channels * length != trace.width(x):
        raise op.refuse("X", "a step has more axes than positions and channels", CHAIN)
    n = sweep.count(length)
    if n < 1:
        raise AxisError(f"{length} positions are too few for a kernel of {sweep.window}")
    source = _positions_first(trace, op, x, sweep, edge=False)
    few_enough(float(N) * sweep.window * channels)
    matrix = Matrix(_all_taps(w, groups, sweep).reshape(N, -1))
    if n == 1 and sweep.window == length + sweep.before + sweep.after:
        name = trace.emit(op, source, lambda name: Dense(name, source, matrix, b), N)
    else:
        name = trace.emit(
            op,
            source,
            lambda name: FrameConv(name, source, matrix, b, sweep.window, sweep.stride),
            n * N,
        )
    return _positioned(trace, x, sweep, name, n, N)


def _all_taps(w: F32, groups: int, sweep: Sweep) -> F32:
    """w (N, channels / groups, kernel) as (N, window, channels), zeros where nothing is read."""
    N, each, _ = w.shape
    full = np.zeros((N, sweep.window, each * groups), np.float32)
    for g in range(groups):
        rows = slice(g * N // groups, (g + 1) * N // groups)
        full[rows, :: sweep.dilation, g * each : (g + 1) * each] = w[rows].transpose(0, 2, 1)
    return full


def _positions_first(trace: Trace, op: Op, x: Stream, sweep: Sweep, *, edge: bool) -> str:
    """The value with its vector as (positions, channels), padded with zeros or with its ends."""
    old = places(trace, x)
    width = [(0, 0)] * old.ndim
    width[sweep.along] = (sweep.before, sweep.after)
    if sweep.before + sweep.after > 1 << 20:
        raise op.refuse(f"pads {sweep.before}, {sweep.after}", "are too many", CHAIN)
    wide = np.pad(old, width, mode="edge") if edge else np.pad(old, width, constant_values=-1)
    return taken(trace, op, x, np.moveaxis(wide, sweep.along, 1).ravel())


def _positioned(trace: Trace, x: Stream, sweep: Sweep, name: str, n: int, channels: int) -> Stream:
    position = trace.axis(f"{name} positions", n)
    features = trace.axis(f"{name} channels", channels)
    changed = {1: features, sweep.along: position}
    dims = tuple(changed.get(i, d) for i, d in enumerate(x.dims))
    return Stream(name, dims, position + features, x.last)


def pool_inside(
    trace: Trace, op: Op, x: Stream, sweep: Sweep, kind: Literal["max", "average"], counted: bool
) -> Stream:
    """Along positions. Counted: zeros that were put around them are part of a mean."""
    channels, length = trace.features(x, 1), trace.features(x, sweep.along)
    if channels * length != trace.width(x):
        raise op.refuse("X", "a step has more axes than positions and channels", CHAIN)
    if kind == "average" and (sweep.before or sweep.after) and not counted:
        why = "the mean of the positions that are there"
        raise op.refuse(f"pads {sweep.before}, {sweep.after}", why, "use count_include_pad=1")
    n = sweep.count(length)
    # The largest of a window with its end twice is that of the window.
    source = _positions_first(trace, op, x, sweep, edge=kind == "max")
    name = trace.emit(
        op,
        source,
        lambda name: FramePool(name, source, kind, channels, sweep.kernel, sweep.stride),
        n * channels,
    )
    return _positioned(trace, x, sweep, name, n, channels)
