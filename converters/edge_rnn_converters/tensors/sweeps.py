"""Windows that move along one dimension of an array: what convolution and pooling share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.layers import CHAIN
from edge_rnn_converters.tensors.trace import Trace
from edge_rnn_converters.tensors.values import Role, Stream


@dataclass(frozen=True, slots=True)
class Sweep:
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
        """From its first tap to its last."""
        return (self.kernel - 1) * self.dilation + 1

    def count(self, length: int) -> int:
        """How many places it has."""
        return (length + self.before + self.after - self.window) // self.stride + 1


def sweep_of(trace: Trace, op: Op, x: Stream, kernel: list[int]) -> Sweep:
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
    sweep = Sweep(k + 2, int(kernel[k]), strides[k], dilations[k], 0, 0)
    before, after = _pads(trace, op, x, sweep, rank - 2, k)
    return replace(sweep, before=before, after=after)


def _pads(trace: Trace, op: Op, x: Stream, sweep: Sweep, axes: int, k: int) -> tuple[int, int]:
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


def over_steps(trace: Trace, x: Stream, sweep: Sweep) -> bool:
    """Are they steps that it moves along? Else positions of one message."""
    dim = x.dims[sweep.along]
    if not dim or trace.axes.has(dim, Role.FEATURE):
        return False
    if not (trace.framed and all(trace.axes.role(a) is None for a in dim)):
        trace.axes.bind(dim, Role.TIME)
    return trace.axes.has(dim, Role.TIME)
