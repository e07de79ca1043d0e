"""PyTorch's recurrent operators, as ONNX's: a layer and a direction each.

Arguments as in `aten/src/ATen/native/native_functions.yaml`; the layout of the weights is that of
`torch.nn.LSTM`, `GRU` and `RNN`: for each layer and direction w_ih, w_hh, then b_ih, b_hh where
there are biases, then w_hr where there is a projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_rnn_converters import gates
from edge_rnn_converters.torch.build import AtenOperators, Builder
from edge_rnn_converters.torch.program import Step, Tensor

operator = AtenOperators()

_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru": {"linear_before_reset": 1},
    "rnn_tanh": {},
    "rnn_relu": {"activations": ["Relu"]},
}


@dataclass(frozen=True, slots=True, eq=False)
class _Weights:
    """One layer in one direction, in PyTorch's layout; w (kH, I), u (kH, R), biases (kH,)."""

    w: Any
    u: Any
    input_bias: Any
    recurrent_bias: Any
    projection: Any = None


def _kind(name: str) -> gates.Kind:
    return "rnn" if name.startswith("rnn") else "lstm" if name == "lstm" else "gru"


@operator(
    "lstm.input gru.input rnn_tanh.input rnn_relu.input",
    "layers, both directions (in window mode), `batch_first`, `proj_size`, with or without biases; "
    "dropout is dropped",
)
def _layers(g: Builder, op: Step) -> list[str]:
    a, name = op.arguments, op.target.split(".")[1]
    if a["train"] and a["dropout"]:
        raise op.refuse("train", "is on", "call eval() on the model before saving it")
    x, batched = g.value(a["input"]), len(a["input"].shape) == 3
    if not batched:
        x = g("Unsqueeze", x, g.indices(1))
    elif a["batch_first"]:
        x = g("Transpose", x, perm=[1, 0, 2])
    directions = 2 if a["bidirectional"] else 1
    weights = list(_weights(op))
    initial = [_Initial.of(g, t, batched) for t in _states(a["hx"])]
    finals: list[list[str]] = [[] for _ in initial]
    for layer in range(a["num_layers"]):
        own = weights[layer * directions : (layer + 1) * directions]
        states = [i.layer(g, layer * directions, directions) for i in initial]
        x, *last = _layer(g, op, name, x, own, states)
        for kept, value in zip(finals, last, strict=True):
            kept.append(value)
    if not batched:
        x = g("Squeeze", x, g.indices(1))
    elif a["batch_first"]:
        x = g("Transpose", x, perm=[1, 0, 2])
    return [x, *(_stacked(g, values, batched, directions) for values in finals)]


def _states(hx: Any) -> list[Tensor]:
    return hx if isinstance(hx, list) else [hx]


@dataclass(frozen=True, slots=True)
class _Initial:
    """The initial states of all layers; "" for zeros."""

    value: str

    @staticmethod
    def of(g: Builder, tensor: Tensor, batched: bool) -> _Initial:
        if tensor.array is not None and not np.any(tensor.array):
            return _Initial("")
        value = g.value(tensor)
        return _Initial(value if batched else g("Unsqueeze", value, g.indices(1)))

    def layer(self, g: Builder, first: int, count: int) -> str:
        if not self.value:
            return ""
        ends = g.indices(first), g.indices(first + count), g.indices(0)
        return g("Slice", self.value, *ends)


def _stacked(g: Builder, values: Sequence[str], batched: bool, directions: int) -> str:
    joined = values[0] if len(values) == 1 else g("Concat", *values, axis=0)
    if not batched:
        return g("Squeeze", joined, g.indices(1))
    if directions == 1:
        g.parts[joined] = list(values)
    return joined


def _weights(op: Step) -> Iterator[_Weights]:
    """Each layer's weights, its directions one after the other."""
    a = op.arguments
    params = [_array(op, p) for p in a["params"]]
    parts = a["num_layers"] * (2 if a["bidirectional"] else 1)
    size = len(params) // parts
    for part in range(parts):
        w, u, *rest = params[part * size : (part + 1) * size]
        none = np.zeros(len(w), np.float32)
        biases = rest[:2] if a["has_biases"] else (none, none)
        yield _Weights(w, u, *biases, *rest[2 if a["has_biases"] else 0 :])


def _array(op: Step, tensor: Tensor) -> Any:
    if tensor.array is None:
        why = "is computed from the model's input"
        raise op.refuse(f"weight {tensor.name!r}", why, "use weights that are fixed")
    return tensor.array


def _layer(
    g: Builder, op: Step, name: str, x: str, weights: Sequence[_Weights], states: Sequence[str]
) -> list[str]:
    """(y (T, B, directions R), h, and c of an LSTM) of a layer on x (T, B, I)."""
    kind, count = _kind(name), len(weights)
    w, u = (np.stack([gates.reorder(a, "pytorch", kind, to="onnx") for a in parts])
            for parts in zip(*((p.w, p.u) for p in weights), strict=True))  # fmt: skip
    bias = np.stack([np.concatenate([gates.reorder(b, "pytorch", kind, to="onnx")
                     for b in (p.input_bias, p.recurrent_bias)]) for p in weights])  # fmt: skip
    attributes = {**_ATTRIBUTES[name], "hidden_size": w.shape[1] // len(gates.OURS[kind])}
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * count
    if count == 2:
        attributes["direction"] = "bidirectional"
    inputs = [x, g.constant(w), g.constant(u), g.constant(bias), "", *states]
    if weights[0].projection is not None:
        inputs += ["", g.constant(np.stack([p.projection for p in weights]))]
    y, *last = g.several(kind.upper(), 3 if kind == "lstm" else 2, *inputs, **attributes)
    if count == 1:
        return [g("Squeeze", y, g.indices(1)), *last]
    swapped = g("Transpose", y, perm=[0, 2, 1, 3])
    return [g("Reshape", swapped, g.indices(0, 0, -1)), *last]


@operator("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
          "one step, its state an input and an output, or kept by the module")  # fmt: skip
def _cell(g: Builder, op: Step) -> list[str]:
    """A cell is a layer on one step: x (1, B, I)."""
    a, name = op.arguments, op.target.split(".")[1].removesuffix("_cell")
    if a["w_hh"].name in g.loops:
        return _EQUATIONS[_kind(name)](g, op)
    w, u = (_array(op, a[n]) for n in ("w_ih", "w_hh"))
    none = np.zeros(len(w), np.float32)
    biases = (none if a[n] is None else _array(op, a[n]) for n in ("b_ih", "b_hh"))
    x = g("Unsqueeze", g.value(a["input"]), g.indices(0))
    states = [
        "" if t.array is not None and not np.any(t.array)
        else g("Unsqueeze", g.value(t), g.indices(0))
        for t in _states(a["hx"])
    ]  # fmt: skip
    _, *last = _layer(g, op, name, x, [_Weights(w, u, *biases)], states)
    return [g("Squeeze", value, g.indices(0)) for value in last]


# A loop that is written out is recognised by its steps' equations, which are then proven; an
# operator for each step would be as many layers.


def _sums(g: Builder, op: Step) -> list[str]:
    """What a cell computes of its input, and of its state h."""
    a = op.arguments
    both = ((a["input"], "ih"), (_states(a["hx"])[0], "hh"))
    return [
        g("Gemm", g.value(t), *(g.value(a[f"{n}_{of}"]) for n in "wb"), transB=1) for t, of in both
    ]


def _lstm_equations(g: Builder, op: Step) -> list[str]:
    parts = g.several("Split", 4, g("Add", *_sums(g, op)), axis=1, num_outputs=4)
    i, f, o = (g("Sigmoid", parts[k]) for k in (0, 1, 3))
    kept = g("Mul", f, g.value(_states(op.arguments["hx"])[1]))
    c = g("Add", kept, g("Mul", i, g("Tanh", parts[2])))
    return [g("Mul", o, g("Tanh", c)), c]


def _gru_equations(g: Builder, op: Step) -> list[str]:
    xs, hs = (g.several("Split", 3, s, axis=1, num_outputs=3) for s in _sums(g, op))
    r, z = (g("Sigmoid", g("Add", xs[k], hs[k])) for k in (0, 1))
    n = g("Tanh", g("Add", xs[2], g("Mul", r, hs[2])))
    before = g.value(_states(op.arguments["hx"])[0])
    return [g("Add", n, g("Mul", z, g("Sub", before, n)))]


def _rnn_equations(g: Builder, op: Step) -> list[str]:
    return [g("Relu" if "relu" in op.target else "Tanh", g("Add", *_sums(g, op)))]


_EQUATIONS = {"lstm": _lstm_equations, "gru": _gru_equations, "rnn": _rnn_equations}
