"""Quantized ONNX graphs as float ones: weights dequantized exactly, activations left as they are.

What ONNX Runtime's quantizers make: dynamic (`DynamicQuantizeLSTM`, `DynamicQuantizeLinear` with
`MatMulInteger` or `ConvInteger`), and static, with QuantizeLinear and DequantizeLinear around
every operator or as `QLinearMatMul` and `QLinearConv`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn_converters.source import refuse

_KINDS = {
    "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger",
    "QLinearMatMul", "QLinearConv", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
}  # fmt: skip
ACTIVATIONS = (
    "the source quantizes its activations, which edge-rnn does in its own way: compared with the "
    "source's graph without that"
)


def is_quantized(proto: Any) -> bool:
    """Has the graph operators that this module replaces?"""
    return any(node.op_type in _KINDS for node in proto.graph.node)


def as_float(onnx: Any, proto: Any) -> tuple[Any, bool]:
    """(the model with float operators in place of quantized ones, were activations quantized?).

    Raises UnsupportedError where a quantized weight is no constant.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    rewriter = _Rewriter(onnx, plain.graph)
    nodes = [made for node in plain.graph.node for made in rewriter.rewritten(node)]
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    plain.graph.initializer.extend(rewriter.made)
    return plain, rewriter.activations


Array: TypeAlias = NDArray[Any]


class _Rewriter:
    """Replaces operators one by one; quantized activations keep their names, unquantized."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx = onnx
        self.constants: dict[str, Array] = {
            t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer
        }
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                array = onnx.numpy_helper.to_array(node.attribute[0].t)
                self.constants[node.output[0]] = array
        self.made: list[Any] = []
        self.activations = False

    def rewritten(self, node: Any) -> list[Any]:
        """The operators that take this one's place."""
        if (
            node.op_type.startswith(("QLinear", "QGemm", "QAttention"))
            and node.op_type not in _KINDS
        ):
            raise self._no(node, "operator", "computes with quantized numbers")
        if node.op_type not in _KINDS:
            return [node]
        rewrite: Callable[[Any], list[Any]] = getattr(self, f"_{node.op_type.lower()}")
        return rewrite(node)

    def _dequantizelinear(self, node: Any) -> list[Any]:
        if node.input[0] not in self.constants:
            return [self._node("Identity", node.input[:1], node.output)]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if any(a.name == "block_size" and a.i for a in node.attribute):
            raise self._no(node, "block_size", "is quantized in blocks")
        self._dequantized(node, node.output[0], 0, 1, 2, axis)
        return []

    def _quantizelinear(self, node: Any) -> list[Any]:
        self.activations = True
        return [self._node("Identity", node.input[:1], node.output[:1])]

    def _dynamicquantizelinear(self, node: Any) -> list[Any]:
        self.activations = True
        y, scale, zero = (*node.output, "", "")[:3]
        self._add(scale, np.float32(1))
        self._add(zero, np.uint8(0))
        return [self._node("Identity", node.input[:1], [y])]

    def _matmulinteger(self, node: Any) -> list[Any]:
        w = self._integers(node, 1, 3)
        return [self._node("MatMul", [node.input[0], self._add(f"{node.output[0]}/B", w)],
                           node.output)]  # fmt: skip

    def _convinteger(self, node: Any) -> list[Any]:
        w = self._integers(node, 1, 3)
        made = self._node("Conv", [node.input[0], self._add(f"{node.output[0]}/W", w)], node.output)
        made.attribute.extend(node.attribute)
        return [made]

    def _integers(self, node: Any, w: int, zero: int) -> Array:
        """Weights minus their zero point, as float32 whole numbers; a zero point for each column
        of a matrix, each row of a kernel."""
        q = self._constant(node, w).astype(np.int32)
        there = len(node.input) > zero and node.input[zero]
        z = self._constant(node, zero).astype(np.int32) if there else np.int32(0)
        if z.ndim == 1 and z.size > 1 and node.op_type == "ConvInteger":
            z = z.reshape(-1, *[1] * (q.ndim - 1))
        return (q - z).astype(np.float32)

    def _qlinearmatmul(self, node: Any) -> list[Any]:
        self.activations = True
        w = self._dequantized(node, f"{node.output[0]}/B", 3, 4, 5, -1)
        return [self._node("MatMul", [node.input[0], w], node.output)]

    def _qlinearconv(self, node: Any) -> list[Any]:
        self.activations = True
        w = self._dequantized(node, f"{node.output[0]}/W", 3, 4, 5, 0)
        inputs = [node.input[0], w]
        if len(node.input) > 8 and node.input[8]:
            scale = self._constant(node, 1).astype(np.float64) * self._constant(node, 4)
            bias = (self._constant(node, 8) * scale).astype(np.float32)
            inputs.append(self._add(f"{node.output[0]}/bias", bias))
        made = self._node("Conv", inputs, node.output)
        made.attribute.extend(node.attribute)
        return [made]

    def _dynamicquantizematmul(self, node: Any) -> list[Any]:
        self.activations = True
        w = self._dequantized(node, f"{node.output[0]}/B", 1, 2, 3, -1)
        return self._product(node, w, 4)

    def _matmulintegertofloat(self, node: Any) -> list[Any]:
        """A, B, a_scale, b_scale, a_zero, b_zero, bias; A is unquantized here."""
        w = self._dequantized(node, f"{node.output[0]}/B", 1, 3, 5, -1)
        return self._product(node, w, 6)

    def _product(self, node: Any, w: str, bias: int) -> list[Any]:
        if len(node.input) <= bias or not node.input[bias]:
            return [self._node("MatMul", [node.input[0], w], node.output)]
        product = f"{node.output[0]}/product"
        return [self._node("MatMul", [node.input[0], w], [product]),
                self._node("Add", [product, node.input[bias]], node.output)]  # fmt: skip

    def _dynamicquantizelstm(self, node: Any) -> list[Any]:
        """X, W (D, I, 4H), R (D, H, 4H), B, lengths, initial_h, initial_c, P, then scale and zero
        point of W and of R, one for each direction or each of its columns."""
        self.activations = True
        names = []
        for what, q, scale, zero in (("W", 1, 8, 9), ("R", 2, 10, 11)):
            s, z = (self._constant(node, i) for i in (scale, zero))
            s, z = (a.reshape(len(a), 1, -1) for a in (s, z))
            wide = (self._constant(node, q).astype(np.int32) - z.astype(np.int32)) * s.astype(float)
            array = np.ascontiguousarray(wide.transpose(0, 2, 1).astype(np.float32))
            names.append(self._add(f"{node.output[0]}/{what}", array))
        made = self._node("LSTM", [node.input[0], *names, *node.input[3:8]], node.output)
        made.attribute.extend(node.attribute)
        return [made]

    def _dequantized(self, node: Any, name: str, q: int, scale: int, zero: int, axis: int) -> str:
        """The constant input q as float32 under a name: (q - zero point) scale, each a number or
        one along the axis."""
        wide = self._constant(node, q)
        there = len(node.input) > zero and node.input[zero]
        s = self._constant(node, scale).astype(np.float64)
        z = self._constant(node, zero) if there else np.zeros(s.shape)
        shape = [1] * wide.ndim
        if s.size > 1:
            shape[axis] = s.size
        real = (wide.astype(np.float64) - z.astype(np.float64).reshape(shape)) * s.reshape(shape)
        return self._add(name, real.astype(np.float32))

    def _constant(self, node: Any, i: int) -> Array:
        name = node.input[i]
        if name not in self.constants:
            raise self._no(node, f"input {i}", "is no constant, as quantized weights are")
        return self.constants[name]

    def _add(self, name: str, a: Any) -> str:
        if name:
            array = np.asarray(a)
            self.constants[name] = array
            self.made.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, inputs: Any, outputs: Any) -> Any:
        return self.onnx.helper.make_node(kind, list(inputs), list(outputs), outputs[0])

    def _no(self, node: Any, what: str, why: str) -> Exception:
        return refuse(f"{node.op_type} {node.name!r}", what, why, "convert the float32 model")
