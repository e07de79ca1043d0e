"""The nodes around recurrent cells: dense and element-wise ones, values that meet and part,
convolution, pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from edge_rnn.activations import Act
from edge_rnn.errors import ModelError
from edge_rnn.graph.node import F32, MAX_DIM, Activations, Matrix, Node, Schedule, number, tensor


@dataclass(frozen=True, slots=True, eq=False)
class Dense(Node):
    """y = act(W x + b)."""

    OP: ClassVar[str] = "dense"
    OUTPUT: ClassVar[str] = "N"

    w: Matrix = tensor("N", "I")
    b: F32 = tensor("N")
    act: Act = "linear"
    activations: Activations = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class Embedding(Node):
    """y = table[x]; x is a model input of width 1 that holds an index in [0, V)."""

    OP: ClassVar[str] = "embedding"
    OUTPUT: ClassVar[str] = "D"

    table: Matrix = tensor("V", "D")


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Node):
    """y = (x - offset) scale + shift: feature normalisation, or its inverse."""

    OP: ClassVar[str] = "scale"

    offset: F32 = tensor("I")
    scale: F32 = tensor("I")
    shift: F32 = tensor("I")


@dataclass(frozen=True, slots=True, eq=False)
class Activation(Node):
    """y = act(x), element-wise."""

    OP: ClassVar[str] = "activation"

    act: Act = "linear"


@dataclass(frozen=True, slots=True, eq=False)
class _Elementwise(Node):
    others: tuple[str, ...]

    def sizes(self, *widths: int) -> dict[str, int]:
        """I is the width of all values read. Raises ModelError where they differ."""
        if len(set(widths)) > 1:
            shown = " and ".join(str(w) for w in dict.fromkeys(widths))
            raise ModelError(
                f"node {self.name!r}: reads values of width {shown}, expected equal widths"
            )
        return {"I": widths[0]}


@dataclass(frozen=True, slots=True, eq=False)
class Add(_Elementwise):
    """y = x1 + x2 + ..., summed in the order in which they are read; a residual connection."""

    OP: ClassVar[str] = "add"


@dataclass(frozen=True, slots=True, eq=False)
class Multiply(_Elementwise):
    """y = x1 x2 ..., element-wise, in the order in which they are read."""

    OP: ClassVar[str] = "multiply"


@dataclass(frozen=True, slots=True, eq=False)
class Concat(Node):
    """y = [x1, x2, ...], the features side by side."""

    OP: ClassVar[str] = "concat"
    OUTPUT: ClassVar[str] = "N"

    others: tuple[str, ...]

    def sizes(self, *widths: int) -> dict[str, int]:
        """N is the sum of the widths read. Raises ModelError if that is too wide."""
        if sum(widths) > MAX_DIM:
            raise ModelError(f"node {self.name!r}: {sum(widths)} wide, at most {MAX_DIM} allowed")
        return {"I": widths[0], "N": sum(widths)}


@dataclass(frozen=True, slots=True, eq=False)
class Slice(Node):
    """y = x[start:stop], some of the features; a split is several slices."""

    OP: ClassVar[str] = "slice"
    OUTPUT: ClassVar[str] = "N"

    start: int = number(0, MAX_DIM)
    stop: int = number(1, MAX_DIM)

    def sizes(self, *widths: int) -> dict[str, int]:
        """N = stop - start. Raises ModelError if that is not a part of the features."""
        if not self.start < self.stop <= widths[0]:
            raise ModelError(
                f"node {self.name!r}: slice {self.start} to {self.stop} of a value {widths[0]} wide"
            )
        return {"I": widths[0], "N": self.stop - self.start}


Padding: TypeAlias = Literal["causal", "valid"]
"""What a window sees at a stream's start. t counts the node's own inputs, from 0:

causal  outputs at t = 0, stride, 2 stride, ...; before the first input there is nothing
valid   outputs at t = window - 1, window - 1 + stride, ...: once the whole window was there
"""


def _windowed(read: Schedule, window: int, stride: int, padding: Padding) -> Schedule:
    """When a window of the last `window` inputs has its outputs."""
    wait = window - 1 if padding == "valid" else 0
    return Schedule(read.first + wait * read.period, stride * read.period)


@dataclass(frozen=True, slots=True, eq=False)
class Conv1d(Node):
    """Convolution over time (cross-correlation, as in Keras, PyTorch and ONNX), x_t the input t.

    y_t = act(sum_j W_j x_(t - (kernel - 1 - j) dilation) + b),  j = 0 to kernel - 1

    W is (N, K) with K = kernel I / groups: the columns of tap j are W_j, oldest tap first,
    W[n, j I / groups + i] = PyTorch's weight[n, i, j] = Keras's kernel[j, i, n]. Rows and input
    features are cut into `groups` equal parts, and each part of the rows reads its own part of
    the features; groups = I is depthwise. Before the first input there are zeros ("causal").
    """

    OP: ClassVar[str] = "conv1d"
    OUTPUT: ClassVar[str] = "N"
    STATE: ClassVar[Mapping[str, str]] = {"ring": "R"}

    w: Matrix = tensor("N", "K")
    b: F32 = tensor("N")
    kernel: int = number(1, MAX_DIM)
    stride: int = number(1, MAX_DIM, 1)
    dilation: int = number(1, MAX_DIM, 1)
    groups: int = number(1, MAX_DIM, 1)
    padding: Padding = "causal"
    act: Act = "linear"
    activations: Activations = "float32"

    @property
    def depthwise(self) -> bool:
        """Each feature is convolved by itself: there is no matrix product."""
        return self.groups == len(self.b) and self.w.data.shape[1] == self.kernel

    @property
    def window(self) -> int:
        """Inputs from the oldest tap to the newest."""
        return (self.kernel - 1) * self.dilation + 1

    def sizes(self, *widths: int) -> dict[str, int]:
        """K = kernel I / groups, R = window I. Raises ModelError if groups don't divide."""
        I, N = widths[0], len(self.b)
        if I % self.groups or N % self.groups:
            raise ModelError(
                f"node {self.name!r}: groups is {self.groups}, which must divide its {I} features "
                f"and {N} rows"
            )
        return {"I": I, "K": self.kernel * I // self.groups, "R": self.window * I}

    def schedule(self, read: Schedule) -> Schedule:
        """One output every `stride` inputs."""
        return _windowed(read, self.window, self.stride, self.padding)


@dataclass(frozen=True, slots=True, eq=False)
class Pool(Node):
    """y_t = max or mean of x_(t - kernel + 1) ... x_t, feature by feature.

    With "causal" the window holds only the inputs that are there: the maximum and the mean of
    those (as Keras and ONNX do at a padded border, and PyTorch with count_include_pad=False).
    """

    OP: ClassVar[str] = "pool"
    STATE: ClassVar[Mapping[str, str]] = {"ring": "R"}

    kind: Literal["max", "average"]
    kernel: int = number(1, MAX_DIM)
    stride: int = number(1, MAX_DIM)
    padding: Padding = "valid"

    def sizes(self, *widths: int) -> dict[str, int]:
        """R = kernel I."""
        return {"I": widths[0], "R": self.kernel * widths[0]}

    def schedule(self, read: Schedule) -> Schedule:
        """One output every `stride` inputs."""
        return _windowed(read, self.kernel, self.stride, self.padding)
