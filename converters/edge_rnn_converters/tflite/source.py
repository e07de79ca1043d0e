"""TFLite models: translated to a graph of tensors, run by LiteRT."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_rnn_converters.detect import Format
from edge_rnn_converters.source import Options, Source
from edge_rnn_converters.tensors.execute import as_source
from edge_rnn_converters.tensors.graph import TensorGraph, TensorInput, needed
from edge_rnn_converters.tensors.run import Engine, GraphRunner, QuantizedRunner
from edge_rnn_converters.tflite import fused, loops, maths, moves, norms, sweeps, variables
from edge_rnn_converters.tflite.file import TfliteFile, load
from edge_rnn_converters.tflite.run import engine
from edge_rnn_converters.tflite.translate import KNOWN, Translation, translate
from edge_rnn_converters.tflite.twin import float_twin, quantized

OPERATORS = dict(sorted(KNOWN.items()))
"""Every operator that converts."""

HANDLERS = (fused, loops, maths, moves, sweeps, variables)
"""The modules that make operators known as they are imported."""

_LOOKING = {
    "CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D", "PAD", "PADV2", "MIRROR_PAD",
    "REVERSE_V2", "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN",
}  # fmt: skip

_INTEGERS = (
    "the file computes with integers; the model has the numbers that they stand for, and is "
    "checked against the same file in float32"
)


def read(path: Path, form: Format, options: Options) -> Source:
    """The model in a .tflite file; integers in it are read as the numbers that they stand for.

    Raises UnsupportedError naming the operator and attribute that can't be run faithfully,
    ModelError for operands that do not fit together, MissingExtraError without LiteRT.
    """
    return source(load(path), options)


def source(
    file: TfliteFile,
    options: Options,
    run_by: Callable[[Sequence[str], Sequence[str]], Engine] | None = None,
) -> Source:
    """The model of a file that is read. `run_by`, given the names of the graph's inputs and of its
    outputs, is what runs in place of the file, which was made of it. Raises as `read`."""
    t = translate(Translation(file, file.graphs[0]))
    graph = _graph(t)
    names = [t.name(i) for i in t.graph.inputs], [t.name(i) for i in t.graph.outputs]
    kept = tuple(name for name in graph.outputs if name not in names[1])
    if run_by is not None:
        return as_source(graph, lambda: run_by(*names), options)
    if not quantized(file):
        return as_source(graph, lambda: engine(file.blob, *names, kept), options)
    made = as_source(graph, lambda: engine(float_twin(file), *names, kept), options)
    twin = made.run
    assert isinstance(twin, GraphRunner)  # noqa: S101 - as `as_source` makes it
    own = replace(twin, open=lambda: engine(file.blob, *names, kept))
    run = QuantizedRunner(twin, own, _held(t, t.graph.inputs), _held(t, t.graph.outputs))
    return replace(made, run=run, notes=(*made.notes, _INTEGERS))


def _held(t: Translation, numbers: Iterable[int]) -> tuple[float, float]:
    """The least and the greatest number that any of the tensors holds."""
    ranges = []
    for tensor in map(t.tensor, numbers):
        q, kind = tensor.quantization, tensor.dtype
        if q is None or kind is None or kind.kind not in "iu":
            return -np.inf, np.inf
        limits = np.array([np.iinfo(kind).min, np.iinfo(kind).max])
        ranges.append((limits - q.zero.flat[0]) * q.scale.flat[0])
    return float(np.min(ranges)), float(np.max(ranges))


def _graph(t: Translation) -> TensorGraph:
    """The graph with the states that it keeps itself as inputs and outputs.

    Where it also looks at other steps of its run, which it does not keep, a run is a window by
    itself, and states begin it at zeros.
    """
    if any(o.kind in _LOOKING for o in t.graph.operators):
        t.constants |= {n: np.zeros(s, np.float32) for n, (_, s) in t.variables.items()}
        t.variables.clear()
    results = tuple(t.name(i) for i in t.graph.outputs)
    states = variables.close(t, results)
    after = tuple(s.after for s in states)
    inputs = [TensorInput(t.name(i), _dtype(t, i), t.tensor(i).shape) for i in t.graph.inputs] + [
        TensorInput(s.before, np.dtype(np.float32), s.shape) for s in states
    ]
    operators = needed(norms.in_order(t), (*results, *after))
    return TensorGraph(
        t.file.description, tuple(inputs), (*results, *after), dict(t.constants), operators,
        shapes=t.shapes(),
    )  # fmt: skip


def _dtype(t: Translation, number: int) -> np.dtype[Any]:
    """float32 also for integers that stand for other numbers."""
    tensor = t.tensor(number)
    quantized = tensor.quantization is not None
    return np.dtype(np.float32) if quantized or tensor.dtype is None else tensor.dtype
