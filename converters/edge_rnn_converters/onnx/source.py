"""ONNX models: read as a graph of tensors, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_rnn_converters.detect import Format
from edge_rnn_converters.onnx import quantized
from edge_rnn_converters.onnx.file import load
from edge_rnn_converters.source import CannotRunError, Options, Source
from edge_rnn_converters.tensors.execute import as_source
from edge_rnn_converters.tensors.run import Engine, GraphRunner, QuantizedRunner


def read(path: Path, form: Format, options: Options) -> Source:
    """The model in an .onnx file.

    Raises UnsupportedError naming the operator and attribute that can't be run faithfully,
    ModelError for operands that do not fit together, MissingExtraError without onnx.
    """
    file = load(path, options.inputs)
    source = as_source(file.graph, lambda: _open(file.float_blob or file.blob), options)
    if not file.activations:
        return source
    assert isinstance(source.run, GraphRunner)  # noqa: S101 - as it was just made
    original = replace(source.run, open=lambda: _open(file.blob))
    notes = (*source.notes, quantized.ACTIVATIONS)
    return replace(source, run=QuantizedRunner(source.run, original), notes=notes)


def _open(blob: bytes) -> Engine:
    """Raises CannotRunError when ONNX Runtime is not installed or can't load the model."""
    try:
        import onnxruntime
    except ImportError as e:
        raise CannotRunError("onnxruntime is not installed: pip install onnxruntime") from e
    name = f"onnxruntime {onnxruntime.__version__}"
    try:
        session = _session(onnxruntime, blob)
    except Exception as e:
        # ONNX Runtime has no base class of its own for what a graph may do wrong.
        raise CannotRunError(f"{name} can't load it: {e}") from e
    names = [output.name for output in session.get_outputs()]

    def call(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        nonlocal session
        try:
            made = session.run(None, dict(feed))
        except Exception:
            # PyTorch's newer exporter may write down the steps that it saw as all that there are,
            # which only optimizations rely on.
            session = _session(onnxruntime, blob, optimized=False)
            made = session.run(None, dict(feed))
        return dict(zip(names, made, strict=True))

    return Engine(name, call)


def _session(onnxruntime: Any, blob: bytes, *, optimized: bool = True) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
