"""Convolution and pooling: over the steps, or along the positions inside one message."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edge_rnn.graph import F32, Conv1d, Dense, FrameConv, FramePool, Matrix, Pad, Padding, Pool
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import CHAIN
from edge_rnn_converters.tensors.trace import Operators, Trace, as_stream, weights
from edge_rnn_converters.tensors.values import AxisError, Dim, Role, State, Stream, Value
from edge_rnn_converters.tensors.vectors import few_enough, places, taken

operator = Operators()

LOWEST = -3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class _Sweep:
    """A window of `kernel` taps, `dilation` apart, that moves by `stride` along the dimension
    `along`, with so much put before and after it."""

    along: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def window(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    def count(self, length: int) -> int:
        """How many places it has."""
        return (length + self.before + self.after - self.window) // self.stride + 1


def _sweep(trace: Trace, op: Op, x: Stream, kernel: list[int]) -> _Sweep:
    """The one dimension that the operator moves along; others have length and kernel one."""
    rank = len(x.dims)
    if rank < 3 or len(kernel) != rank - 2:
        raise op.refuse(f"kernel {kernel}", f"for {rank} axes", CHAIN)
    real = [i for i in range(2, rank) if x.dims[i] or kernel[i - 2] > 1]
    if len(real) > 1:
        raise op.refuse(f"kernel {kernel}", "moves along two axes", "use one-dimensional layers")
    k = real[0] - 2 if real else 0
    strides, dilations = (
        [int(n) for n in op.attributes.get(name, [1] * (rank - 2))]
        for name in ("strides", "dilations")
    )
    sweep = _Sweep(k + 2, int(kernel[k]), strides[k], dilations[k], 0, 0)
    before, after = _pads(trace, op, x, sweep, rank - 2, k)
    return replace(sweep, before=before, after=after)


def _pads(trace: Trace, op: Op, x: Stream, sweep: _Sweep, axes: int, k: int) -> tuple[int, int]:
    mode = op.attributes.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return 0, 0
    if mode == "NOTSET":
        pads = [int(n) for n in op.attributes.get("pads", [0] * 2 * axes)]
        if any(n for i, n in enumerate(pads) if i % axes != k):
            raise op.refuse(f"pads {pads}", "two axes", "use one-dimensional layers")
        return pads[k], pads[k + axes]
    total = sweep.window - 1
    if sweep.stride > 1:
        length = trace.axes.length(x.dims[sweep.along])
        total = max((-(-length // sweep.stride) - 1) * sweep.stride + sweep.window - length, 0)
    less = total // 2
    return (less, total - less) if mode == "SAME_UPPER" else (total - less, less)


def _over_steps(trace: Trace, x: Stream, sweep: _Sweep) -> bool:
    """Are they steps that it moves along? Else positions of one message."""
    dim = x.dims[sweep.along]
    if not dim or trace.axes.has(dim, Role.FEATURE):
        return False
    if not (trace.framed and all(trace.axes.role(a) is None for a in dim)):
        trace.axes.bind(dim, Role.TIME)
    return trace.axes.has(dim, Role.TIME)


@operator("Conv", "over steps (causal, valid, same), or along the positions of one message")
def _conv(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    w = weights(op, args[1], "W")
    there = len(args) > 2 and args[2] is not None
    b = weights(op, args[2], "B") if there else np.zeros(len(w), np.float32)
    x, around = _unpadded(trace, op, args[0])
    sweep = _sweep(trace, op, x, list(w.shape[2:]))
    w = w.reshape(*w.shape[:2], -1)
    if not _over_steps(trace, x, sweep):
        return [_inside(trace, op, x, sweep, w, b)]
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
    sweep: _Sweep,
    around: tuple[int, int, float] | None,
    number: float,
) -> tuple[Stream, _Sweep]:
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


def _conv_over_steps(trace: Trace, op: Op, x: Stream, sweep: _Sweep, w: F32, b: F32) -> Stream:
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

    def made(sweep: _Sweep) -> Stream:
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
    trace: Trace, op: Op, source: str, sweep: _Sweep, number: float, width: int
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


def _after(trace: Trace, x: Stream, sweep: _Sweep, changed: dict[int, Dim]) -> Stream:
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


def _inside(trace: Trace, op: Op, x: Stream, sweep: _Sweep, w: F32, b: F32) -> Stream:
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
    full = np.zeros((N, sweep.window, channels), np.float32)
    for g in range(groups):
        rows, columns = (
            slice(g * N // groups, (g + 1) * N // groups),
            slice(g * each, (g + 1) * each),
        )
        full[rows, :: sweep.dilation, columns] = w[rows].transpose(0, 2, 1)
    matrix = Matrix(full.reshape(N, -1))
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


def _positions_first(trace: Trace, op: Op, x: Stream, sweep: _Sweep, *, edge: bool) -> str:
    """The value with its vector as (positions, channels), padded with zeros or with its ends."""
    old = places(trace, x)
    width = [(0, 0)] * old.ndim
    width[sweep.along] = (sweep.before, sweep.after)
    if sweep.before + sweep.after > 1 << 20:
        raise op.refuse(f"pads {sweep.before}, {sweep.after}", "are too many", CHAIN)
    wide = np.pad(old, width, mode="edge") if edge else np.pad(old, width, constant_values=-1)
    return taken(trace, op, x, np.moveaxis(wide, sweep.along, 1).ravel())


def _positioned(trace: Trace, x: Stream, sweep: _Sweep, name: str, n: int, channels: int) -> Stream:
    position = trace.axis(f"{name} positions", n)
    features = trace.axis(f"{name} channels", channels)
    changed = {1: features, sweep.along: position}
    dims = tuple(changed.get(i, d) for i, d in enumerate(x.dims))
    return Stream(name, dims, position + features, x.last)


@operator("MaxPool AveragePool", "over steps, or along the positions of one message")
def _pool(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    kind: Literal["max", "average"] = "max" if op.kind == "MaxPool" else "average"
    counted = kind == "average" and op.integer("count_include_pad", 0) == 1
    x, around = _unpadded(trace, op, args[0])
    sweep = _sweep(trace, op, x, list(op.attributes["kernel_shape"]))
    if sweep.dilation != 1 or op.integer("storage_order", 0) or len(op.outputs) > 1:
        raise op.refuse("dilations", "leaves places out, or gives their indices", CHAIN)
    steps = _over_steps(trace, x, sweep)
    _no_ceiling(trace, op, x, sweep)
    if not steps:
        return [_pool_inside(trace, op, x, sweep, kind, counted)]
    number = LOWEST if kind == "max" else 0.0
    x, sweep = _with_pads(trace, op, x, sweep, around if kind == "max" or counted else None, number)
    if around is not None and kind == "average" and not counted:
        x = as_stream(trace, op, replace(x, padded=around), "X")
    return [_pool_over_steps(trace, op, x, sweep, kind, counted)]


def _no_ceiling(trace: Trace, op: Op, x: Stream, sweep: _Sweep) -> None:
    if not op.integer("ceil_mode", 0) or sweep.stride == 1:
        return
    length = trace.axes.length(x.dims[sweep.along]) if x.dims[sweep.along] else 1
    if (length + sweep.before + sweep.after - sweep.window) % sweep.stride:
        raise op.refuse("ceil_mode=1", "its last window is cut short", "export with ceil_mode=0")


def _pool_over_steps(
    trace: Trace, op: Op, x: Stream, sweep: _Sweep, kind: Literal["max", "average"], counted: bool
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


def _pool_inside(
    trace: Trace, op: Op, x: Stream, sweep: _Sweep, kind: Literal["max", "average"], counted: bool
) -> Stream:
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
