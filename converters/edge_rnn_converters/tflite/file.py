"""A TFLite file, read with bounds checked, as operators over numbered tensors.

The FlatBuffers schema comes with LiteRT
(https://github.com/google-ai-edge/LiteRT/blob/main/tflite/schema/schema.fbs); only that module of
it is imported to read a file, nothing that runs one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import MissingExtraError, ModelError, UnsupportedError
from edge_rnn_converters.source import MAX_BYTES, refuse

MAX_ITEMS = 50_000
"""Tensors and operators of a file, all graphs together: tables may be shared, so that the file's
size is no bound."""

MAX_RANK = 8
MAX_ELEMENTS = 1 << 26
"""Numbers in a tensor that is no constant."""
SHARED = 8
"""How often, on average, tensors may share a weight: each has its own copy once it is read."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantization:
    """value = (number - zero) * scale, with one scale and zero for each place along `axis`."""

    scale: NDArray[np.float32]
    zero: NDArray[np.int64]
    axis: int


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor of a graph: `dtype` is None for one of no numbers, a dimension where it is open.

    `data` are a constant's numbers as they are in the file; `variable`: it keeps its value from
    one run to the next.
    """

    name: str
    type: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...]
    data: NDArray[Any] | None
    quantization: Quantization | None
    variable: bool


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """`kind` is the schema's name; inputs and outputs are tensors' numbers, -1 for one left out;
    options by their names in the schema."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class SubGraph:
    """Operators in order; control flow runs other graphs of the file."""

    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[Operator, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TfliteFile:
    """The graphs of a file, the first of them the model's; `blob` is all of it."""

    blob: bytes
    description: str
    graphs: tuple[SubGraph, ...]


def load(path: Path) -> TfliteFile:
    """The file's graphs.

    Raises MissingExtraError without LiteRT, UnsupportedError for what is not read, ModelError or
    any of `source.reading`'s exceptions for a damaged file.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnsupportedError(f"{path.name}: {size} bytes, at most {MAX_BYTES} are read")
    return parsed(path.read_bytes())


def parsed(blob: bytes) -> TfliteFile:
    """The graphs of a file of these bytes. Raises as `load`."""
    schema = _schema()
    reader = _Reader(schema, schema.Model.GetRootAs(blob), blob)
    return TfliteFile(blob, reader.description(), tuple(reader.graphs()))


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ModuleNotFoundError as e:
        raise MissingExtraError(
            "ai-edge-litert", extra="litert", need="to read TFLite models"
        ) from e
    return schema


_TYPES = {
    "FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "INT8": "i1", "UINT8": "u1",
    "INT16": "<i2", "UINT16": "<u2", "INT32": "<i4", "UINT32": "<u4", "INT64": "<i8", "BOOL": "?",
}  # fmt: skip


class _Reader:
    """Reads table by table, counting them."""

    def __init__(self, schema: Any, model: Any, blob: bytes) -> None:
        self._schema, self._model, self._blob = schema, model, blob
        self._items, self._bytes = 0, 0
        self._type_names = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
        names = vars(schema.BuiltinOperator).items()
        self._kinds = {v: k for k, v in names if isinstance(v, int)}

    def description(self) -> str:
        """What made the file, as it says itself."""
        text = (self._model.Description() or b"").decode("utf-8", "replace")[:100]
        return f"TFLite {self._model.Version()}, {text or 'unknown converter'}"

    def graphs(self) -> Iterator[SubGraph]:
        """Every graph."""
        for graph in self._each(self._model.SubgraphsLength(), self._model.Subgraphs):
            tensors = self._each(graph.TensorsLength(), graph.Tensors)
            operators = self._each(graph.OperatorsLength(), graph.Operators)
            found = SubGraph(
                _text(graph.Name()),
                tuple(self._tensor(t) for t in tensors),
                _numbers(graph, "Inputs"),
                _numbers(graph, "Outputs"),
                tuple(self._operator(o) for o in operators),
            )
            _check(found)
            yield found

    def _each(self, count: int, item: Callable[[int], Any]) -> Iterator[Any]:
        self._items += count
        if self._items > MAX_ITEMS:
            raise UnsupportedError(f"more than {MAX_ITEMS} tensors and operators")
        return (item(i) for i in range(count))

    def _tensor(self, t: Any) -> Tensor:
        name, kind = _text(t.Name()), self._type_names.get(t.Type(), "UNKNOWN")
        if t.Sparsity() is not None:
            raise refuse(
                f"tensor {name!r}", "sparsity", "is not read", "convert it without pruning's"
            )
        dtype = np.dtype(_TYPES[kind]) if kind in _TYPES else None
        shape, signature = _numbers(t, "Shape"), _numbers(t, "ShapeSignature")
        if len(shape) > MAX_RANK:
            raise refuse(f"tensor {name!r}", "shape", f"has {len(shape)} axes", "use fewer")
        dims = [
            None if n < 0 else n for n in (signature if len(signature) == len(shape) else shape)
        ]
        if any(n < 0 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise refuse(f"tensor {name!r}", f"shape {shape}", "is too large", "use a smaller one")
        data = self._data(name, t.Buffer(), kind, shape)
        return Tensor(name, kind, dtype, tuple(dims), data, _quantization(t), bool(t.IsVariable()))

    def _data(
        self, name: str, number: int, kind: str, shape: tuple[int, ...]
    ) -> NDArray[Any] | None:
        """The numbers of buffer `number`, None where it is empty: the tensor is computed."""
        if number >= self._model.BuffersLength():
            raise ModelError(f"tensor {name!r}: there is no buffer {number}")
        buffer = self._model.Buffers(number)
        if buffer.Offset() > 1:
            raise refuse(
                f"tensor {name!r}", "data", "is outside the FlatBuffer", "use a smaller one"
            )
        if not buffer.DataLength():
            return None
        raw = buffer.DataAsNumpy()
        self._bytes += raw.size
        if self._bytes > SHARED * len(self._blob) + MAX_ITEMS:
            raise UnsupportedError("its tensors share weights too often: convert it again")
        if kind == "INT4":
            return _nibbles(raw, shape)
        if kind not in _TYPES:
            return np.zeros(0)
        return np.asarray(raw.view(_TYPES[kind]).reshape(shape))

    def _operator(self, o: Any) -> Operator:
        code = self._model.OperatorCodes(o.OpcodeIndex())
        if code is None or o.OpcodeIndex() >= self._model.OperatorCodesLength():
            raise ModelError(f"there is no operator code {o.OpcodeIndex()}")
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind = self._kinds.get(number, f"operator {number}")
        if kind == "CUSTOM":
            kind = f"custom operator {_text(code.CustomCode())}"
        return Operator(kind, _numbers(o, "Inputs"), _numbers(o, "Outputs"), self._options(o))

    def _options(self, o: Any) -> dict[str, Any]:
        table = o.BuiltinOptions()
        if table is None:
            return {}
        made = self._schema.BuiltinOptionsCreator(o.BuiltinOptionsType(), table)
        return {} if made is None else dict(vars(made))


def _text(text: bytes | None) -> str:
    return (text or b"").decode("utf-8", "replace")[:200]


def _numbers(table: Any, name: str) -> tuple[int, ...]:
    """A vector of integers."""
    if not getattr(table, f"{name}Length")():
        return ()
    return tuple(getattr(table, f"{name}AsNumpy")()[:MAX_ITEMS].tolist())


def _quantization(t: Any) -> Quantization | None:
    q = t.Quantization()
    if q is None or not q.ScaleLength():
        return None
    scale, n = q.ScaleAsNumpy().astype(np.float32), q.ScaleLength()
    zero = q.ZeroPointAsNumpy().astype(np.int64) if q.ZeroPointLength() else np.zeros(n, np.int64)
    return Quantization(scale, zero, q.QuantizedDimension())


def _nibbles(raw: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Signed 4-bit numbers, the lower half of a byte first."""
    both = np.stack([raw << 4, raw], axis=1).view(np.int8) >> 4
    return np.asarray(both.reshape(-1)[: int(np.prod(shape))].reshape(shape), np.int8)


def _check(graph: SubGraph) -> None:
    """Every tensor that is named is there."""
    ends = (*graph.inputs, *graph.outputs, *(i for o in graph.operators for i in o.outputs))
    reads = (i for o in graph.operators for i in o.inputs)
    n = len(graph.tensors)
    if any(not 0 <= i < n for i in ends) or any(not -1 <= i < n for i in reads):
        raise ModelError(f"graph {graph.name!r} names a tensor that it has not")


def values(tensor: Tensor) -> NDArray[Any] | None:
    """A constant's values: integers with a scale as the numbers that they stand for, in float32."""
    a, q = tensor.data, tensor.quantization
    if a is None or a.dtype == np.float16:
        return None if a is None else a.astype(np.float32)
    if q is None or a.dtype.kind not in "iu":
        return a
    shape = [1] * a.ndim
    if len(q.scale) > 1:
        shape[q.axis] = -1
    zero = np.broadcast_to(q.zero, q.scale.shape).reshape(shape)
    wide = (a.astype(np.float64) - zero) * q.scale.astype(np.float64).reshape(shape)
    with np.errstate(over="ignore"):  # validation names an infinite one
        return wide.astype(np.float32)
