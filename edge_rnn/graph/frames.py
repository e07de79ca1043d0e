"""The nodes that work inside one message: a frame of samples, several positions of channels.

A value of L positions with C channels each is a vector of L C numbers, the channels of position 0
first: what frameworks write as (L, C), or as (C, L) transposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from edge_rnn.activations import Act
from edge_rnn.errors import ModelError
from edge_rnn.graph.node import F32, MAX_DIM, Activations, Matrix, Node, number, tensor


def positions(node: Node, width: int, channels: int, kernel: int, stride: int) -> int:
    """How many windows of `kernel` positions, `stride` apart, lie in a value of this width.

    Raises ModelError, naming the node, where the width is no whole number of positions, or less
    than a window.
    """
    length, rest = divmod(width, channels)
    if rest or length < kernel:
        raise ModelError(
            f"node {node.name!r}: reads {width} numbers, expected {channels} channels at {kernel} "
            "positions or more"
        )
    return (length - kernel) // stride + 1


@dataclass(frozen=True, slots=True, eq=False)
class Take(Node):
    """y_j = x[places_j], or 0 where places_j is -1: padding, reflection, another order.

    `places` holds whole numbers from -1 to I - 1.
    """

    OP: ClassVar[str] = "take"
    OUTPUT: ClassVar[str] = "N"

    places: F32 = tensor("N")


@dataclass(frozen=True, slots=True, eq=False)
class FrameConv(Node):
    """Convolution along the positions of one message (cross-correlation), without padding.

    y[p, n] = act(sum_jc W[n, j C + c] x[p stride + j, c] + b_n),  p = 0 to (L - kernel) // stride

    W[n, j C + c] = PyTorch's weight[n, c, j] = Keras's kernel[j, c, n].
    """

    OP: ClassVar[str] = "frame_conv"
    OUTPUT: ClassVar[str] = "O"

    w: Matrix = tensor("N", "K")
    b: F32 = tensor("N")
    kernel: int = number(1, MAX_DIM)
    stride: int = number(1, MAX_DIM, 1)
    act: Act = "linear"
    activations: Activations = "float32"

    def sizes(self, *widths: int) -> dict[str, int]:
        """K = kernel C, O = positions N. Raises ModelError where the width doesn't fit."""
        columns = self.w.data.size // max(1, self.b.size)
        if not columns or columns % self.kernel:
            raise ModelError(
                f"node {self.name!r}: w has {columns} columns for a kernel of {self.kernel}"
            )
        n = positions(self, widths[0], columns // self.kernel, self.kernel, self.stride)
        return {"I": widths[0], "K": columns, "O": n * self.b.size}


@dataclass(frozen=True, slots=True, eq=False)
class FramePool(Node):
    """y[p, c] = max or mean of x[p stride + j, c], j = 0 to kernel - 1: pooling along positions.

    Without padding; p = 0 to (L - kernel) // stride.
    """

    OP: ClassVar[str] = "frame_pool"
    OUTPUT: ClassVar[str] = "O"

    kind: Literal["max", "average"]
    channels: int = number(1, MAX_DIM)
    kernel: int = number(1, MAX_DIM)
    stride: int = number(1, MAX_DIM)

    def sizes(self, *widths: int) -> dict[str, int]:
        """O = positions channels. Raises ModelError where the width doesn't fit."""
        n = positions(self, widths[0], self.channels, self.kernel, self.stride)
        return {"I": widths[0], "O": n * self.channels}
