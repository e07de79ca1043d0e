"""The nodes that normalise, softmax too, and PReLU: one vector in, one of the same width out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edge_rnn.graph.node import F32, MAX_EPSILON, Node, number, tensor


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm(Node):
    """y = gain (x - mean x) / sqrt(var x + epsilon) + bias, var x = mean (x - mean x)^2.

    As in PyTorch and Keras; without a gain 1 stands for it, without a bias 0.
    """

    OP: ClassVar[str] = "layer_norm"

    gain: F32 = tensor("I")
    bias: F32 = tensor("I")
    epsilon: float = number(0.0, MAX_EPSILON, 1e-5)


@dataclass(frozen=True, slots=True, eq=False)
class RmsNorm(Node):
    """y = gain x / sqrt(mean x^2 + epsilon) (Zhang and Sennrich 2019; PyTorch and Keras)."""

    OP: ClassVar[str] = "rms_norm"

    gain: F32 = tensor("I")
    epsilon: float = number(0.0, MAX_EPSILON, 1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class L2Norm(Node):
    """y = x / max(sqrt(sum x^2), epsilon), as PyTorch's normalize and Keras' UnitNormalization.

    TensorFlow's l2_normalize puts its epsilon under the root: its square root is this one.
    """

    OP: ClassVar[str] = "l2_norm"

    epsilon: float = number(0.0, MAX_EPSILON, 1e-12)


@dataclass(frozen=True, slots=True, eq=False)
class Softmax(Node):
    """y_i = exp(x_i - max x) / sum_j exp(x_j - max x)."""

    OP: ClassVar[str] = "softmax"


@dataclass(frozen=True, slots=True, eq=False)
class LogSoftmax(Node):
    """y_i = x_i - max x - log sum_j exp(x_j - max x)."""

    OP: ClassVar[str] = "log_softmax"


@dataclass(frozen=True, slots=True, eq=False)
class PRelu(Node):
    """y = x where x > 0, else slope x (He et al. 2015); one slope in all places: leaky ReLU."""

    OP: ClassVar[str] = "prelu"

    slope: F32 = tensor("I")
