"""How each framework lays out a recurrent cell, and how that becomes ours.

A wrong gate order, bias or activation converts without an error and computes something else, so
all of them are written here, once. Sources: the Keras cells' `call` (`keras/src/layers/rnn`) and
the ONNX operator specification (`LSTM`, `GRU`, `RNN`), the equations of `torch.nn.LSTM` and `GRU`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.activations import TUNED, of, tuned
from edge_rnn.graph import F32, Act, CoupledLstm, Gru, Lstm, Matrix, Rnn

Framework: TypeAlias = Literal["keras", "onnx", "pytorch"]
Kind: TypeAlias = Literal["rnn", "lstm", "gru"]

OURS: dict[Kind, str] = {"rnn": "h", "lstm": "ifgo", "gru": "zrn"}
"""Our order of the gate blocks: g is the LSTM's candidate (Keras and ONNX call it c), n the GRU's
(Keras and ONNX call it h)."""

ORDER: dict[tuple[Framework, Kind], str] = {
    ("keras", "rnn"): "h",
    ("keras", "lstm"): "ifgo",
    ("keras", "gru"): "zrn",
    ("onnx", "rnn"): "h",
    ("onnx", "lstm"): "iofg",
    ("onnx", "gru"): "zrn",
    ("pytorch", "rnn"): "h",
    ("pytorch", "lstm"): "ifgo",
    ("pytorch", "gru"): "rzn",
}
"""The order of the gate blocks in a framework's files."""

PEEPHOLES: dict[Framework, str] = {"onnx": "iof"}
"""The order of the peepholes in a framework's files; ours is i, f, o, of coupled gates i, o."""

_COMMON: dict[str, Act] = {
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "softsign": "softsign",
}
_KERAS: dict[str, Act] = {
    **_COMMON,
    "linear": "linear",
    "relu6": "relu6",
    "silu": "silu",
    "swish": "silu",
    "elu": "elu",
    "celu": "elu",
    "selu": "selu",
    "gelu": "gelu",
    "softplus": "softplus",
    "mish": "mish",
    "hard_silu": "hard_swish",
    "hard_swish": "hard_swish",
    "hard_tanh": "hard_tanh",
    "exponential": "exponential",
    "log_sigmoid": "log_sigmoid",
}
_KERAS_HARD_SIGMOID: dict[int, Act] = {2: "hard_sigmoid_keras2", 3: "hard_sigmoid_relu6"}
KERAS_ACTS = (*_KERAS, "hard_sigmoid")
_ONNX_TUNED = {
    "affine": "affine",
    "elu": "elu",
    "hardsigmoid": "hard_sigmoid",
    "leakyrelu": "leaky_relu",
    "scaledtanh": "scaled_tanh",
    "thresholdedrelu": "thresholded_relu",
}
ONNX_ACTS = (
    *("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus", "HardSigmoid", "Affine", "Elu"),
    *("LeakyRelu", "ScaledTanh", "ThresholdedRelu"),
)
ONNX_PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "affine": (1.0, 0.0),
    "elu": (1.0, None),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01, None),
    "scaledtanh": (1.0, 1.0),
    "thresholdedrelu": (1.0, None),
}
"""Defaults of alpha and beta of the ONNX activations that take them; None: it takes none."""


def keras_act(name: str, major: int) -> Act | None:
    """Our name of a Keras activation; `major` is the Keras that wrote the file. None: we lack it.

    `hard_sigmoid` is clip(0.2 x + 0.5, 0, 1) in Keras 2 and relu6(x + 3) / 6 in Keras 3.
    """
    return _KERAS_HARD_SIGMOID.get(major) if name == "hard_sigmoid" else _KERAS.get(name)


def onnx_act(name: str, alpha: float, beta: float) -> Act | None:
    """Ours of an ONNX activation, alpha and beta its parameters if it has any (see
    ONNX_PARAMETERS). None: we lack it. Raises ModelError where they are not finite."""
    name = name.lower()
    if name == "hardsigmoid" and beta == 0.5:
        near: dict[float, Act] = {0.2: "hard_sigmoid_keras2", 1 / 6: "hard_sigmoid_relu6"}
        for a, act in near.items():
            if abs(alpha - a) < 1e-6:
                return act
    usual: dict[tuple[str, float, float], Act] = {
        ("affine", 1, 0): "linear", ("scaledtanh", 1, 1): "tanh", ("elu", 1, 0): "elu",
    }  # fmt: skip
    if name not in _ONNX_TUNED:
        return "softplus" if name == "softplus" else _COMMON.get(name)
    if (name, alpha, beta) in usual:
        return usual[name, alpha, beta]
    ours = _ONNX_TUNED[name]
    return tuned(ours, *(alpha, beta)[: TUNED[ours]])


def onnx_form(name: str) -> str:
    """What the manual says of an activation of ONNX_ACTS: ours, with the numbers it takes."""
    ours = _ONNX_TUNED.get(name.lower())
    if ours is None:
        return str(onnx_act(name, 0, 0))
    return f"{ours}({', '.join(('alpha', 'beta')[: TUNED[ours]])})"


def clipped(act: Act, clip: float | None) -> Act:
    """The activation of sums held inside [-clip, clip], which ONNX's cells do to the complete sums
    of their gates and candidates, peepholes with them; None or 0: no clip."""
    return of(act, tuned("clip", -clip, clip)) if clip else act


_TFLITE: tuple[Act | None, ...] = ("linear", "relu", "hard_tanh", "relu6", "tanh")


def tflite_act(number: int) -> Act | None:
    """Our name of a TFLite ActivationFunctionType. None: we lack it."""
    return _TFLITE[number] if 0 <= number < len(_TFLITE) else None


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A cell as its framework keeps it, k gate blocks in the framework's order.

    w (kH, I), u (kH, H); both biases (kH,), zeros where the framework has none. `peephole` (3H,)
    are those of an LSTM, in the order of PEEPHOLES, and so is `projection` (R, H).
    """

    framework: Framework
    w: F32
    u: F32
    input_bias: F32
    recurrent_bias: F32
    peephole: F32 | None = None
    projection: F32 | None = None


def keras_biases(bias: F32, blocks: int) -> tuple[F32, F32]:
    """(input, recurrent) bias of a Keras cell: (blocks,) is the input's; (2, blocks) is both,
    as a GRU with reset_after keeps them."""
    both = bias if bias.ndim == 2 else np.stack([bias, np.zeros(blocks, np.float32)])
    return both[0], both[1]


def cudnn_cell(w: F32, u: F32, b: F32, blocks: int) -> Cell:
    """A CuDNNLSTM's or CuDNNGRU's weights as Keras keeps them, w (I, kH), u (H, kH), b (2kH,).

    Each block of w and u is what cuDNN wants, the transposed of Keras's own, in Keras's shape;
    b is the input's bias then the recurrent one (`_convert_rnn_weights` of Keras 2).
    """
    kernels = [block.reshape(-1, len(w)) for block in np.split(w, blocks, axis=1)]
    recurrent = np.split(u, blocks, axis=1)
    return Cell("keras", np.concatenate(kernels), np.concatenate(recurrent), *np.split(b, 2))


def onnx_biases(bias: F32, blocks: int) -> tuple[F32, F32]:
    """(input, recurrent) bias of an ONNX cell: B (2 blocks,) is Wb then Rb."""
    return bias[:blocks], bias[blocks:]


def reorder(
    a: NDArray[np.float32], framework: Framework, kind: Kind, to: Framework | None = None
) -> F32:
    """Gate blocks along the first axis, from the framework's order to another's, or ours."""
    blocks = dict(zip(ORDER[framework, kind], np.split(a, len(OURS[kind])), strict=True))
    wanted = OURS[kind] if to is None else ORDER[to, kind]
    return np.ascontiguousarray(np.concatenate([blocks[gate] for gate in wanted]))


def rnn(name: str, source: str, cell: Cell, act: Act) -> Rnn:
    """Our node; both biases are just added, so they become one."""
    return Rnn(name, source, *_matrices(cell, "rnn"), _summed(cell, "rnn"), act)


def lstm(
    name: str,
    source: str,
    cell: Cell,
    gate: Act,
    candidate: Act,
    hidden: Act,
    coupled: bool = False,
) -> Lstm:
    """Our node; both biases are just added, so they become one. `coupled`: f = 1 - i, whatever
    the file has for f."""
    w, u = _matrices(cell, "lstm")
    b, look = _summed(cell, "lstm"), _peephole(cell, "io" if coupled else "ifo")
    if not coupled:
        p = None if cell.projection is None else Matrix(cell.projection)
        return Lstm(name, source, w, u, b, gate, candidate, hidden, peephole=look, projection=p)
    w, u = (Matrix(_without_forget(m.data)) for m in (w, u))
    return CoupledLstm(
        name, source, w, u, _without_forget(b), gate, candidate, hidden, peephole=look
    )


def _without_forget(a: NDArray[np.float32]) -> F32:
    """The rows of i, g and o out of those of i, f, g and o."""
    i, _, g, o = np.split(a, 4)
    return np.ascontiguousarray(np.concatenate([i, g, o]))


def _peephole(cell: Cell, order: str) -> F32 | None:
    if cell.peephole is None:
        return None
    parts = dict(zip(PEEPHOLES[cell.framework], np.split(cell.peephole, 3), strict=True))
    return np.ascontiguousarray(np.concatenate([parts[gate] for gate in order]))


def gru(
    name: str,
    source: str,
    cell: Cell,
    reset: Literal["before", "after"],
    gate: Act,
    candidate: Act,
) -> Gru:
    """Our node. The candidate's recurrent bias stays apart where r multiplies it: reset "after"."""
    b, rb = _summed(cell, "gru"), np.zeros(cell.u.shape[1], np.float32)
    if reset == "after":
        H = len(rb)
        b[2 * H :] = reorder(cell.input_bias, cell.framework, "gru")[2 * H :]
        rb = reorder(cell.recurrent_bias, cell.framework, "gru")[2 * H :]
    return Gru(name, source, *_matrices(cell, "gru"), b, rb, reset, gate, candidate)


def _matrices(cell: Cell, kind: Kind) -> tuple[Matrix, Matrix]:
    w, u = (Matrix(reorder(a, cell.framework, kind)) for a in (cell.w, cell.u))
    return w, u


def _summed(cell: Cell, kind: Kind) -> F32:
    return reorder(cell.input_bias + cell.recurrent_bias, cell.framework, kind)
