"""LiteRT (TensorFlow Lite) with its XNNPACK delegate, through its Python Interpreter.

Its CompiledModel takes half as long again for a small model's step, and views of its tensors
longer than set_tensor and get_tensor do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_rnn.cli.measure import Step, Variant
from edge_rnn.errors import MissingExtraError
from edge_rnn.graph import F32, Dense, Gru, Lstm, Model, Rnn
from edge_rnn_converters.peers.nodes import check

if TYPE_CHECKING:
    from edge_rnn_converters.peers.litert_graph import Export


def variants(model: Model, batch: int) -> list[Variant]:
    """float32, int8 weights with float32 values ("dynamic"), and all in int8 ("full").

    Raises MissingExtraError or UnsupportedError.
    """
    try:
        import ai_edge_litert
    except ImportError as e:
        raise MissingExtraError(
            "ai-edge-litert", extra="litert", need="to measure against LiteRT"
        ) from e
    check("LiteRT", model)
    products = any(isinstance(n, Rnn | Lstm | Gru | Dense) for n in model.nodes)
    exports: tuple[Export, ...] = ("float32", "int8 dynamic", "int8 full")
    return [
        Variant(
            f"LiteRT {export}",
            f"LiteRT {ai_edge_litert.__version__}",
            "float32" if export == "float32" else "int8",
            step(model, batch, export),
        )
        for export in (exports if products else exports[:1])
    ]


def step(model: Model, batch: int, export: Export) -> Step:
    """The states that a step fetched are fed to the next."""
    from ai_edge_litert.interpreter import Interpreter

    from edge_rnn_converters.peers.litert_graph import StepGraph

    graph = StepGraph(model, batch, export)
    # It applies XNNPACK by itself.
    interpreter = Interpreter(model_content=graph.blob, num_threads=1)
    interpreter.allocate_tensors()
    x, *states = (d["index"] for d in interpreter.get_input_details())
    outputs = [d["index"] for d in interpreter.get_output_details()]
    for tensor, value in zip(states, graph.states, strict=True):
        dtype = np.float32 if value.scale is None else np.int8
        interpreter.set_tensor(tensor, np.zeros((batch, value.width), dtype))
    which, start, stop = graph.output

    def step(rows: F32) -> F32:
        interpreter.set_tensor(x, rows)
        interpreter.invoke()
        fetched = [interpreter.get_tensor(o) for o in outputs]
        for tensor, value in zip(states, fetched, strict=False):
            interpreter.set_tensor(tensor, value)
        y: F32 = fetched[which][:, start:stop]
        return y

    return step
