"""ONNX Runtime, with its inputs and outputs bound to buffers once: its fastest Python interface."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_rnn.cli.measure import Step, Variant
from edge_rnn.errors import MissingExtraError
from edge_rnn.graph import F32, Lstm, Model
from edge_rnn_converters.peers.nodes import check


def variants(model: Model, batch: int) -> list[Variant]:
    """float32 and, where there is an LSTM, int8 (DynamicQuantizeLSTM); it has no int8 GRU.

    Raises MissingExtraError or UnsupportedError.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime as ort
    except ImportError as e:
        package = e.name or "onnxruntime"
        need = "to measure against ONNX Runtime"
        raise MissingExtraError(package, extra="onnx", need=need) from e
    check("ONNX Runtime", model)
    runtime = f"ONNX Runtime {ort.__version__}"
    step = _step(model, batch, quantized=False)
    found = [Variant("ONNX Runtime float32", runtime, "float32", step)]
    if any(isinstance(n, Lstm) for n in model.nodes):
        step = _step(model, batch, quantized=True)
        found.append(Variant("ONNX Runtime int8", runtime, "int8", step))
    return found


def _step(model: Model, batch: int, quantized: bool) -> Step:
    """Two bindings that take turns: the states that one writes, the other reads."""
    import onnxruntime as ort

    from edge_rnn_converters.peers.onnx_graph import StepGraph, after

    graph = StepGraph(model, batch, quantized)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(graph.blob, options, providers=["CPUExecutionProvider"])
    x = np.zeros((1, batch, model.input_width), np.float32)
    y = np.zeros((1, batch, model.output_width), np.float32)
    pair: list[dict[str, F32]] = [
        {n: np.zeros((1, batch, width), np.float32) for n, width in graph.states.items()}
        for _ in range(2)
    ]
    turns: list[tuple[Any, F32]] = []
    for old, new in (pair, pair[::-1]):
        outputs = {graph.output: y, **{after(n): state for n, state in new.items()}}
        binding = _bind(session, {graph.input: x, **old}, outputs)
        turns.append((binding, outputs[graph.output][0]))

    feed, run = x[0], session.run_with_iobinding

    def step(rows: F32) -> F32:
        feed[:] = rows
        turns.reverse()
        binding, out = turns[0]
        run(binding)
        return out

    return step


def _bind(session: Any, inputs: dict[str, F32], outputs: dict[str, F32]) -> Any:
    """An OrtValue on the CPU shares the array's memory, so that nothing is copied."""
    import onnxruntime as ort

    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
    return binding
