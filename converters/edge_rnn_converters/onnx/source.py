"""ONNX models: read as a graph of tensors, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import MismatchError
from edge_rnn.graph import F32
from edge_rnn_converters.detect import Format
from edge_rnn_converters.onnx import quantized
from edge_rnn_converters.onnx.file import load
from edge_rnn_converters.source import CannotRunError, Options, Source, SourceRun
from edge_rnn_converters.tensors.execute import as_source
from edge_rnn_converters.tensors.run import Engine, GraphRunner

MOST = 0.1


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
    return replace(source, run=_QuantizedRunner(source.run, original), notes=notes)


@dataclass(frozen=True, slots=True, eq=False)
class _QuantizedRunner:
    """Runs a source without the quantization of its activations, and says what that changes.

    Eight bits leave each activation a noise of 1 / (255 sqrt(12)) of its range, 0.1 %: where the
    two differ by more than MOST of the result, it is not that noise.
    """

    plain: GraphRunner
    original: GraphRunner

    def __call__(self, x: F32) -> SourceRun:
        """The run of the graph without it.

        Raises CannotRunError, and MismatchError where the two differ too much.
        """
        run, given = self.plain(x), self.original(x)
        error = float(np.sqrt(np.mean((run.y - given.y) ** 2)))
        usual = float(np.sqrt(np.mean(run.y**2)))
        if not error <= MOST * usual:
            raise MismatchError(
                f"{given.framework} with the source's own quantization differs from its weights "
                f"in float by {error:.2g} (rms, of {usual:.2g}): convert the float32 model"
            )
        note = f"quantizing its activations moves the source's result by {error:.2g} (rms)"
        return replace(run, notes=(note,))


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
