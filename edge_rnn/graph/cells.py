"""Recurrent cells: the common ones, then coupled, layer-normalised, minimal and linear ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from edge_rnn.activations import Act
from edge_rnn.errors import ModelError
from edge_rnn.graph.node import (
    F32,
    MAX_EPSILON,
    Activations,
    Matrix,
    Node,
    number,
    optional,
    tensor,
)


@dataclass(frozen=True, slots=True, eq=False)
class Rnn(Node):
    """Elman RNN: h' = act(W x + U h + b)."""

    OP: ClassVar[str] = "rnn"
    OUTPUT: ClassVar[str] = "H"
    STATE: ClassVar[Mapping[str, str]] = {"h": "H"}

    w: Matrix = tensor("H", "I")
    u: Matrix = tensor("H", "H")
    b: F32 = tensor("H")
    act: Act = "tanh"
    activations: Activations = "float32"
    initial_h: F32 | None = optional("H")


@dataclass(frozen=True, slots=True, eq=False)
class Lstm(Node):
    """LSTM, gate order i, f, g, o; `b` is the sum of both biases some frameworks keep.

    i, f, o = gate(W x + U h + b);  g = cell(W x + U h + b)
    c' = f c + i g;  h' = o hidden(c')
    with `peephole` (Gers et al. 2000; ONNX, TFLite), p of i, f, o in that order:
        i, f = gate(W x + U h + b + p c);  o = gate(W x + U h + b + p c')
    with `projection` P (Sak et al. 2014; PyTorch's proj_size, TFLite): h' = P (o hidden(c')),
        plus `projection_bias` if there is one
    with `cell_clip` or `projection_clip` k (TFLite): c' or the projected h' is held inside [-k, k]
        where it is made, so that all that reads it sees it so
    """

    OP: ClassVar[str] = "lstm"
    OUTPUT: ClassVar[str] = "R"
    STATE: ClassVar[Mapping[str, str]] = {"h": "R", "c": "H"}
    GATES: ClassVar[str] = "ifgo"

    w: Matrix = tensor("4H", "I")
    u: Matrix = tensor("4H", "R")
    b: F32 = tensor("4H")
    gate: Act = "sigmoid"
    cell: Act = "tanh"
    hidden: Act = "tanh"
    activations: Activations = "float32"
    peephole: F32 | None = optional("3H")
    projection: Matrix | None = optional("R", "H")
    projection_bias: F32 | None = optional("R")
    cell_clip: F32 | None = optional("1")
    projection_clip: F32 | None = optional("1")
    initial_h: F32 | None = optional("R")
    initial_c: F32 | None = optional("H")

    def sizes(self, *widths: int) -> dict[str, int]:
        """Raises ModelError for an option of a projection that is not there."""
        for name in ("projection_bias", "projection_clip"):
            if self.projection is None and getattr(self, name) is not None:
                raise ModelError(f"node {self.name!r}: {name} without a projection")
        return {"I": widths[0]}

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

    w: Matrix = tensor("3H", "I")
    u: Matrix = tensor("3H", "H")
    b: F32 = tensor("3H")
    rb: F32 = tensor("H")
    reset: Literal["before", "after"] = "after"
    gate: Act = "sigmoid"
    candidate: Act = "tanh"
    activations: Activations = "float32"
    initial_h: F32 | None = optional("H")


@dataclass(frozen=True, slots=True, eq=False)
class CoupledLstm(Lstm):
    """LSTM whose forget gate is f = 1 - i (Greff et al. 2017; ONNX's input_forget); order i, g, o.

    All else is as in `Lstm`; `peephole` has p of i and o. TFLite couples i = 1 - f: where gate is
    a sigmoid, hard or not, its f's rows, bias and peephole with their signs changed are i's here.
    """

    OP: ClassVar[str] = "lstm_coupled"
    GATES: ClassVar[str] = "igo"

    w: Matrix = tensor("3H", "I")
    u: Matrix = tensor("3H", "R")
    b: F32 = tensor("3H")
    peephole: F32 | None = optional("2H")


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

    epsilon: float = number(0.0, MAX_EPSILON, 1e-5)
    carried: Literal["raw", "normalised"] = "raw"
    gain: F32 = tensor("4H")
    recurrent_gain: F32 | None = optional("4H")
    cell_norm: F32 | None = optional("2H")


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

    w: Matrix = tensor("3H", "I")
    u: Matrix = tensor("3H", "H")
    b: F32 = tensor("3H")
    rb: F32 = tensor("H")
    gain: F32 = tensor("3H")
    recurrent_gain: F32 = tensor("3H")
    over: Literal["zr", "zrn"] = "zr"
    epsilon: float = number(0.0, MAX_EPSILON, 1e-5)
    gate: Act = "sigmoid"
    candidate: Act = "tanh"
    activations: Activations = "float32"
    initial_h: F32 | None = optional("H")


@dataclass(frozen=True, slots=True, eq=False)
class MinGru(Node):
    """minGRU (Feng et al. 2024), gate order z, n: no weights see the state.

    z = gate(W x + b);  n = candidate(W x + b);  h' = (1 - z) h + z n
    The paper's g is the activation `min_gru`; without it the candidate is linear.
    """

    OP: ClassVar[str] = "min_gru"
    OUTPUT: ClassVar[str] = "H"
    STATE: ClassVar[Mapping[str, str]] = {"h": "H"}

    w: Matrix = tensor("2H", "I")
    b: F32 = tensor("2H")
    gate: Act = "sigmoid"
    candidate: Act = "linear"
    activations: Activations = "float32"
    initial_h: F32 | None = optional("H")


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

    lambda_re: F32 = tensor("N")
    lambda_im: F32 = tensor("N")
    b_re: Matrix = tensor("N", "I")
    b_im: Matrix = tensor("N", "I")
    c_re: Matrix = tensor("M", "N")
    c_im: Matrix = tensor("M", "N")
    activations: Activations = "float32"
    d: Matrix | None = optional("M", "I")
    diagonal: F32 | None = optional("M")

    def same(self) -> Iterable[tuple[str, str, str]]:
        """A diagonal takes each input to the output of the same number."""
        return () if self.diagonal is None else (("M", "I", "with a diagonal"),)
