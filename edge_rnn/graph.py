"""What a model is: frozen nodes in topological order over named values.

A node declares the shape of each of its tensors, its state and its output in symbols
(`I` is the width of its input); validation, the model file, parameter counts and the
compiler all read these declarations, so that a new node is declared in one place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
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
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "softplus",
    "mish",
    "hard_swish",
    "hard_tanh",
    "exponential",
    "log_sigmoid",
    "min_gru",
]
"""Element-wise activations; `docs/format.md` has the equation of each, `reference.activate` the
code. What frameworks call by one name has two here where it differs: the hard sigmoids by up to
0.3, `gelu` (by the normal distribution) and `gelu_tanh` by 5e-4. `silu` is swish, `selu` has the
constants of Klambauer et al. 2017, `min_gru` is g of Feng et al. 2024."""

ACTS: tuple[str, ...] = get_args(Act)
MAX_DIM = 1 << 20
MAX_ELEMENTS = 1 << 30
_SYMBOL = re.compile(r"(\d*)([A-Z])")


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A weight matrix (rows, columns), row-major; a row makes one output.

    `data` is float32, float16, or int8 in [-127, 127] with one positive float32 `scale`
    (rows,) so that the weight is data * scale[:, None].
    """

    data: NDArray[Any]
    scale: F32 | None = None

    def float64(self) -> NDArray[np.float64]:
        """The weights' values, shape (rows, columns)."""
        wide = self.data.astype(np.float64)
        return wide if self.scale is None else wide * self.scale.astype(np.float64)[:, None]

    def rows(self, start: int, stop: int) -> Matrix:
        """Rows start to stop as a matrix of its own."""
        scale = None if self.scale is None else self.scale[start:stop]
        return Matrix(self.data[start:stop], scale)

    @property
    def nbytes(self) -> int:
        """Bytes of weights and scales."""
        return int(self.data.nbytes + (0 if self.scale is None else self.scale.nbytes))


def _tensor(*shape: str) -> Any:
    return field(metadata={"shape": shape})


def _optional(*shape: str) -> Any:
    """A tensor that may be None; what that means its node says."""
    return field(default=None, metadata={"shape": shape, "optional": True})


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A step of the computation: reads the value `input`, makes the value `name`."""

    OP: ClassVar[str]
    OUTPUT: ClassVar[str] = "I"
    STATE: ClassVar[Mapping[str, str]] = {}

    name: str
    input: str

    def same(self) -> Iterable[tuple[str, str, str]]:
        """(symbol, symbol, why) of the dimensions that must be equal besides what shapes say."""
        return ()


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


@dataclass(frozen=True, slots=True, eq=False)
class Lstm(Node):
    """LSTM, gate order i, f, g, o; `b` is the sum of both biases some frameworks keep.

    i, f, o = gate(W x + U h + b);  g = cell(W x + U h + b)
    c' = f c + i g;  h' = o hidden(c')
    with `peephole` (Gers et al. 2000; ONNX, TFLite), p of i, f, o in that order:
        i, f = gate(W x + U h + b + p c);  o = gate(W x + U h + b + p c')
    with `projection` P (Sak et al. 2014; PyTorch's proj_size, TFLite): h' = P (o hidden(c'))
    """

    OP: ClassVar[str] = "lstm"
    OUTPUT: ClassVar[str] = "R"
    STATE: ClassVar[Mapping[str, str]] = {"h": "R", "c": "H"}
    GATES: ClassVar[str] = "ifgo"

    w: Matrix = _tensor("4H", "I")
    u: Matrix = _tensor("4H", "R")
    b: F32 = _tensor("4H")
    gate: Act = "sigmoid"
    cell: Act = "tanh"
    hidden: Act = "tanh"
    peephole: F32 | None = _optional("3H")
    projection: Matrix | None = _optional("R", "H")

    def same(self) -> Iterable[tuple[str, str, str]]:
        """Without a projection h is as wide as c."""
        return () if self.projection is not None else (("R", "H", "without a projection"),)


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


@dataclass(frozen=True, slots=True, eq=False)
class Dense(Node):
    """y = act(W x + b)."""

    OP: ClassVar[str] = "dense"
    OUTPUT: ClassVar[str] = "N"

    w: Matrix = _tensor("N", "I")
    b: F32 = _tensor("N")
    act: Act = "linear"


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


@dataclass(frozen=True, slots=True, eq=False)
class CoupledLstm(Lstm):
    """LSTM whose forget gate is f = 1 - i (Greff et al. 2017; ONNX's input_forget); order i, g, o.

    All else is as in `Lstm`; `peephole` has p of i and o. TFLite couples i = 1 - f: where gate is
    a sigmoid, hard or not, its f's rows, bias and peephole with their signs changed are i's here.
    """

    OP: ClassVar[str] = "lstm_coupled"
    GATES: ClassVar[str] = "igo"

    w: Matrix = _tensor("3H", "I")
    u: Matrix = _tensor("3H", "R")
    b: F32 = _tensor("3H")
    peephole: F32 | None = _optional("2H")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NormLstm(Lstm):
    """Layer-normalised LSTM; norm(v) = (v - mean v) / sqrt(var v + epsilon), var over all of v.

    What stands for W x + U h + b [+ p c] in `Lstm`:
    with `recurrent_gain` (Ba, Kiros and Hinton 2016, eqs. 20-22; tfa's LayerNormLSTMCell), each
        norm over the 4H numbers of all gates: gain norm(W x) + recurrent_gain norm(U h) + b [+ p c]
    without (TFLite, TF 1's LayerNormBasicLSTMCell), each norm over the H numbers of one gate:
        gain norm(W x + U h [+ p c]) + b
    `cell_norm`, a gain and a bias of H each, normalises the new cell: h' = o hidden(norm(c')).
    Where `carried` is "normalised" that is also the c of the next step (tfa, TF 1, PyTorch's
    fastrnns), where it is "raw" it is not (Ba et al.).
    """

    OP: ClassVar[str] = "lstm_norm"

    epsilon: float = 1e-5
    carried: Literal["raw", "normalised"] = "raw"
    gain: F32 = _tensor("4H")
    recurrent_gain: F32 | None = _optional("4H")
    cell_norm: F32 | None = _optional("2H")


@dataclass(frozen=True, slots=True, eq=False)
class NormGru(Node):
    """Layer-normalised GRU, gate order z, r, n, reset after the product; norm as in `NormLstm`.

    z, r = gate(gain norm(W x) + b + recurrent_gain norm(U h))
    n = candidate(gain norm(W x) + b + r (recurrent_gain norm(U h) + rb));  h' = (1 - z) n + z h
    `over` "zr": one norm for z and r, one for n (Ba, Kiros and Hinton 2016, eqs. 29-31; with
    their z as 1 - z); "zrn": one for all three (Haste's LayerNormGRU).
    """

    OP: ClassVar[str] = "gru_norm"
    OUTPUT: ClassVar[str] = "H"
    STATE: ClassVar[Mapping[str, str]] = {"h": "H"}

    w: Matrix = _tensor("3H", "I")
    u: Matrix = _tensor("3H", "H")
    b: F32 = _tensor("3H")
    rb: F32 = _tensor("H")
    gain: F32 = _tensor("3H")
    recurrent_gain: F32 = _tensor("3H")
    over: Literal["zr", "zrn"] = "zr"
    epsilon: float = 1e-5
    gate: Act = "sigmoid"
    candidate: Act = "tanh"


@dataclass(frozen=True, slots=True, eq=False)
class MinGru(Node):
    """minGRU (Feng et al. 2024), gate order z, n: no weights see the state.

    z = gate(W x + b);  n = candidate(W x + b);  h' = (1 - z) h + z n
    The paper's g is the activation `min_gru`; without it the candidate is linear.
    """

    OP: ClassVar[str] = "min_gru"
    OUTPUT: ClassVar[str] = "H"
    STATE: ClassVar[Mapping[str, str]] = {"h": "H"}

    w: Matrix = _tensor("2H", "I")
    b: F32 = _tensor("2H")
    gate: Act = "sigmoid"
    candidate: Act = "linear"


@dataclass(frozen=True, slots=True, eq=False)
class Lru(Node):
    """Linear recurrent unit (Orvieto et al. 2023): a complex diagonal recurrence of width N.

    s' = lambda s + B x;  y = Re(C s') + D x + diagonal x
    The paper's lambda = exp(-exp(nu) + i exp(theta)) is stored as it is, its gamma inside B. D
    and `diagonal`, a D with one number an output, are 0 where they are None.
    """

    OP: ClassVar[str] = "lru"
    OUTPUT: ClassVar[str] = "M"
    STATE: ClassVar[Mapping[str, str]] = {"re": "N", "im": "N"}

    lambda_re: F32 = _tensor("N")
    lambda_im: F32 = _tensor("N")
    b_re: Matrix = _tensor("N", "I")
    b_im: Matrix = _tensor("N", "I")
    c_re: Matrix = _tensor("M", "N")
    c_im: Matrix = _tensor("M", "N")
    d: Matrix | None = _optional("M", "I")
    diagonal: F32 | None = _optional("M")

    def same(self) -> Iterable[tuple[str, str, str]]:
        """A diagonal takes each input to the output of the same number."""
        return () if self.diagonal is None else (("M", "I", "with a diagonal"),)


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm(Node):
    """y = gain (x - mean x) / sqrt(var x + epsilon) + bias, var x = mean (x - mean x)^2.

    As in PyTorch and Keras; without a gain 1 stands for it, without a bias 0.
    """

    OP: ClassVar[str] = "layer_norm"

    gain: F32 = _tensor("I")
    bias: F32 = _tensor("I")
    epsilon: float = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class RmsNorm(Node):
    """y = gain x / sqrt(mean x^2 + epsilon) (Zhang and Sennrich 2019; PyTorch and Keras)."""

    OP: ClassVar[str] = "rms_norm"

    gain: F32 = _tensor("I")
    epsilon: float = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class L2Norm(Node):
    """y = x / max(sqrt(sum x^2), epsilon), as PyTorch's normalize and Keras' UnitNormalization.

    TensorFlow's l2_normalize puts its epsilon under the root: its square root is this one.
    """

    OP: ClassVar[str] = "l2_norm"

    epsilon: float = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class LogSoftmax(Node):
    """y_i = x_i - max x - log sum_j exp(x_j - max x)."""

    OP: ClassVar[str] = "log_softmax"


@dataclass(frozen=True, slots=True, eq=False)
class PRelu(Node):
    """y = x where x > 0, else slope x (He et al. 2015); one slope in all places: leaky ReLU."""

    OP: ClassVar[str] = "prelu"

    slope: F32 = _tensor("I")


NODES: dict[str, type[Node]] = {
    cls.OP: cls
    for cls in (
        *(Rnn, Lstm, Gru, Dense, Embedding, Scale, Activation, Softmax),
        *(CoupledLstm, NormLstm, NormGru, MinGru, Lru),
        *(LayerNorm, RmsNorm, L2Norm, LogSoftmax, PRelu),
    )
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
    """(field, symbolic shape, Matrix or float32 vector) of each tensor that a node has."""
    for f in fields(node):
        if "shape" in f.metadata and not _absent(f, getattr(node, f.name)):
            yield f.name, f.metadata["shape"], getattr(node, f.name)


def _absent(f: Field[Any], tensor: Any) -> bool:
    return tensor is None and f.metadata.get("optional", False)


def attributes(node: Node) -> dict[str, Any]:
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
        if tensor is None:
            raise ModelError(f"node {node.name!r}: {name} is missing")
        shape = tensor.data.shape if isinstance(tensor, Matrix) else tensor.shape
        if len(shape) != len(symbols) or not all(map(_bind, symbols, shape, [dims] * len(shape))):
            known = ", ".join(f"{k}={v}" for k, v in dims.items())
            raise ModelError(
                f"node {node.name!r}: {name} has shape {tuple(shape)}, "
                f"expected ({', '.join(symbols)}) with {known}"
            )
    for a, b, why in node.same():
        if dims[a] != dims[b]:
            raise ModelError(
                f"node {node.name!r}: {why} {a} must equal {b}, got {a}={dims[a]}, {b}={dims[b]}"
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
