"""What a model is: frozen nodes in topological order over named values.

A node declares the shape of each of its tensors, its state and its output in symbols
(`I` is the width of its input); validation, the model file, parameter counts and the
compiler all read these declarations, so that a new node is declared in one place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import ModelError

F32: TypeAlias = NDArray[np.float32]

Act: TypeAlias = Literal[
    "linear",
    "relu",
    "relu6",
    "tanh",
    "sigmoid",
    "softsign",
    "silu",
    "hard_sigmoid_keras2",
    "hard_sigmoid_relu6",
]
"""Element-wise activations. The two hard sigmoids differ by up to 0.3 and so have two names:
`hard_sigmoid_keras2` is clip(0.2 x + 0.5, 0, 1) (Keras 2, ONNX's default) and
`hard_sigmoid_relu6` is relu6(x + 3) / 6 (PyTorch, Keras 3)."""

Activations: TypeAlias = Literal["float32", "int16", "int8"]
"""What a node's matrices meet. Integers have one unit for a whole vector x, max |x| / 127 for int8
and max |x| / 32512 for int16, where `bound` is 0, else bound / 127 and bound / 32512."""

ACTS: tuple[str, ...] = get_args(Act)
_RANGES: dict[str, float] = {
    "relu6": 6, "tanh": 1, "sigmoid": 1, "softsign": 1, "hard_sigmoid_keras2": 1,
    "hard_sigmoid_relu6": 1,
}  # fmt: skip
"""The largest size of the activations that have one."""

GROUP = 32
"""Inputs that share a scale in a 4-bit matrix."""
MAX_DIM = 1 << 20
MAX_ELEMENTS = 1 << 30
_SYMBOL = re.compile(r"(\d*)([A-Z])")


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A weight matrix (rows, columns), row-major; a row makes one output.

    `data` is float32, float16, int8 in [-127, 127] with one positive float32 `scale` (rows,) a
    row, or 4-bit (as int8 in [-7, 7]) with one for each GROUP of columns, (rows, groups). A weight
    is its number in `data` times its scale.
    """

    data: NDArray[Any]
    scale: F32 | None = None

    def float64(self) -> NDArray[np.float64]:
        """The weights' values, shape (rows, columns)."""
        wide = self.data.astype(np.float64)
        if self.scale is None:
            return wide
        scale = self.scale.astype(np.float64)
        return wide * (self._spread(scale) if self.four_bit else scale[:, None])

    def _spread(self, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.repeat(scale, GROUP, axis=1)[:, : self.data.shape[1]]

    @property
    def four_bit(self) -> bool:
        """True of weights in groups."""
        return self.scale is not None and self.scale.ndim == 2

    def rows(self, start: int, stop: int) -> Matrix:
        """Rows start to stop as a matrix of its own."""
        scale = None if self.scale is None else self.scale[start:stop]
        return Matrix(self.data[start:stop], scale)

    @property
    def nbytes(self) -> int:
        """Bytes of weights and scales in a file."""
        weights = (
            len(self.data) * -(-self.data.shape[1] // 2) if self.four_bit else self.data.nbytes
        )
        return int(weights + (0 if self.scale is None else self.scale.nbytes))


def _tensor(*shape: str) -> Any:
    return field(metadata={"shape": shape})


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A step of the computation: reads the value `input`, makes the value `name`."""

    OP: ClassVar[str]
    OUTPUT: ClassVar[str] = "I"
    STATE: ClassVar[Mapping[str, str]] = {}

    name: str
    input: str


@dataclass(frozen=True, slots=True, eq=False)
class Rnn(Node):
    """Elman RNN: h' = act(W x + U h + b)."""

    OP: ClassVar[str] = "rnn"
    OUTPUT: ClassVar[str] = "H"
    STATE: ClassVar[Mapping[str, str]] = {"h": "H"}

    w: Matrix = _tensor("H", "I")
    u: Matrix = _tensor("H", "H")
    b: F32 = _tensor("H")
    act: Act = "tanh"
    activations: Activations = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class Lstm(Node):
    """LSTM, gate order i, f, g, o; `b` is the sum of both biases some frameworks keep.

    i, f, o = gate(W x + U h + b);  g = cell(W x + U h + b)
    c' = f c + i g;  h' = o hidden(c')
    """

    OP: ClassVar[str] = "lstm"
    OUTPUT: ClassVar[str] = "H"
    STATE: ClassVar[Mapping[str, str]] = {"h": "H", "c": "H"}

    w: Matrix = _tensor("4H", "I")
    u: Matrix = _tensor("4H", "H")
    b: F32 = _tensor("4H")
    gate: Act = "sigmoid"
    cell: Act = "tanh"
    hidden: Act = "tanh"
    activations: Activations = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class Gru(Node):
    """GRU, gate order z, r, n; `rb` is the recurrent bias of the candidate n.

    z, r = gate(W x + U h + b)
    reset "after" the product (cuDNN, PyTorch, ONNX linear_before_reset=1):
        n = candidate(W x + b + r (U h + rb))
    reset "before" the product (Cho et al. 2014, ONNX's default):
        n = candidate(W x + b + U (r h) + rb)
    h' = (1 - z) n + z h
    """

    OP: ClassVar[str] = "gru"
    OUTPUT: ClassVar[str] = "H"
    STATE: ClassVar[Mapping[str, str]] = {"h": "H"}

    w: Matrix = _tensor("3H", "I")
    u: Matrix = _tensor("3H", "H")
    b: F32 = _tensor("3H")
    rb: F32 = _tensor("H")
    reset: Literal["before", "after"] = "after"
    gate: Act = "sigmoid"
    candidate: Act = "tanh"
    activations: Activations = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class Dense(Node):
    """y = act(W x + b)."""

    OP: ClassVar[str] = "dense"
    OUTPUT: ClassVar[str] = "N"

    w: Matrix = _tensor("N", "I")
    b: F32 = _tensor("N")
    act: Act = "linear"
    activations: Activations = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class Embedding(Node):
    """y = table[x]; x is a model input of width 1 that holds an index in [0, V)."""

    OP: ClassVar[str] = "embedding"
    OUTPUT: ClassVar[str] = "D"

    table: Matrix = _tensor("V", "D")


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Node):
    """y = (x - offset) scale + shift: feature normalisation, or its inverse."""

    OP: ClassVar[str] = "scale"

    offset: F32 = _tensor("I")
    scale: F32 = _tensor("I")
    shift: F32 = _tensor("I")


@dataclass(frozen=True, slots=True, eq=False)
class Activation(Node):
    """y = act(x), element-wise."""

    OP: ClassVar[str] = "activation"

    act: Act = "linear"


@dataclass(frozen=True, slots=True, eq=False)
class Softmax(Node):
    """y_i = exp(x_i - max x) / sum_j exp(x_j - max x)."""

    OP: ClassVar[str] = "softmax"


NODES: dict[str, type[Node]] = {
    cls.OP: cls for cls in (Rnn, Lstm, Gru, Dense, Embedding, Scale, Activation, Softmax)
}


@dataclass(frozen=True, slots=True)
class Input:
    """A model input: `width` features of a message."""

    name: str
    width: int


@dataclass(frozen=True, slots=True)
class Feature:
    """The name and unit of one column of a model's input or output."""

    name: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model came from: framework, source file name, its SHA-256, who converted it."""

    framework: str
    source: str
    sha256: str
    converter: str


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A recorded run: `input` (T, I) from a fresh state gives `output` (T, O), bit for bit.

    `digest` is the SHA-256, in hex, of the output's little-endian float32 bytes.
    """

    input: F32
    output: F32
    digest: str


def output_digest(y: F32) -> str:
    """SHA-256 in hex over the bits of y as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(y, "<f4").tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A network: x is the inputs side by side (I columns), y the outputs (O columns)."""

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    features: tuple[Feature, ...] = ()
    targets: tuple[Feature, ...] = ()
    classes: tuple[str, ...] = ()
    rate_hz: float | None = None
    provenance: Provenance | None = None
    probe: Probe | None = None

    @property
    def input_width(self) -> int:
        """I, the columns of x."""
        return sum(i.width for i in self.inputs)

    @property
    def output_width(self) -> int:
        """O, the columns of y."""
        widths = value_widths(self)
        return sum(widths[name] for name in self.outputs)

    @property
    def output_is_probability(self) -> bool:
        """True when y is one softmax over the classes."""
        last = {n.name: n for n in self.nodes}.get(self.outputs[0])
        return len(self.outputs) == 1 and isinstance(last, Softmax)


def tensors(node: Node) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """(field, symbolic shape, Matrix or float32 vector) of each tensor of a node."""
    for f in fields(node):
        if "shape" in f.metadata:
            yield f.name, f.metadata["shape"], getattr(node, f.name)


def attributes(node: Node) -> dict[str, str]:
    """The node's choices: every field that is neither a tensor nor name and input."""
    skip = {"name", "input"}
    return {
        f.name: getattr(node, f.name)
        for f in fields(node)
        if "shape" not in f.metadata and f.name not in skip
    }


def dimensions(node: Node, input_width: int) -> dict[str, int]:
    """The value of each symbol of the node's shapes.

    Raises ModelError, naming node and tensor, where the tensors disagree.
    """
    dims = {"I": input_width}
    for name, symbols, tensor in tensors(node):
        shape = tensor.data.shape if isinstance(tensor, Matrix) else tensor.shape
        if len(shape) != len(symbols) or not all(map(_bind, symbols, shape, [dims] * len(shape))):
            known = ", ".join(f"{k}={v}" for k, v in dims.items())
            raise ModelError(
                f"node {node.name!r}: {name} has shape {tuple(shape)}, "
                f"expected ({', '.join(symbols)}) with {known}"
            )
    return dims


def _bind(symbol: str, size: int, dims: dict[str, int]) -> bool:
    """Give the symbol's letter its value, or check it; "4H" is 4 times H."""
    match = _SYMBOL.fullmatch(symbol)
    assert match is not None, symbol  # noqa: S101 - a node declared wrongly
    factor = int(match[1] or 1)
    return 0 < size <= MAX_DIM and size == factor * dims.setdefault(match[2], size // factor)


def value_widths(model: Model) -> dict[str, int]:
    """The width of every value: inputs and nodes by name. Raises ModelError as `validate`."""
    widths = {i.name: i.width for i in model.inputs}
    for node in model.nodes:
        if node.input not in widths:
            raise ModelError(_unknown_input(model, node))
        widths[node.name] = dimensions(node, widths[node.input])[node.OUTPUT]
    return widths


def _unknown_input(model: Model, node: Node) -> str:
    text = f"node {node.name!r} reads {node.input!r}, "
    if any(n.name == node.input for n in model.nodes):
        return text + "which comes after it: nodes go in order, and a cycle has none"
    return text + f"which nothing makes; inputs: {', '.join(i.name for i in model.inputs)}"


def bound(node: Node, of_input: float = 0.0) -> float:
    """The largest |y| that the node can put out, 0 where there is none that is known.

    `of_input` is its input's. A recurrent cell's is also that of its h.
    """
    match node:
        case Rnn() | Dense() | Activation() if node.act in _RANGES:
            return _RANGES[node.act]
        case Lstm():
            return _RANGES.get(node.gate, 0.0) * _RANGES.get(node.hidden, 0.0)
        case Gru() if _RANGES.get(node.gate) == 1:
            return _RANGES.get(node.candidate, 0.0)
        case Softmax():
            return 1.0
        case Activation(act="linear"):
            return of_input
    return 0.0


def bounds(model: Model) -> dict[str, float]:
    """`bound` of every value by name; of an input, 0."""
    found = {i.name: 0.0 for i in model.inputs}
    for node in model.nodes:
        found[node.name] = bound(node, found[node.input])
    return found


def state_tensors(model: Model) -> list[tuple[str, str, int]]:
    """(node name, state name, width) of every state vector of a stream, in order."""
    widths = value_widths(model)
    return [
        (node.name, name, dimensions(node, widths[node.input])[symbol])
        for node in model.nodes
        for name, symbol in node.STATE.items()
    ]


def multiply_adds(node: Node) -> int:
    """Multiply-adds of one step of the node's matrix products."""
    if isinstance(node, Embedding):
        return 0
    return sum(int(t.data.size) for _, _, t in tensors(node) if isinstance(t, Matrix))


def digest(model: Model) -> str:
    """SHA-256 in hex of what the model computes: structure and weights, not descriptions.

    Two models with the same digest can exchange their streams' states.
    """
    h = hashlib.sha256()
    for i in model.inputs:
        h.update(f"input {i.name} {i.width}\n".encode())
    for node in model.nodes:
        h.update(f"{node.OP} {node.name} {node.input} {attributes(node)}\n".encode())
        for name, _, tensor in tensors(node):
            for part in _parts(tensor):
                h.update(f"{name} {part.dtype} {part.shape}\n".encode())
                h.update(np.ascontiguousarray(part).tobytes())
    h.update(f"outputs {model.outputs}\n".encode())
    return h.hexdigest()


def _parts(tensor: Any) -> list[NDArray[Any]]:
    if not isinstance(tensor, Matrix):
        return [tensor]
    return [tensor.data] if tensor.scale is None else [tensor.data, tensor.scale]
