"""The RNN, LSTM and GRU operators, and where their states begin and end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import Act, Node
from edge_rnn_converters import gates
from edge_rnn_converters.refused import ONNX_CELL_REFUSED, UNKNOWN
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.moves import is_zero
from edge_rnn_converters.tensors.trace import CellState, Operators, Trace, as_stream, weights
from edge_rnn_converters.tensors.values import Role, State, Stream, Value

operator = Operators()

_DEFAULTS = {"RNN": ["Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
_KINDS: dict[str, gates.Kind] = {"RNN": "rnn", "LSTM": "lstm", "GRU": "gru"}
_READ = {"hidden_size", "activations", "activation_alpha", "activation_beta", "layout", "direction",
         "linear_before_reset", "input_forget", "clip"}  # fmt: skip


@operator("RNN LSTM GRU", "forward; layout 0 and 1; `linear_before_reset` 0 and 1")
def _cell(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    args = args + [None] * (8 - len(args))
    _check(op, args)
    x, layout = _sequence(trace, op, args[0]), op.integer("layout", 0)
    cell = _weights(op, args)
    H = cell.u.shape[1]
    trace.features(x, 2, cell.w.shape[1])
    name = trace.emit(op, x, lambda name: _node(op, name, x.value, cell), H)
    slots = {"h": args[5], "c": args[6]} if op.kind == "LSTM" else {"h": args[5]}
    single = not x.dims[layout]
    states = [_state(trace, op, slot, value, H, single) for slot, value in slots.items()]
    trace.cells += states
    (a, b, _), F = x.dims, trace.feature_axis(name)
    y, last = ((a, (), b, F), ((), b, F)) if layout == 0 else ((a, b, (), F), (a, (), F))
    h = State(states[0].final, Stream(name, last, last=not single))
    results: list[Value] = [Stream(name, y), h, *(State(c.final) for c in states[1:])]
    return results[: len(op.outputs)]


def _sequence(trace: Trace, op: Op, value: Value | None) -> Stream:
    """The input, its dimensions read as (steps, batch, features), or in layout 1 (batch, ...)."""
    x, time = as_stream(op, value, "X"), op.integer("layout", 0)
    if x.last or len(x.dims) != 3:
        why = "it reads the one last step of a layer before" if x.last else "expected three axes"
        raise op.refuse("X", why, "export the whole sequence into it")
    trace.roles.bind(x.dims[time], Role.TIME)
    trace.roles.bind(x.dims[1 - time], Role.BATCH)
    return x


def _check(op: Op, args: list[Value | None]) -> None:
    """Refuse what these cells can do and ours can't, by name."""
    found = {
        "direction": op.attributes.get("direction", "forward") != "forward",
        "clip": "clip" in op.attributes,
        "input_forget": op.integer("input_forget", 0) != 0,
        "sequence_lens": args[4] is not None,
        "P": args[7] is not None,
    }
    for attribute, there in found.items():
        if there:
            value = op.attributes.get(attribute, "")
            raise op.refuse(f"{attribute} {value}".strip(), *ONNX_CELL_REFUSED[attribute])
    for attribute in set(op.attributes) - _READ:
        raise op.refuse(attribute, *UNKNOWN)


def _weights(op: Op, args: list[Value | None]) -> gates.Cell:
    """W (1, kH, I), R (1, kH, H), B (1, 2kH) or none."""
    k = len(gates.OURS[_KINDS[op.kind]])
    w, u = (weights(op, args[i], n) for i, n in ((1, "W"), (2, "R")))
    H = op.integer("hidden_size", u.shape[-1])
    if w.ndim != 3 or w.shape[:2] != (1, k * H) or u.shape != (1, k * H, H):
        why = f"expected (1, {k * H}, I) and (1, {k * H}, {H})"
        raise op.refuse(f"W {w.shape}, R {u.shape}", why, "export the model again")
    none = np.zeros(2 * k * H, np.float32)
    b = none if args[3] is None else weights(op, args[3], "B").reshape(-1)
    if b.shape != (2 * k * H,):
        raise op.refuse(f"B {b.shape}", f"expected (1, {2 * k * H})", "export the model again")
    return gates.Cell("onnx", w[0], u[0], *gates.onnx_biases(b, k * H))


def _node(op: Op, name: str, source: str, cell: gates.Cell) -> Node:
    acts = _activations(op)
    if op.kind == "RNN":
        return gates.rnn(name, source, cell, acts[0])
    if op.kind == "LSTM":
        return gates.lstm(name, source, cell, acts[0], acts[1], acts[2])
    after = op.integer("linear_before_reset", 0) != 0
    return gates.gru(name, source, cell, "after" if after else "before", acts[0], acts[1])


def _activations(op: Op) -> list[Act]:
    """The cell's activations. Those with parameters take them, in order, from two lists."""
    names = list(op.attributes.get("activations", _DEFAULTS[op.kind]))
    alphas = iter(op.attributes.get("activation_alpha", []))
    betas = iter(op.attributes.get("activation_beta", []))
    if len(names) != len(_DEFAULTS[op.kind]):
        n = len(_DEFAULTS[op.kind])
        raise op.refuse(f"activations {names}", f"expected {n}", "export the model again")
    return [_activation(op, name, alphas, betas) for name in names]


def _activation(op: Op, name: str, alphas: Iterator[float], betas: Iterator[float]) -> Act:
    alpha, beta = gates.ONNX_PARAMETERS.get(name.lower(), (None, None))
    given = (0 if d is None else next(it, d) for d, it in ((alpha, alphas), (beta, betas)))
    alpha, beta = given
    act = gates.onnx_act(name, alpha, beta)
    if act is None:
        shown = f"activations {name} (alpha={alpha:g}, beta={beta:g})"
        why = f"edge-rnn has {', '.join(gates.ONNX_ACTS)}, HardSigmoid with alpha 0.2 or 1/6"
        raise op.refuse(shown, why, "train with one of those")
    return act


def _state(trace: Trace, op: Op, slot: str, value: Value | None, H: int, single: bool) -> CellState:
    """Where this state begins: at zeros, or at elements of a graph input."""
    what = f"initial_{slot}"
    initial: NDArray[np.int64] | None = None
    if isinstance(value, State) and value.ids.max() >= trace.entered:
        why = "is the final state of another cell, so it starts where a sequence ended"
        raise op.refuse(what, why, "convert the two cells' models apart")
    if isinstance(value, State) and value.ids.shape == (1, 1, H):
        initial = value.ids.reshape(H)
    elif isinstance(value, State):
        why = f"has shape {value.ids.shape}, expected (1, 1, {H})"
        raise op.refuse(what, why, "export with a batch of one or of any size")
    elif value is not None and not is_zero(value):
        why = "is not provably zero, and a new stream starts from zeros"
        raise op.refuse(what, why, "export with a zero initial state, or with it as an input")
    elif single:
        why = "is always zero in a graph of one step, which so forgets everything at every step"
        raise op.refuse(what, why, "export with the state as input and output, or more steps")
    return CellState(op, slot, initial, trace.new_ids((1, 1, H)))
