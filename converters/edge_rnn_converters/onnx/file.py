"""An ONNX file, checked before it is believed, as operators and constants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import MissingExtraError, UnsupportedError
from edge_rnn_converters.detect import ACCEPTED
from edge_rnn_converters.onnx.trace import Op
from edge_rnn_converters.source import MAX_BYTES, refuse

MAX_OPERATORS = 20_000
MIN_OPSET = 7


@dataclass(frozen=True, slots=True)
class GraphInput:
    """A graph input: its element type and dimensions, None where the size is open."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class OnnxFile:
    """The graph of a file: operators in order, those that no output needs left out."""

    blob: bytes
    framework: str
    opset: int
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    constants: dict[str, NDArray[Any]]
    operators: tuple[Op, ...]


def load(path: Path) -> OnnxFile:
    """The file's graph.

    Raises MissingExtraError without onnx, UnsupportedError for a file that is no ONNX model, is
    too large, or keeps its weights in other files.
    """
    try:
        import onnx
        import onnx.inliner
    except ModuleNotFoundError as e:
        raise MissingExtraError("onnx", extra="onnx", need="to read ONNX models") from e
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnsupportedError(f"{path.name}: {size} bytes, at most {MAX_BYTES} are read")
    blob = path.read_bytes()
    proto = _parse(onnx, path, blob)
    _check(onnx, path, proto)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    graph = proto.graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    return OnnxFile(
        blob=blob,
        framework=f"onnx operator set {opset}, {proto.producer_name or 'unknown producer'} "
        f"{proto.producer_version}".strip(),
        opset=opset,
        inputs=tuple(_input(onnx, i) for i in graph.input if i.name not in constants),
        outputs=tuple(o.name for o in graph.output),
        constants=constants,
        operators=tuple(_op(onnx, n) for n in _needed(graph)),
    )


def _parse(onnx: Any, path: Path, blob: bytes) -> Any:
    try:
        proto = onnx.load_model_from_string(blob)
    except Exception as e:
        # protobuf's DecodeError is of a package that is not ours to import.
        raise UnsupportedError(f"{path.name}: is not a readable ONNX model: {e}; {ACCEPTED}") from e
    if not proto.graph.node:
        raise UnsupportedError(f"{path.name}: is not an ONNX model, it has no graph; {ACCEPTED}")
    return proto


def _check(onnx: Any, path: Path, proto: Any) -> None:
    if len(proto.graph.node) > MAX_OPERATORS:
        raise UnsupportedError(f"{path.name}: {len(proto.graph.node)} operators are too many")
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            why = "is kept in another file"
            raise refuse(
                path.name, f"weight {tensor.name!r}", why,
                "save the model as one file: onnx.save(onnx.load(SOURCE), TARGET)",
            )  # fmt: skip
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < MIN_OPSET:
        why = f"expected {MIN_OPSET} or later"
        raise refuse(path.name, f"operator set {opset}", why, "export it again with a later one")


def _input(onnx: Any, value: Any) -> GraphInput:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise refuse(
            f"input {value.name!r}", "type", "expected a tensor with a known number of axes",
            "export with input shapes",
        )  # fmt: skip
    shape = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return GraphInput(value.name, dtype, shape)


def _op(onnx: Any, node: Any) -> Op:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    tensors = {
        name: onnx.numpy_helper.to_array(value)
        for name, value in attributes.items()
        if isinstance(value, onnx.TensorProto)
    }
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    return Op(kind, node.name, tuple(node.input), tuple(node.output), {**attributes, **tensors})


def _needed(graph: Any) -> list[Any]:
    """The nodes that the outputs depend on, in order."""
    wanted = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
