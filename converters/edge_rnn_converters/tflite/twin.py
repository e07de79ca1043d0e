"""A quantized file as the float32 file that computes the numbers its integers stand for.

LiteRT runs both. What the converted model must agree with to the usual tolerance is the float32
one: same operators, same weights, no roundings of the integer kernels. How far those roundings
take the file itself from it is measured and told.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_rnn_converters.source import reading
from edge_rnn_converters.tflite.file import TfliteFile, values

_CASTS = ("QUANTIZE", "DEQUANTIZE")


def quantized(file: TfliteFile) -> bool:
    """Does the file compute with integers that stand for other numbers?"""
    return any(
        t.quantization is not None and t.dtype is not None and t.dtype.kind in "iu"
        for graph in file.graphs
        for t in graph.tensors
    )


def float_twin(file: TfliteFile) -> bytes:
    """The file in float32. Raises ModelError where a table is damaged that no reader reads."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    with reading("a table of the file"):
        model = schema.ModelT.InitFromPackedBuf(file.blob, 0)
    for table, graph in zip(model.subgraphs, file.graphs, strict=True):
        for t, tensor in zip(table.tensors, graph.tensors, strict=True):
            if tensor.quantization is None and tensor.type != "FLOAT16":
                continue
            t.type, t.quantization = schema.TensorType.FLOAT32, None
            found = values(tensor)
            if found is not None:
                t.buffer = len(model.buffers)
                model.buffers.append(schema.BufferT())
                model.buffers[-1].data = np.frombuffer(found.tobytes(), np.uint8)
        _without_casts(table, graph)
    _used_only(schema, model)
    builder = flatbuffers.Builder(len(file.blob))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _without_casts(table: Any, graph: Any) -> None:
    """What a cast between numbers and integers made is what it read."""
    same: dict[int, int] = {}
    kept = []
    for o, op in zip(table.operators, graph.operators, strict=True):
        o.inputs = np.array([same.get(int(i), int(i)) for i in op.inputs], np.int32)
        o.intermediates = None
        if op.kind in _CASTS:
            same[op.outputs[0]] = int(o.inputs[0])
        else:
            kept.append(o)
    table.operators = kept
    table.outputs = np.array([same.get(i, i) for i in graph.outputs], np.int32)


def _used_only(schema: Any, model: Any) -> None:
    """Drop what refers to buffers and tensors by their old meaning."""
    model.metadata = model.metadataBuffer = model.signatureDefs = None
    used = {t.buffer for table in model.subgraphs for t in table.tensors}
    for number in range(1, len(model.buffers)):
        if number not in used:
            model.buffers[number] = schema.BufferT()
