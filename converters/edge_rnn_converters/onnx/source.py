"""ONNX models: read as a graph of tensors, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_rnn_converters.detect import Format
from edge_rnn_converters.onnx.file import load
from edge_rnn_converters.source import CannotRunError, Options, Source
from edge_rnn_converters.tensors.execute import as_source
from edge_rnn_converters.tensors.run import Engine


def read(path: Path, form: Format, options: Options) -> Source:
    """The model in an .onnx file.

    Raises UnsupportedError naming the operator and attribute that can't be run faithfully,
    ModelError for operands that do not fit together, MissingExtraError without onnx.
    """
    blob, graph = load(path)
    return as_source(graph, lambda: _open(blob), options)


def _open(blob: bytes) -> Engine:
    """Raises CannotRunError when ONNX Runtime is not installed or can't load the model."""
    try:
        import onnxruntime
    except ImportError as e:
        raise CannotRunError("onnxruntime is not installed: pip install onnxruntime") from e
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    name = f"onnxruntime {onnxruntime.__version__}"
    try:
        session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    except Exception as e:
        # ONNX Runtime has no base class of its own for what a graph may do wrong.
        raise CannotRunError(f"{name} can't load it: {e}") from e
    names = [output.name for output in session.get_outputs()]

    def call(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(None, dict(feed)), strict=True))

    return Engine(name, call)
