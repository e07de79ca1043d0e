"""ONNX Runtime, with its inputs and outputs bound to buffers once: its fastest Python interface."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_rnn.cli.measure import Step, Variant
from edge_rnn.errors import MissingExtraError
from edge_rnn.graph import F32, Lstm, Model
from edge_rnn_converters.peers.nodes import check


def variants(model: Model, batch: int) -> list[Variant]:
    """float32 and, where there is an LSTM, int8; it has no int8 GRU.

    Raises MissingExtraError or UnsupportedError.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime as ort
    except ImportError as e:
        raise MissingExtraError(
            "onnxruntime", extra="onnx", need="to measure against ONNX Runtime"
        ) from e
    check("ONNX Runtime", model)
    name = f"ONNX Runtime {ort.__version__}"
    found = [Variant(f"{name} float32", "float32", _step(model, batch, quantized=False))]
    if any(isinstance(n, Lstm) for n in model.nodes):
        step = _step(model, batch, quantized=True)
        found.append(Variant(f"{name} int8 (DynamicQuantizeLSTM)", "int8", step))
    return found


def _step(model: Model, batch: int, quantized: bool) -> Step:
    """Two bindings that take turns: the states that one writes, the other reads."""
    import onnxruntime as ort

    from edge_rnn_converters.peers.onnx_graph import StepGraph

    graph = StepGraph(model, batch, quantized)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(graph.blob, options, providers=["CPUExecutionProvider"])
    x, y = (np.zeros((batch, n), np.float32) for n in (graph.width, graph.output_width))
    pair: list[dict[str, F32]] = [
        {n: np.zeros((1, batch, width), np.float32) for n, width in graph.states.items()}
        for _ in range(2)
    ]
    name = model.inputs[0].name
    turns = [
        _bind(session, {name: x, **old}, {graph.output: y, **_next(new)})
        for old, new in (pair, pair[::-1])
    ]

    def step(rows: F32) -> F32:
        x[:] = rows
        session.run_with_iobinding(turns[0])
        turns.reverse()
        return y

    return step


def _next(states: dict[str, F32]) -> dict[str, F32]:
    return {f"{name}_next": state for name, state in states.items()}


def _bind(session: Any, inputs: dict[str, F32], outputs: dict[str, F32]) -> Any:
    """An OrtValue on the CPU shares the array's memory, so that nothing is copied."""
    import onnxruntime as ort

    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
    return binding
