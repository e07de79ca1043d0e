"""The RNN, LSTM and GRU operators, and where their states begin and end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32, Act, Concat, Node, Reverse
from edge_rnn_converters import gates
from edge_rnn_converters.refused import ONNX_CELL_REFUSED as CELL_REFUSED
from edge_rnn_converters.refused import UNKNOWN
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.moves import is_zero
from edge_rnn_converters.tensors.trace import CellState, Operators, Trace, as_stream, weights
from edge_rnn_converters.tensors.values import (
    Dim,
    Filled,
    Known,
    Lengths,
    Role,
    Size,
    State,
    Stream,
    Value,
)
from edge_rnn_converters.tensors.vectors import arranged

operator = Operators()

_DEFAULTS = {"RNN": ["Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
_SUMS = {"RNN": 1, "LSTM": 2, "GRU": 2}
"""How many of the activations are of gates' and candidates' sums, which `clip` bounds."""
_KINDS: dict[str, gates.Kind] = {"RNN": "rnn", "LSTM": "lstm", "GRU": "gru"}
_READ = {"hidden_size", "activations", "activation_alpha", "activation_beta", "layout", "direction",
         "linear_before_reset", "input_forget", "clip"}  # fmt: skip
_BACKWARDS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One direction: the cell's value, which ends at the first step if it goes backwards; the same
    in the order of the steps; its states."""

    cell: str
    rows: str
    width: int
    states: list[CellState]


@operator(
    "RNN LSTM GRU",
    "every direction (backwards in window mode); layout 0 and 1; `linear_before_reset` 0 and 1; "
    "peepholes; `input_forget`; `clip`; every activation, with alpha and beta; lengths that are "
    "all the steps",
)
def _cell(trace: Trace, op: Op, args: list[Value | None]) -> list[Value]:
    args = args + [None] * (9 - len(args))
    backwards = _BACKWARDS.get(op.attributes.get("direction", "forward"))
    unknown = set(op.attributes) - _READ
    if backwards is None or unknown:
        raise op.refuse(min(unknown, default="direction"), *UNKNOWN)
    x, layout = _sequence(trace, op, args), op.integer("layout", 0)
    _check_lengths(trace, op, x, args[4])
    runs = [_run(trace, op, args, x, k, back) for k, back in enumerate(backwards)]
    T, B = x.dims[layout], x.dims[1 - layout]
    y = _joined(trace, op, [r.rows for r in runs], runs[0].width)
    h = _joined(trace, op, [r.cell for r in runs], runs[0].width)
    D, H = y.dims
    ys = ((T, D, B, H), (D, B, h.dims[1])) if layout == 0 else ((B, T, D, H), (B, D, h.dims[1]))
    every = replace(y, dims=ys[0])
    hs = (h.dims[0], B, h.dims[1]) if layout == 0 else (B, *h.dims)
    final = replace(h, dims=hs, last=bool(T))
    states = [s for r in runs for s in r.states]
    if not any(backwards):
        trace.cells += states
    results: list[Value] = [every]
    for slot in ("h", "c") if op.kind == "LSTM" else ("h",):
        ids = np.concatenate([s.final for s in states if s.slot == slot], axis=layout)
        results.append(State(ids, final if slot == "h" else None))
    return results[: len(op.outputs)]


def _sequence(trace: Trace, op: Op, args: list[Value | None]) -> Stream:
    """The input, its dimensions read as (steps, batch, features), or in layout 1 (batch, ...)."""
    x, time = as_stream(trace, op, args[0], "X"), op.integer("layout", 0)
    if x.last or len(x.dims) != 3:
        why = "it reads the one last step of a layer before" if x.last else "expected three axes"
        raise op.refuse("X", why, "export the whole sequence into it")
    trace.axes.bind(x.dims[time], Role.TIME)
    trace.axes.bind(x.dims[1 - time], Role.BATCH)
    trace.features(x, 2, size=weights(op, args[1], "W").shape[-1])
    return arranged(trace, op, x)


def _joined(trace: Trace, op: Op, names: list[str], H: int) -> Stream:
    """The directions' values side by side: dimensions (directions, H)."""
    name, more = names[0], tuple(names[1:])
    if more:
        name = trace.emit(op, names[0], lambda name: Concat(name, names[0], more), H * len(names))
    both, features = trace.axis(f"{name} directions", len(names)), trace.axis(f"{name} features", H)
    return Stream(name, (both, features), both + features)


def _check_lengths(trace: Trace, op: Op, x: Stream, lengths: Value | None) -> None:
    """Sequences must be as long as there are steps: a stream has no end."""
    T = x.dims[op.integer("layout", 0)]
    match lengths:
        case None | Lengths():
            return
        case Known(array=a) if a.dtype == object:
            if all(isinstance(n, Size) and n.dim == T for n in a.flat):
                return
        case Known(array=a) if np.all(a == _known_length(trace, T)):
            return
        case Filled(number=n) if n == _known_length(trace, T):
            return
    raise op.refuse("sequence_lens", *CELL_REFUSED["sequence_lens"])


def _known_length(trace: Trace, dim: Dim) -> int | None:
    """How many steps there are; None where the graph leaves it open."""
    return trace.axes.length(dim) if all(a.size is not None for a in dim) else None


def _run(
    trace: Trace, op: Op, args: list[Value | None], x: Stream, k: int, backwards: bool
) -> _Run:
    """Direction k of the operator."""
    cell, source = _weights(op, args, k), x.value
    H = cell.u.shape[1]
    widths = {"h": H, "c": len(cell.w) // 4}
    if backwards:
        source = _reversed(trace, op, source, trace.width(x))
    name = trace.emit(op, source, lambda name: _node(op, name, source, cell, k), H)
    rows = _reversed(trace, op, name, H) if backwards else name
    slots = {"h": args[5], "c": args[6]} if op.kind == "LSTM" else {"h": args[5]}
    single = not x.dims[op.integer("layout", 0)]
    ahead = op.attributes.get("direction", "forward") != "forward"
    layout = op.integer("layout", 0)
    states = [
        state(trace, op, name, slot, _of_direction(v, k, layout), widths[slot], single, ahead)
        for slot, v in slots.items()
    ]
    return _Run(name, rows, H, states)


def _of_direction(value: Value | None, k: int, layout: int) -> Value | None:
    """Direction k's part of constant initial states (directions, batch, H), or in layout 1 (batch,
    directions, H)."""
    match value:
        case Known(array=a) if a.ndim == 3 and k < a.shape[layout]:
            return Known(np.take(a, [k], axis=layout))
    return value


def _reversed(trace: Trace, op: Op, source: str, width: int) -> str:
    return trace.emit(op, source, lambda name: Reverse(name, source), width)


def _weights(op: Op, args: list[Value | None], k: int) -> gates.Cell:
    """W (D, nH, I), R (D, nH, R), B (D, 2nH) or none, P (D, 3H) or none: those of direction k.

    R is H, or with a projection (D, R, H), a ninth input that ONNX has not, less.
    """
    D = len(_BACKWARDS[op.attributes.get("direction", "forward")])
    n = len(gates.OURS[_KINDS[op.kind]])
    w, u = (weights(op, args[i], name) for i, name in ((1, "W"), (2, "R")))
    H = op.integer("hidden_size", u.shape[-1])
    projection = None if args[8] is None else weights(op, args[8], "projection")
    R = H if projection is None else projection.shape[1]
    if w.ndim != 3 or w.shape[:2] != (D, n * H) or u.shape != (D, n * H, R):
        why = f"expected ({D}, {n * H}, I) and ({D}, {n * H}, {R})"
        raise op.refuse(f"W {w.shape}, R {u.shape}", why, "export the model again")
    b = _vectors(op, args[3], "B", (D, 2 * n * H))
    p = None if args[7] is None else _vectors(op, args[7], "P", (D, 3 * H))[k]
    own = None if projection is None else np.ascontiguousarray(projection[k])
    return gates.Cell("onnx", w[k], u[k], *gates.onnx_biases(b[k], n * H), p, own)


def _vectors(op: Op, value: Value | None, name: str, shape: tuple[int, int]) -> F32:
    """The biases or peepholes of all directions, zeros where there are none."""
    if value is None or is_zero(value):
        return np.zeros(shape, np.float32)
    a = weights(op, value, name)
    if a.size != shape[0] * shape[1]:
        raise op.refuse(f"{name} {a.shape}", f"expected {shape}", "export the model again")
    return a.reshape(shape)


def _node(op: Op, name: str, source: str, cell: gates.Cell, k: int) -> Node:
    acts = _activations(op, k)
    sums = _SUMS[op.kind]
    acts[:sums] = [gates.clipped(act, op.number("clip", 0)) for act in acts[:sums]]
    if op.kind == "RNN":
        return gates.rnn(name, source, cell, acts[0])
    if op.kind == "LSTM":
        coupled = op.integer("input_forget", 0) != 0
        return gates.lstm(name, source, cell, acts[0], acts[1], acts[2], coupled)
    after = op.integer("linear_before_reset", 0) != 0
    return gates.gru(name, source, cell, "after" if after else "before", acts[0], acts[1])


def _activations(op: Op, k: int) -> list[Act]:
    """Direction k's activations. Those with parameters take them, in order, from two lists."""
    D, n = len(_BACKWARDS[op.attributes.get("direction", "forward")]), len(_DEFAULTS[op.kind])
    names = list(op.attributes.get("activations", _DEFAULTS[op.kind] * D))
    alphas = iter(op.attributes.get("activation_alpha", []))
    betas = iter(op.attributes.get("activation_beta", []))
    if len(names) != D * n:
        raise op.refuse(f"activations {names}", f"expected {D * n}", "export the model again")
    return [_activation(op, name, alphas, betas) for name in names][k * n : (k + 1) * n]


def _activation(op: Op, name: str, alphas: Iterator[float], betas: Iterator[float]) -> Act:
    alpha, beta = gates.ONNX_PARAMETERS.get(name.lower(), (None, None))
    given = (0 if d is None else next(it, d) for d, it in ((alpha, alphas), (beta, betas)))
    alpha, beta = given
    act = gates.onnx_act(name, alpha, beta)
    if act is None:
        shown, why = f"activations {name}", f"edge-rnn has {', '.join(gates.ONNX_ACTS)}"
        raise op.refuse(shown, why, "train with one of those")
    return act


def state(
    trace: Trace,
    op: Op,
    name: str,
    slot: str,
    value: Value | None,
    H: int,
    single: bool,
    ahead: bool,
) -> CellState:
    """Where this state of the node begins: at zeros, numbers, or elements of a graph input."""
    what = f"initial_{slot}"
    if ahead and isinstance(value, State):
        why = "is carried on, by a layer that looks ahead"
        raise op.refuse(what, why, "export it with a zero initial state")
    initial: NDArray[np.int64] | None = None
    inside = isinstance(value, State) and trace.entering.issuperset(value.ids.ravel().tolist())
    if isinstance(value, State) and value.ids.max() >= trace.entered and not inside:
        why = "is the final state of another cell, so it starts where a sequence ended"
        raise op.refuse(what, why, "convert the two cells' models apart")
    if isinstance(value, State) and value.ids.shape == (1, 1, H):
        initial = value.ids.reshape(H)
    elif isinstance(value, State):
        why = f"has shape {value.ids.shape}, expected (1, 1, {H})"
        raise op.refuse(what, why, "export with a batch of one or of any size")
    else:
        begin(trace, name, slot, numbers(op, what, value, H))
    if initial is None and single:
        why = "is always the same in a graph of one step, which so forgets everything at every step"
        raise op.refuse(what, why, "export with the state as input and output, or more steps")
    return CellState(op, name, slot, initial, trace.new_ids((1, 1, H)))


def numbers(op: Op, what: str, value: Value | None, H: int) -> F32 | None:
    """The numbers (H,) that a state begins at, the same in all of a batch; None for zeros."""
    if value is None or is_zero(value):
        return None
    if isinstance(value, Filled):
        return np.full(H, value.number, np.float32)
    if isinstance(value, Known) and value.array.dtype == np.float32 and not value.array.size % H:
        rows = value.array.reshape(-1, H)
        if len(rows) and np.all(rows == rows[0]):
            return np.ascontiguousarray(rows[0])
    why = "is no constant that is the same for all of a batch"
    raise op.refuse(what, why, "export with a constant initial state, or with it as an input")


def begin(trace: Trace, name: str, slot: str, first: F32 | None) -> None:
    """Have the state of the node begin at these numbers."""
    if first is not None:
        change: dict[str, Any] = {f"initial_{slot}": first}
        trace.nodes[name] = replace(trace.nodes[name], **change)
