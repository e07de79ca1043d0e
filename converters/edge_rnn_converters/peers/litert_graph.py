"""One step of a model as a LiteRT graph; its streams' states are graph inputs and outputs.

Cells are unrolled, for XNNPACK has no recurrent operator. In a float32 graph all states are parts
of one tensor, so that a step sets and gets two tensors whatever the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import (
    F32,
    Activation,
    Dense,
    Gru,
    Lstm,
    Model,
    Node,
    Rnn,
    Scale,
    Softmax,
    state_tensors,
)
from edge_rnn_converters.peers.litert_file import Graph
from edge_rnn_converters.peers.litert_ranges import Ranges, measure
from edge_rnn_converters.peers.nodes import LitertExport, int8

Weights: TypeAlias = NDArray[np.float64]

_OPS = {"relu": "RELU", "tanh": "TANH", "sigmoid": "LOGISTIC"}
_SCALES = {"TANH": (1 / 128, 0), "LOGISTIC": (1 / 256, -128)}  # LiteRT's quantization spec


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor (B, width): float32, or int8 of value (data - zero) * scale."""

    tensor: int
    width: int
    scale: float | None = None
    zero: int = 0


class StepGraph:
    """Made node by node; `blob` is the file.

    Its inputs are x and the `states`, its outputs the states' next values and, if no state is
    the output, y. `output` says where y is: which output, from which column to which.
    """

    def __init__(self, model: Model, batch: int, export: LitertExport) -> None:
        self._batch, self._export, self._g = batch, export, Graph()
        self._ranges = measure(model) if export == "int8 full" else {}
        x = self._new(model.input_width)
        self._values = {model.inputs[0].name: x}
        self._next: dict[tuple[str, str], Value] = {}
        self.states = self._open_states(model)
        for node in model.nodes:
            self._values[node.name] = self._add(node, self._values[node.input])
        outputs = self._close(self._values[model.outputs[0]])
        inputs = [v.tensor for v in (x, *self.states)]
        self.blob = self._g.file(inputs, [v.tensor for v in outputs])

    def _open_states(self, model: Model) -> list[Value]:
        vectors = {(node, state): width for node, state, width in state_tensors(model)}
        if self._export == "int8 full":
            scales = {(n, s): self._ranges[n].state(s) for n, s in vectors}
            self._state = {k: self._new(width, scales[k]) for k, width in vectors.items()}
            return list(self._state.values())
        if not vectors:
            self._state = {}
            return []
        whole = self._new(sum(vectors.values()))
        parts = self._parts(whole, list(vectors.values()))
        self._state = dict(zip(vectors, parts, strict=True))
        return [whole]

    def _close(self, y: Value) -> list[Value]:
        """The outputs, the states first and in order."""
        nexts = [self._next[k] for k in self._state]
        if self._export == "int8 full":
            self.output = (len(nexts), 0, y.width)
            return [*nexts, self._float(y)]
        if y not in nexts:
            self.output = (1 if nexts else 0, 0, y.width)
            return [*([self._concat(nexts)] if nexts else []), y]
        start = sum(v.width for v in nexts[: nexts.index(y)])
        self.output = (0, start, start + y.width)
        return [self._concat(nexts)]

    @singledispatchmethod
    def _add(self, node: Node, x: Value) -> Value:
        raise NotImplementedError(node.OP)

    @_add.register
    def _(self, node: Lstm, x: Value) -> Value:
        """f c + i g and o tanh(c'), from one product of x and h side by side."""
        h, c = self._state[node.name, "h"], self._state[node.name, "c"]
        r = self._ranges.get(node.name, Ranges())
        xh = self._concat([self._int8(x, h.scale), h])
        w = np.concatenate([node.w.float64(), node.u.float64()], axis=1)
        i, f, g, o = self._parts(self._product(xh, w, node.b, r.gates), [h.width] * 4)
        i, f, o = (self._unary("LOGISTIC", v) for v in (i, f, o))
        kept = self._binary("MUL", f, c, c.scale)
        new = self._binary(
            "ADD", kept, self._binary("MUL", i, self._unary("TANH", g), r.unit), c.scale
        )
        out = self._binary("MUL", o, self._unary("TANH", new), h.scale)
        self._next[node.name, "h"], self._next[node.name, "c"] = out, new
        return out

    @_add.register
    def _(self, node: Gru, x: Value) -> Value:
        """h' = n + z (h - n)."""
        h, r = self._state[node.name, "h"], self._ranges.get(node.name, Ranges())
        x, H = self._int8(x, h.scale), h.width
        w, u = node.w.float64(), node.u.float64()
        both = np.concatenate([w, u], axis=1)
        xh = self._concat([x, h])
        zr = self._unary("LOGISTIC", self._product(xh, both[: 2 * H], node.b[: 2 * H], r.gates))
        z, reset = self._parts(zr, [H, H])
        if node.reset == "before":
            xr = self._concat([x, self._binary("MUL", reset, h, h.scale)])
            total = self._product(xr, both[2 * H :], node.b[2 * H :] + node.rb, r.candidate)
        else:
            a = self._product(x, w[2 * H :], node.b[2 * H :], r.candidate)
            b = self._product(h, u[2 * H :], node.rb, r.recurrent)
            total = self._binary("ADD", a, self._binary("MUL", reset, b, r.recurrent), r.candidate)
        n = self._unary("TANH", total)
        step = self._binary("MUL", z, self._binary("SUB", h, n, r.twice), r.twice)
        self._next[node.name, "h"] = out = self._binary("ADD", n, step, h.scale)
        return out

    @_add.register
    def _(self, node: Rnn, x: Value) -> Value:
        h, r = self._state[node.name, "h"], self._ranges.get(node.name, Ranges())
        xh = self._concat([self._int8(x, h.scale), h])
        w = np.concatenate([node.w.float64(), node.u.float64()], axis=1)
        out = self._act(self._product(xh, w, node.b, r.gates), node.act)
        self._next[node.name, "h"] = out = self._int8(out, h.scale)
        return out

    @_add.register
    def _(self, node: Dense, x: Value) -> Value:
        r = self._ranges.get(node.name, Ranges())
        return self._act(
            self._product(self._int8(x, r.input), node.w.float64(), node.b, r.gates), node.act
        )

    @_add.register
    def _(self, node: Scale, x: Value) -> Value:
        y = self._float(x)
        for op, vector in (("SUB", node.offset), ("MUL", node.scale), ("ADD", node.shift)):
            y = self._binary(op, y, Value(self._g.constant(vector[None]), y.width))
        return y

    @_add.register
    def _(self, node: Activation, x: Value) -> Value:
        return self._act(self._float(x), node.act)

    @_add.register
    def _(self, node: Softmax, x: Value) -> Value:
        y = self._new(x.width)
        self._g.op("SOFTMAX", [self._float(x).tensor], [y.tensor], beta=1.0)
        return y

    def _new(self, width: int, scale: float | None = None, zero: int = 0) -> Value:
        tensor = self._g.tensor((self._batch, width), scale, zero)
        return Value(tensor, width, scale, zero)

    def _product(self, x: Value, w: Weights, b: F32, scale: float | None) -> Value:
        """w x + b; `scale` is the result's."""
        y = self._new(len(w), scale)
        if self._export == "float32":
            tensors = [self._g.constant(w.astype(np.float32)), self._g.constant(b)]
        else:
            data, rows = int8(w)
            tensors = [self._g.constant(data, rows), self._bias(b, rows, x.scale)]
        self._g.op("FULLY_CONNECTED", [x.tensor, *tensors], [y.tensor])
        return y

    def _bias(self, b: F32, rows: F32, scale: float | None) -> int:
        if scale is None:
            return self._g.constant(b)
        steps = rows.astype(np.float64) * scale
        return self._g.constant(np.rint(b / steps).astype(np.int32), steps)

    def _concat(self, values: Sequence[Value]) -> Value:
        if len(values) == 1:
            return values[0]
        y = self._new(sum(v.width for v in values), values[0].scale)
        self._g.op("CONCATENATION", [v.tensor for v in values], [y.tensor], axis=1)
        return y

    def _parts(self, x: Value, widths: list[int]) -> list[Value]:
        """Columns side by side, as values of their own."""
        parts = [self._new(width, x.scale, x.zero) for width in widths]
        if len(widths) == 1:
            return [x]
        if len(widths) <= 4 and len(set(widths)) == 1:
            axis = self._g.constant(np.array(1, np.int32))
            outs = [p.tensor for p in parts]
            self._g.op("SPLIT", [axis, x.tensor], outs, numSplits=len(widths))
            return parts
        for part, end in zip(parts, np.cumsum(widths), strict=True):
            box = ([0, end - part.width], [self._batch, part.width])
            tensors = [self._g.constant(np.array(v, np.int32)) for v in box]
            self._g.op("SLICE", [x.tensor, *tensors], [part.tensor])
        return parts

    def _act(self, x: Value, act: str) -> Value:
        return x if act == "linear" else self._unary(_OPS[act], x)

    def _unary(self, op: str, x: Value) -> Value:
        quantized = _SCALES.get(op, (x.scale, x.zero))
        y = self._new(x.width) if x.scale is None else self._new(x.width, *quantized)
        self._g.op(op, [x.tensor], [y.tensor])
        return y

    def _binary(self, op: str, a: Value, b: Value, scale: float | None = None) -> Value:
        y = self._new(a.width, scale)
        self._g.op(op, [a.tensor, b.tensor], [y.tensor])
        return y

    def _int8(self, x: Value, scale: float | None) -> Value:
        """The value in this scale; without one, as it is."""
        if scale is None or (x.scale, x.zero) == (scale, 0):
            return x
        y = self._new(x.width, scale)
        self._g.op("QUANTIZE", [x.tensor], [y.tensor])
        return y

    def _float(self, x: Value) -> Value:
        if x.scale is None:
            return x
        y = self._new(x.width)
        self._g.op("DEQUANTIZE", [x.tensor], [y.tensor])
        return y
