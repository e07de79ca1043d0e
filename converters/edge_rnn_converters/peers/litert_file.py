"""A LiteRT model file, written tensor by tensor and operator by operator.

LiteRT brings the FlatBuffers schema of its files
(https://github.com/google-ai-edge/LiteRT/blob/main/tflite/schema/schema.fbs), so that writing one
takes neither TensorFlow nor a converter.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import ArrayLike, NDArray

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
}


_OPTIONS = {
    "RNN": "RNN", "LSTM": "LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNN",
    "BIDIRECTIONAL_SEQUENCE_RNN": "BidirectionalSequenceRNN",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
    "BIDIRECTIONAL_SEQUENCE_LSTM": "BidirectionalSequenceLSTM",
}  # fmt: skip


class Graph:
    """One graph; a tensor is known by its number."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._buffers = [schema.BufferT()]  # the first is empty: it means "no data"
        self._codes: dict[int, int] = {}

    def tensor(self, shape: tuple[int, ...], scale: ArrayLike | None = None, zero: int = 0) -> int:
        """A computed tensor: float32, or int8 of value (data - zero) * scale."""
        return self._add(shape, "float32" if scale is None else "int8", scale, zero, 0)

    def variable(self, shape: tuple[int, ...]) -> int:
        """A float32 tensor that starts from zeros and keeps its value from run to run."""
        number = self.tensor(shape)
        self._graph.tensors[number].isVariable = True
        return number

    def constant(self, data: NDArray[Any], scale: ArrayLike | None = None) -> int:
        """A tensor of weights; `scale` has one entry, or one for each row of data."""
        self._buffers.append(schema.BufferT())
        self._buffers[-1].data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        return self._add(data.shape, str(data.dtype), scale, 0, len(self._buffers) - 1)

    def op(self, name: str, inputs: list[int], outputs: list[int], **options: Any) -> None:
        """An operator by its name in the schema, such as "FULLY_CONNECTED", with its options."""
        code = getattr(schema.BuiltinOperator, name)
        o = schema.OperatorT()
        o.opcodeIndex = self._codes.setdefault(code, len(self._codes))
        o.inputs, o.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        words = "".join(word.capitalize() for word in name.split("_"))
        kind = _OPTIONS.get(name, words) + "Options"
        if hasattr(schema, kind + "T"):
            o.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            o.builtinOptions = getattr(schema, kind + "T")()
            for key, value in options.items():
                setattr(o.builtinOptions, key, value)
        self._graph.operators.append(o)

    def file(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file's bytes, with these tensors fed and fetched in this order."""
        self._graph.inputs = np.array(inputs, np.int32)
        self._graph.outputs = np.array(outputs, np.int32)
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [self._graph], self._buffers
        model.operatorCodes = [self._code(code) for code in self._codes]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _code(self, code: int) -> Any:
        o = schema.OperatorCodeT()
        o.builtinCode, o.deprecatedBuiltinCode = code, min(code, 127)
        o.version = 12 if code == schema.BuiltinOperator.FULLY_CONNECTED else 1
        return o

    def _add(
        self, shape: tuple[int, ...], dtype: str, scale: ArrayLike | None, zero: int, buffer: int
    ) -> int:
        t = schema.TensorT()
        t.name, t.shape, t.type = f"t{len(self._graph.tensors)}", list(shape), _TYPES[dtype]
        t.buffer = buffer
        if scale is not None:
            q = t.quantization = schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, np.float32))
            q.zeroPoint = np.full(len(q.scale), zero, np.int64)
        self._graph.tensors.append(t)
        return len(self._graph.tensors) - 1
