"""An ONNX file, checked before it is believed, as a graph of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_rnn.errors import MissingExtraError, UnsupportedError
from edge_rnn_converters.detect import ACCEPTED
from edge_rnn_converters.onnx import quantized
from edge_rnn_converters.onnx.external import bring_in
from edge_rnn_converters.source import MAX_BYTES, refuse
from edge_rnn_converters.tensors.graph import Op, Sizes, TensorGraph, TensorInput, needed

MAX_OPERATORS = 20_000
MIN_OPSET = 7
MAX_DEPTH = 16


@dataclass(frozen=True, slots=True, eq=False)
class OnnxFile:
    """A file's model as bytes, weights and all; its graph, in float; where operators on quantized
    numbers were replaced to get that, the float model as bytes, and were they activations?"""

    blob: bytes
    graph: TensorGraph
    float_blob: bytes | None = None
    activations: bool = False


def load(path: Path, inputs: Mapping[str, Any] | None = None) -> OnnxFile:
    """The file's model; `inputs` are shapes of inputs, by name, that the user told.

    Raises MissingExtraError without onnx, UnsupportedError for a file that is no ONNX model, is
    too large, or keeps its weights in files that are not beside it.
    """
    try:
        import onnx
        import onnx.inliner
        import onnx.shape_inference
    except ModuleNotFoundError as e:
        raise MissingExtraError("onnx", extra="onnx", need="to read ONNX models") from e
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnsupportedError(f"{path.name}: {size} bytes, at most {MAX_BYTES} are read")
    blob = path.read_bytes()
    proto = _parse(onnx, path, blob)
    _check(path, proto)
    if bring_in(onnx, path, proto):
        blob = proto.SerializeToString()
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    plain, activations, float_blob = proto, False, None
    if quantized.is_quantized(proto):
        plain, activations = quantized.as_float(onnx, proto)
        float_blob = plain.SerializeToString()
    return OnnxFile(blob, _whole(onnx, plain, inputs or {}), float_blob, activations)


def _whole(onnx: Any, proto: Any, inputs: Mapping[str, Any]) -> TensorGraph:
    proto = _inferred(onnx, proto, inputs)
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    framework = (
        f"onnx operator set {opset}, {proto.producer_name or 'unknown producer'} "
        f"{proto.producer_version}".strip()
    )
    return _graph(onnx, proto.graph, framework, opset)


def _inferred(onnx: Any, proto: Any, inputs: Mapping[str, Any]) -> Any:
    """The model with the shapes that follow from its inputs', where they do."""
    told = type(proto)()
    told.CopyFrom(proto)
    for value in told.graph.input:
        dims, sizes = value.type.tensor_type.shape.dim, inputs.get(value.name)
        for dim, size in zip(dims, sizes if isinstance(sizes, tuple) else (), strict=False):
            dim.dim_value = size
    try:
        return onnx.shape_inference.infer_shapes(told, data_prop=True)
    except (ValueError, onnx.shape_inference.InferenceError):
        return proto


def _graph(onnx: Any, graph: Any, framework: str, opset: int, depth: int = 0) -> TensorGraph:
    """The graph; those inside it as attributes of their operators."""
    if depth > MAX_DEPTH:
        raise UnsupportedError(f"graphs inside graphs, {depth} deep, are too many")
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    outputs = tuple(o.name for o in graph.output)
    inside = {
        (k, a.name): _graph(onnx, a.g, framework, opset, depth + 1)
        for k, node in enumerate(graph.node)
        for a in node.attribute
        if a.type == onnx.AttributeProto.GRAPH
    }
    operators = []
    for k, node in enumerate(graph.node):
        op = _op(onnx, node)
        op.attributes.update({name: g for (at, name), g in inside.items() if at == k})
        if op.kind == "Constant" and isinstance(op.attributes.get("value"), np.ndarray):
            constants[op.outputs[0]] = op.attributes["value"]
        else:
            operators.append(op)
    return TensorGraph(
        framework=framework,
        inputs=tuple(_input(onnx, i, depth) for i in graph.input if i.name not in constants),
        outputs=outputs,
        constants=constants,
        operators=needed(tuple(operators), outputs),
        opset=opset,
        shapes=dict(_shapes(graph)),
    )


def _shapes(graph: Any) -> Iterator[tuple[str, Sizes]]:
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.HasField("shape"):
            yield value.name, _sizes(kind)


def _sizes(kind: Any) -> Sizes:
    return tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)


def _parse(onnx: Any, path: Path, blob: bytes) -> Any:
    try:
        proto = onnx.load_model_from_string(blob)
    except Exception as e:
        # protobuf's DecodeError is of a package that is not ours to import.
        raise UnsupportedError(f"{path.name}: is not a readable ONNX model: {e}; {ACCEPTED}") from e
    if not proto.graph.node:
        raise UnsupportedError(f"{path.name}: is not an ONNX model, it has no graph; {ACCEPTED}")
    return proto


def _check(path: Path, proto: Any) -> None:
    if len(proto.graph.node) > MAX_OPERATORS:
        raise UnsupportedError(f"{path.name}: {len(proto.graph.node)} operators are too many")
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < MIN_OPSET:
        why = f"expected {MIN_OPSET} or later"
        raise refuse(path.name, f"operator set {opset}", why, "export it again with a later one")


def _input(onnx: Any, value: Any, depth: int) -> TensorInput:
    kind = value.type.tensor_type
    if depth and not kind.HasField("shape"):
        listed = value.type.HasField("sequence_type")
        return TensorInput(value.name, np.dtype(object if listed else np.float32), ())
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise refuse(
            f"input {value.name!r}", "type", "expected a tensor with a known number of axes",
            "export with input shapes",
        )  # fmt: skip
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return TensorInput(value.name, dtype, _sizes(kind))


def _op(onnx: Any, node: Any) -> Op:
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    attributes = {a.name: _attribute(onnx, a) for a in node.attribute}
    if kind == "Cast" and "to" in attributes:
        attributes["to"] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]))
    return Op(kind, node.name, tuple(node.input), tuple(node.output), attributes)


def _attribute(onnx: Any, attribute: Any) -> Any:
    """The attribute's value, text as str, a tensor as an array."""
    value = onnx.helper.get_attribute_value(attribute)
    match value:
        case bytes():
            return value.decode(errors="replace")
        case [bytes(), *_]:
            return [v.decode(errors="replace") for v in value]
        case onnx.TensorProto():
            return onnx.numpy_helper.to_array(value)
    return value
