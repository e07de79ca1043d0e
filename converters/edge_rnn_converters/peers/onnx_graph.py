"""One step of a model as an ONNX graph; its streams' states are graph inputs and outputs."""

from __future__ import annotations

from functools import singledispatchmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_rnn.graph import Activation, Dense, Gru, Lstm, Model, Node, Rnn, Scale, Softmax
from edge_rnn_converters.peers.nodes import float32, int8

MICROSOFT = "com.microsoft"
_ACTS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "linear": "Identity"}
_LSTM_ORDER = (0, 3, 1, 2)  # ours i f g o; ONNX's i o f c. A GRU's z r n is ONNX's z r h.

# On AVX2 its products add two neighbours in 16 bits: eight bits overflow, seven don't. See
# "reduce_range" in https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
_LARGEST = 63


class StepGraph:
    """Made node by node; `quantized` takes int8 weights where ONNX Runtime has an operator.

    Every value is (1, B, width), a sequence of one step, as the recurrent operators take and give
    it. The value `output` may be a state's next one.
    """

    def __init__(self, model: Model, batch: int, quantized: bool) -> None:
        self._batch, self._quantized = batch, quantized
        self._ops: list[Any] = []
        self._weights: list[Any] = []
        self.states: dict[str, int] = {}
        self.input = model.inputs[0].name
        self._values = {self.input: self.input}
        for node in model.nodes:
            self._values[node.name] = node.name
            self._add(node)
        self.output = self._values[model.outputs[0]]
        self.blob = self._file(model)

    @singledispatchmethod
    def _add(self, node: Node) -> None:
        raise NotImplementedError(node.OP)

    @_add.register
    def _(self, node: Lstm) -> None:
        if not self._quantized:
            weights = [_gates(float32(m), _LSTM_ORDER)[None] for m in (node.w, node.u)]
            self._cell("LSTM", node, weights, _bias(node, _LSTM_ORDER), ("h", "c"))
            return
        parts = [int8(_gates(m.float64(), _LSTM_ORDER), _LARGEST) for m in (node.w, node.u)]
        weights = [data.T[None] for data, _ in parts]
        scales = [scale[None] for _, scale in parts]
        extra = ("", *(n for s in scales for n in self._scale_and_zero(s)))
        bias = _bias(node, _LSTM_ORDER)
        self._cell("DynamicQuantizeLSTM", node, weights, bias, ("h", "c"), extra, domain=MICROSOFT)

    @_add.register
    def _(self, node: Gru) -> None:
        weights = [_gates(float32(m), (0, 1, 2))[None] for m in (node.w, node.u)]
        bias = _bias(node, (0, 1, 2))
        after = int(node.reset == "after")
        self._cell("GRU", node, weights, bias, ("h",), linear_before_reset=after)

    @_add.register
    def _(self, node: Rnn) -> None:
        weights = [float32(m)[None] for m in (node.w, node.u)]
        acts = [_ACTS[node.act] if node.act != "linear" else "Affine"]
        alpha: dict[str, Any] = {"activation_alpha": [1.0]} if node.act == "linear" else {}
        self._cell("RNN", node, weights, _bias(node, (0,)), ("h",), activations=acts, **alpha)

    @_add.register
    def _(self, node: Dense) -> None:
        total = node.name if node.act == "linear" else f"{node.name}/sum"
        if self._quantized:
            data, scale = int8(node.w.float64(), _LARGEST)
            weights = [self._weight(data.T), self._weight(scale), ""]
            inputs = [self._values[node.input], *weights, self._weight(node.b)]
            self._op("DynamicQuantizeMatMul", inputs, [total], domain=MICROSOFT)
        else:
            inputs = [self._values[node.input], self._weight(float32(node.w).T)]
            self._op("MatMul", inputs, [f"{node.name}/product"])
            self._op("Add", [f"{node.name}/product", self._weight(node.b)], [total])
        if node.act != "linear":
            self._op(_ACTS[node.act], [total], [node.name])

    @_add.register
    def _(self, node: Scale) -> None:
        a, b = f"{node.name}/a", f"{node.name}/b"
        self._op("Sub", [self._values[node.input], self._weight(node.offset)], [a])
        self._op("Mul", [a, self._weight(node.scale)], [b])
        self._op("Add", [b, self._weight(node.shift)], [node.name])

    @_add.register
    def _(self, node: Activation) -> None:
        self._op(_ACTS[node.act], [self._values[node.input]], [node.name])

    @_add.register
    def _(self, node: Softmax) -> None:
        self._op("Softmax", [self._values[node.input]], [node.name], axis=2)

    def _cell(
        self,
        op: str,
        node: Lstm | Gru | Rnn,
        weights: list[NDArray[Any]],
        bias: NDArray[np.float32],
        states: tuple[str, ...],
        extra: tuple[str, ...] = (),
        **attributes: Any,
    ) -> None:
        H: int = node.u.data.shape[1]
        names = [f"{node.name}/{s}" for s in states]
        self.states.update(dict.fromkeys(names, H))
        tensors = [self._weight(w) for w in (*weights, bias)]
        inputs = [self._values[node.input], *tensors, "", *names, *extra]
        self._op(op, inputs, ["", *map(after, names)], hidden_size=H, **attributes)
        self._values[node.name] = after(names[0])

    def _scale_and_zero(self, scale: NDArray[np.float32]) -> list[str]:
        return [self._weight(scale), self._weight(np.zeros(scale.shape, np.int8))]

    def _weight(self, data: Any) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(data), name))
        return name

    def _op(self, name: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self._ops.append(helper.make_node(name, inputs, outputs, **attributes))

    def _file(self, model: Model) -> bytes:
        ins = {self.input: model.input_width, **self.states}
        outs = {after(n): width for n, width in self.states.items()}
        outs[self.output] = model.output_width
        ins_info, outs_info = ([self._info(*v) for v in d.items()] for d in (ins, outs))
        graph = helper.make_graph(self._ops, "step", ins_info, outs_info, self._weights)
        sets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        blob: bytes = helper.make_model(graph, opset_imports=sets, ir_version=9).SerializeToString()
        return blob

    def _info(self, name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, self._batch, width])


def after(state: str) -> str:
    """The name of the state's next value."""
    return f"{state}_next"


def _gates(rows: Any, order: tuple[int, ...]) -> NDArray[Any]:
    """Rows (gates * H, ...) with the gates in another order."""
    parts = np.split(np.asarray(rows), len(order))
    return np.concatenate([parts[k] for k in order])


def _bias(node: Lstm | Gru | Rnn, order: tuple[int, ...]) -> NDArray[np.float32]:
    recurrent = np.zeros(len(node.b), np.float32)
    if isinstance(node, Gru):
        recurrent[-len(node.rb) :] = node.rb
    return np.concatenate([_gates(node.b, order), recurrent])[None]
