"""Weights that an ONNX file keeps in other files beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_rnn_converters.source import MAX_BYTES, refuse

_WAY_OUT = "save the model as one file: onnx.save(onnx.load(SOURCE), TARGET)"


def bring_in(onnx: Any, path: Path, proto: Any) -> bool:
    """Read the weights kept in files beside the model into it; were there any?

    Raises UnsupportedError, before anything of it is read, for a file elsewhere, one that is
    missing, and sizes that don't fit or are too large in all.
    """
    left, found = MAX_BYTES, False
    for tensor in _tensors(onnx, proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data = _bytes(onnx, path, tensor, left)
            left, found = left - len(data), True
            tensor.raw_data = data
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return found


def _tensors(onnx: Any, graph: Any) -> Iterator[Any]:
    """Every constant of the graph and of those inside it."""
    yield from graph.initializer
    for node in graph.node:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.TENSOR:
                yield a.t
            elif a.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(onnx, a.g)


def _bytes(onnx: Any, path: Path, tensor: Any, left: int) -> bytes:
    entries = {e.key: e.value for e in tensor.external_data}
    size = math.prod(tensor.dims) * _bits(onnx, tensor.data_type) // 8
    file = _beside(path, tensor, entries.get("location", ""))
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError as e:
        raise _no(path, tensor, f"has no readable place: {e}") from e
    if length != size or offset < 0 or size < 0 or offset + size > file.stat().st_size:
        raise _no(path, tensor, f"does not fit: {size} bytes at {offset} of {file.name}")
    if size > left:
        raise _no(path, tensor, f"is too large: at most {MAX_BYTES} bytes are read")
    with file.open("rb") as f:
        f.seek(offset)
        return f.read(size)


def _bits(onnx: Any, data_type: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8


def _beside(path: Path, tensor: Any, location: str) -> Path:
    """The file of that name in the model's folder; no other place is looked at."""
    file = path.parent / location
    if not location or Path(location).name != location or "\\" in location:
        raise _no(path, tensor, f"is kept in {location!r}, not beside the model")
    if not file.is_file():
        raise _no(path, tensor, f"is kept in {location!r}, which is not there")
    if file.resolve().parent != path.parent.resolve():
        raise _no(path, tensor, f"is kept in {location!r}, a link to elsewhere")
    return file


def _no(path: Path, tensor: Any, why: str) -> Exception:
    return refuse(path.name, f"weight {tensor.name!r}", why, _WAY_OUT)
