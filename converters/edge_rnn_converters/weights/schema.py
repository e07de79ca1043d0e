"""The description of a network: a short TOML file that lists its layers in order.

The tables of `docs/converting/weights.md` are made from the declarations here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Meta

from edge_rnn.config.read import read_table
from edge_rnn.config.source import Source as Text
from edge_rnn.errors import ConfigError
from edge_rnn.graph import ACTS, MAX_DIM, MAX_EPSILON, Act
from edge_rnn_converters.gates import Framework, Kind

Weights: TypeAlias = str | dict[str, str]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_DIM)]
Natural: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_DIM)]
Epsilon: TypeAlias = Annotated[float, Meta(ge=0, le=MAX_EPSILON)]
Padding: TypeAlias = Natural | Literal["valid", "causal"]

KEYS: dict[str, str] = {
    "layout": "the framework whose order of gates and axes the arrays have: `pytorch`, `keras` or "
    "`onnx`; by default `keras` in HDF5 files, `pytorch` in all others",
    "prefix": "takes the arrays whose names begin so, and the names that follow; by default the "
    "one state_dict of a checkpoint, without `module.` or `model.`",
    "input": "numbers in a message, where the first layer's arrays don't tell",
    "ignore": "arrays of no layer here, `*` stands for anything: every array must be used or named",
    "weights": "what the names of the layer's arrays begin with, or a table of each array's name: "
    '`{ weight_ih = "enc_w_ih", weight_hh = "enc_w_hh" }`',
    "activation": "of the output; in `lstm` and `gru` that of the candidate (and of the LSTM's "
    "output), `tanh` in PyTorch",
    "recurrent_activation": "of the gates",
    "reset": "`after` the product, as in PyTorch, cuDNN and Keras's `reset_after`, or `before`: "
    "without it what PyTorch does, or what the bias of Keras tells",
    "frame": "along the positions of one message instead of over time; a message holds the "
    "channels of its first position, then those of its second",
    "kernel": "positions or steps in a window",
    "stride": "from one window to the next; of a pool by default its kernel",
    "dilation": "from one tap to the next",
    "groups": "parts of the channels that are convolved apart",
    "padding": "`valid`: none; over time `causal`: as many steps in front as the window is longer "
    "than one (zeros, of a pool none); of `conv1d` in a frame a number: zeros on both sides",
    "epsilon": "by default the framework's: 1e-5 in PyTorch and 1e-3 in Keras, of `rms_norm` "
    "1.19e-7 and 1e-6",
    "before": "positions in front",
    "after": "positions behind",
    "mode": "`zero`, or `reflect`: mirrored at the first and last position, as in PyTorch",
}
"""What each key means, for the manual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One [[layer]]."""

    TYPE: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rnn(Layer):
    """nn.RNN in both directions too, nn.RNNCell, SimpleRNN"""

    TYPE: ClassVar[str] = "rnn"
    KIND: ClassVar[Kind] = "rnn"

    weights: Weights
    activation: Act


@dataclass(frozen=True, slots=True, kw_only=True)
class Lstm(Layer):
    """nn.LSTM with all its layers, directions and its projection, nn.LSTMCell"""

    TYPE: ClassVar[str] = "lstm"
    KIND: ClassVar[Kind] = "lstm"

    weights: Weights
    activation: Act = "tanh"
    recurrent_activation: Act = "sigmoid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gru(Layer):
    """nn.GRU with all its layers and directions, nn.GRUCell"""

    TYPE: ClassVar[str] = "gru"
    KIND: ClassVar[Kind] = "gru"

    weights: Weights
    activation: Act = "tanh"
    recurrent_activation: Act = "sigmoid"
    reset: Literal["before", "after"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Layer):
    """nn.Linear, Dense; flattens a frame before it as its framework does"""

    TYPE: ClassVar[str] = "linear"

    weights: Weights
    activation: Act = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv1d(Layer):
    """nn.Conv1d, Conv1D"""

    TYPE: ClassVar[str] = "conv1d"

    weights: Weights
    activation: Act = "linear"
    frame: bool = False
    stride: Count = 1
    dilation: Count = 1
    groups: Count = 1
    padding: Padding = "valid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Layer):
    """pooling over time or in a frame"""

    kernel: Count
    stride: Count | None = None
    frame: bool = False
    padding: Literal["valid", "causal"] = "valid"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool(Pool):
    """nn.MaxPool1d, MaxPooling1D"""

    TYPE: ClassVar[str] = "max_pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePool(Pool):
    """nn.AvgPool1d, AveragePooling1D"""

    TYPE: ClassVar[str] = "average_pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Layer):
    """nn.Embedding, Embedding; the first layer, of one index a message"""

    TYPE: ClassVar[str] = "embedding"

    weights: Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm(Layer):
    """nn.LayerNorm, LayerNormalization: over the features"""

    TYPE: ClassVar[str] = "layer_norm"

    weights: Weights
    epsilon: Epsilon | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNorm(Layer):
    """nn.RMSNorm, RMSNormalization"""

    TYPE: ClassVar[str] = "rms_norm"

    weights: Weights
    epsilon: Epsilon | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm(Layer):
    """nn.BatchNorm1d, BatchNormalization: with the averages of training"""

    TYPE: ClassVar[str] = "batch_norm"

    weights: Weights
    epsilon: Epsilon | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PRelu(Layer):
    """nn.PReLU"""

    TYPE: ClassVar[str] = "prelu"

    weights: Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class L2Norm(Layer):
    """torch.nn.functional.normalize, UnitNormalization"""

    TYPE: ClassVar[str] = "l2_norm"

    epsilon: Epsilon = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Layer):
    """over the features"""

    TYPE: ClassVar[str] = "softmax"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSoftmax(Layer):
    """over the features"""

    TYPE: ClassVar[str] = "log_softmax"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad(Layer):
    """more positions in a frame"""

    TYPE: ClassVar[str] = "pad"

    before: Natural = 0
    after: Natural = 0
    mode: Literal["zero", "reflect"] = "zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitude(Layer):
    """sqrt(a^2 + b^2) of a frame's first half of channels a and its second b: a spectrum"""

    TYPE: ClassVar[str] = "magnitude"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Layer):
    """an activation by itself: `relu`, `sigmoid`, ..."""

    act: Act


LAYERS: dict[str, type[Layer]] = {
    cls.TYPE: cls
    for cls in (
        *(Rnn, Lstm, Gru, Linear, Conv1d, MaxPool, AveragePool, Embedding),
        *(LayerNorm, RmsNorm, BatchNorm, PRelu, L2Norm, Softmax, LogSoftmax, Pad, Magnitude),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What stands before the first [[layer]]."""

    layer: tuple[dict[str, Any], ...]
    layout: Framework | None = None
    prefix: str | None = None
    input: Count | None = None
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """A checked description: `head` and the layers in order; `text` is where they stand."""

    text: Text
    head: Head
    layers: tuple[Layer, ...]

    def error(self, layer: int, key: str, problem: str) -> ConfigError:
        """An error about a key of the layer of this number, from 0."""
        return self.text.error(("layer", layer, key), problem)


def described(text: Text) -> Description:
    """The description in a TOML text. Raises ConfigError: `file:line: [layer.2] key: ...`."""
    head = read_table(Head, text.parse(), text, Path())
    if not head.layer:
        raise text.error(("layer",), "is empty, expected a [[layer]] for each layer in order")
    return Description(text, head, tuple(_layer(text, i, t) for i, t in enumerate(head.layer)))


def _layer(text: Text, i: int, table: dict[str, Any]) -> Layer:
    kind, keys = table.get("type", ""), {k: v for k, v in table.items() if k != "type"}
    if kind in LAYERS:
        return read_table(LAYERS[kind], keys, text, Path(), ("layer", i))
    if kind in ACTS and not keys:
        return Activation(act=kind)
    if kind in ACTS:
        raise text.error(("layer", i, min(keys)), f"unknown: {kind} takes no keys")
    known = ", ".join((*LAYERS, *ACTS))
    raise text.error(("layer", i, "type"), f"is {kind!r}; allowed: {known}")
