"""TFLite's recurrent operators: a whole layer, or one step of it, in one operator.

Source of their equations: LiteRT's kernels (`tflite/kernels/lstm_eval.cc`, `basic_rnn.cc`,
`bidirectional_sequence_lstm.cc`). Their states are tensors that keep their values from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edge_rnn.graph import F32, CoupledLstm, Lstm, Matrix, Node, NormLstm, Rnn
from edge_rnn_converters import gates
from edge_rnn_converters.refused import UNKNOWN
from edge_rnn_converters.tflite.file import Operator
from edge_rnn_converters.tflite.translate import END, Translation, operator

NORM_EPSILON = 1e-8
"""LiteRT's `kNormalizationConstant` (`tensor_utils`' MeanStddevNormalization)."""

_WEIGHTS = range(1, 18)
"""Where UNIDIRECTIONAL_SEQUENCE_LSTM has, in this order: the input's weights of i, f, g, o; the
recurrent ones; the peepholes of i, f, o; the biases; the projection and its bias. An input gate
that is left out is 1 - f."""
_GAINS = range(20, 24)
_LSTM_DOC = "peepholes, projection, layer normalisation, coupled gates, clipping"


@operator("UNIDIRECTIONAL_SEQUENCE_LSTM", _LSTM_DOC)
def _sequence_lstm(t: Translation, o: Operator) -> None:
    node = _lstm(t, o, _WEIGHTS, _GAINS)
    _run(t, o, t.name(o.inputs[0]), node, (18, 19), t.name(o.outputs[0]))


@operator("LSTM", f"one step; {_LSTM_DOC}")
def _one_lstm(t: Translation, o: Operator) -> None:
    if o.options.get("kernelType"):
        _basic_lstm(t, o)
        return
    node = _lstm(t, o, _WEIGHTS, _GAINS)
    _one_step(t, o, node, (18, 19))


@operator("UNIDIRECTIONAL_SEQUENCE_RNN")
def _sequence_rnn(t: Translation, o: Operator) -> None:
    _run(t, o, t.name(o.inputs[0]), _rnn(t, o, range(1, 4)), (4,), t.name(o.outputs[0]))


@operator("RNN", "one step")
def _one_rnn(t: Translation, o: Operator) -> None:
    _one_step(t, o, _rnn(t, o, range(1, 4)), (4,))


@operator("BIDIRECTIONAL_SEQUENCE_LSTM", "in windows")
def _both_lstm(t: Translation, o: Operator) -> None:
    _refuse_auxiliary(t, o, range(39, 48))
    nodes = [_lstm(t, o, range(start, start + 17), ()) for start in (1, 18)]
    _both(t, o, nodes)


@operator("BIDIRECTIONAL_SEQUENCE_RNN", "in windows")
def _both_rnn(t: Translation, o: Operator) -> None:
    _refuse_auxiliary(t, o, range(9, 12))
    _both(t, o, [_rnn(t, o, range(start, start + 3)) for start in (1, 5)])


def _refuse_auxiliary(t: Translation, o: Operator, inputs: Sequence[int]) -> None:
    if any(i < len(o.inputs) and o.inputs[i] >= 0 for i in inputs):
        raise t.refuse(o, "auxiliary input", *UNKNOWN)


def _both(t: Translation, o: Operator, nodes: Sequence[Node]) -> None:
    """Forward, and over the reversed steps; each window starts both from zeros."""
    merged = bool(o.options.get("mergeOutputs"))
    axis = 0 if o.options.get("timeMajor") else 1
    x = t.name(o.inputs[0])
    forward = t.names.unique(f"{t.label(o)} forward") if merged else t.name(o.outputs[0])
    backward = t.names.unique(f"{t.label(o)} backward") if merged else t.name(o.outputs[1])
    _run(t, o, x, nodes[0], (), forward)
    turned = t.names.unique(f"{t.label(o)} turned")
    _run(t, o, _turned(t, o, x, axis), nodes[1], (), turned)
    t.op(o, "Identity", _turned(t, o, turned, axis), to=[backward])
    if merged:
        t.op(o, "Concat", forward, backward, to=[t.name(o.outputs[0])], axis=2)


def _turned(t: Translation, o: Operator, x: str, axis: int) -> str:
    cut = [t.constant([v]) for v in (-1, -END, axis, -1)]
    return t.op(o, "Slice", x, *cut)


def _run(t: Translation, o: Operator, x: str, node: Node, states: Sequence[int], y: str) -> None:
    """The layer; `states` are the inputs that keep its states."""
    layout = 0 if o.options.get("timeMajor") else 1
    before = [t.name(o.inputs[i]) for i in states]
    after = [t.names.unique(f"{name} after") for name in before]
    t.op(o, "edge_rnn.Cell", x, *([""] * 4), *before, to=[y, *after], node=node, layout=layout)
    for i, name, following in zip(states, before, after, strict=True):
        shape = tuple(1 if n is None else n for n in t.tensor(o.inputs[i]).shape)
        t.variables[name] = (following, shape)


def _one_step(t: Translation, o: Operator, node: Node, states: Sequence[int]) -> None:
    """(batch, I) is a sequence of one step."""
    x = t.op(o, "Unsqueeze", t.name(o.inputs[0]), t.constant([1]))
    y = t.names.unique(f"{t.label(o)} step")
    _run(t, o, x, node, states, y)
    t.op(o, "Squeeze", y, t.constant([1]), to=[t.name(o.outputs[0])])


def _rnn(t: Translation, o: Operator, where: Sequence[int]) -> Rnn:
    w, u, b = (
        _weights(t, o, i, n)
        for i, n in zip(where, ("weights", "recurrent weights", "bias"), strict=True)
    )
    return Rnn("", "", Matrix(w), Matrix(u), b, _activation(t, o))


def _activation(t: Translation, o: Operator) -> Any:
    number = int(o.options.get("fusedActivationFunction", 0))
    act = gates.tflite_act(number)
    if act is None:
        raise t.refuse(o, f"fused activation {number}", *UNKNOWN)
    return act


def _weights(t: Translation, o: Operator, index: int, what: str) -> F32:
    return np.ascontiguousarray(t.known(o, index, what), np.float32)


def _there(o: Operator, index: int) -> bool:
    return index < len(o.inputs) and o.inputs[index] >= 0


def _lstm(t: Translation, o: Operator, where: Sequence[int], gains: Sequence[int]) -> Lstm:
    """The node of a layer whose weights are the inputs `where`."""
    coupled = not _there(o, where[0])
    blocks = _blocks(t, o, where, "fgo" if coupled else "ifgo")
    looks = _looks(t, o, where[8:11])
    if coupled:
        blocks, looks = _as_input_gate(blocks), _as_input_gate(looks)
    order = CoupledLstm.GATES if coupled else Lstm.GATES
    w, u, b = (np.concatenate([blocks[g][k] for g in order]) for k in range(3))
    act = _activation(t, o)
    more: dict[str, Any] = {"peephole": _peephole(looks, order, len(b) // len(order))}
    more.update(_projection(t, o, where[15], where[16]))
    kind: type[Lstm] = CoupledLstm if coupled else Lstm
    if any(_there(o, i) for i in gains):
        if coupled:
            why = "with coupled gates is not known to this version"
            raise t.refuse(o, "layer normalisation", why, "train without one of them")
        kind = NormLstm
        gain = [_weights(t, o, i, "layer normalisation") for i in gains]
        more |= {"gain": np.concatenate(gain), "epsilon": NORM_EPSILON}
    return _clipped(o, kind("", "", Matrix(w), Matrix(u), b, "sigmoid", act, act, **more))


def _blocks(
    t: Translation, o: Operator, where: Sequence[int], gates: str
) -> dict[str, tuple[F32, ...]]:
    """Of each gate the weights of the input, of h, and the bias."""
    kinds = ("weights", "recurrent weights", "bias")
    return {
        g: tuple(
            _weights(t, o, where[start + "ifgo".index(g)], f"{kind} of {g}")
            for start, kind in zip((0, 4, 11), kinds, strict=True)
        )
        for g in gates
    }


def _looks(t: Translation, o: Operator, where: Sequence[int]) -> dict[str, F32]:
    """The peepholes that there are."""
    pairs = zip("ifo", where, strict=True)
    return {g: _weights(t, o, i, f"peephole of {g}") for g, i in pairs if _there(o, i)}


def _as_input_gate(parts: Mapping[str, Any]) -> dict[str, Any]:
    """i = 1 - f, and 1 - sigmoid(v) = sigmoid(-v): f's numbers with their signs changed are i's."""
    turned = dict(parts)
    if "f" in turned:
        f = turned.pop("f")
        turned["i"] = tuple(-a for a in f) if isinstance(f, tuple) else -f
    return turned


def _peephole(looks: Mapping[str, F32], order: str, H: int) -> F32 | None:
    zeros = np.zeros(H, np.float32)
    return np.concatenate([looks.get(g, zeros) for g in order if g != "g"]) if looks else None


def _projection(t: Translation, o: Operator, weights: int, bias: int) -> dict[str, Any]:
    if not _there(o, weights):
        return {}
    found: dict[str, Any] = {"projection": Matrix(_weights(t, o, weights, "projection"))}
    if _there(o, bias):
        found["projection_bias"] = _weights(t, o, bias, "projection bias")
    return found


def _clipped(o: Operator, node: Lstm) -> Lstm:
    """The node with its cell, and what a projection makes, held within bounds; 0 is none."""
    cell, projected = (float(o.options.get(name, 0)) for name in ("cellClip", "projClip"))
    if cell > 0:
        node = replace(node, cell_clip=np.array([cell], np.float32))
    if projected > 0 and node.projection is not None:
        node = replace(node, projection_clip=np.array([projected], np.float32))
    return node


def _basic_lstm(t: Translation, o: Operator) -> None:
    """One product of x and h side by side, gates in the order i, g, f, o; states are tensors."""
    x, h, _, _, c = o.inputs[:5]
    both, bias = _weights(t, o, 2, "weights"), _weights(t, o, 3, "bias")
    H = len(bias) // 4
    w_, b_ = (np.concatenate([np.split(a, 4)[k] for k in (0, 2, 1, 3)]) for a in (both, bias))
    I = both.shape[1] - H
    w, u = (Matrix(np.ascontiguousarray(part)) for part in (w_[:, :I], w_[:, I:]))
    node = _clipped(o, Lstm("", "", w, u, b_))
    y, *after = (t.names.unique(f"{t.label(o)} {part}") for part in ("Y", "h", "c"))
    sequence = t.op(o, "Unsqueeze", t.name(x), t.constant([1]))
    states = [t.name(h), t.name(c)]
    t.op(o, "edge_rnn.Cell", sequence, *([""] * 4), *states, to=[y, *after], node=node, layout=1)
    for name, output in zip(after, o.outputs, strict=False):
        t.op(o, "Identity", name, to=[t.name(output)])
