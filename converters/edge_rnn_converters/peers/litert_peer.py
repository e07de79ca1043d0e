"""LiteRT (TensorFlow Lite) with its XNNPACK delegate, through its Python Interpreter.

Its CompiledModel takes half as long again for a small model's step, and views of its tensors
longer than set_tensor and get_tensor do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_rnn.cli.measure import Step, Variant
from edge_rnn.errors import MissingExtraError
from edge_rnn.graph import F32, Dense, Gru, Lstm, Model, Rnn
from edge_rnn_converters.peers.nodes import LITERT_EXPORTS, LitertExport, check

if TYPE_CHECKING:
    from edge_rnn_converters.peers.litert_graph import StepGraph


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
    return [
        Variant(
            f"LiteRT {export}",
            f"LiteRT {ai_edge_litert.__version__}",
            "float32" if export == "float32" else "int8",
            _step(model, batch, export),
        )
        for export in (LITERT_EXPORTS if products else LITERT_EXPORTS[:1])
    ]


def interpreter(model: Model, batch: int, export: LitertExport) -> tuple[Any, StepGraph]:
    """The model loaded, its states zero; XNNPACK is applied by itself."""
    from ai_edge_litert.interpreter import Interpreter

    from edge_rnn_converters.peers.litert_graph import StepGraph

    graph = StepGraph(model, batch, export)
    loaded = Interpreter(model_content=graph.blob, num_threads=1)
    loaded.allocate_tensors()
    _, *states = loaded.get_input_details()
    for tensor, value in zip(states, graph.states, strict=True):
        zeros = np.zeros((batch, value.width), np.float32 if value.scale is None else np.int8)
        loaded.set_tensor(tensor["index"], zeros)
    return loaded, graph


def _step(model: Model, batch: int, export: LitertExport) -> Step:
    """The states that a step fetched are fed to the next.

    For a small model what stands around `invoke` takes longer than itself, hence no loop for what
    most float32 graphs have, one state that is also the output.
    """
    loaded, graph = interpreter(model, batch, export)
    x, *states = (d["index"] for d in loaded.get_input_details())
    outputs = [d["index"] for d in loaded.get_output_details()]
    which, start, stop = graph.output
    put, invoke, fetch = loaded.set_tensor, loaded.invoke, loaded.get_tensor
    if len(states) == len(outputs) == 1:
        (state,), (after,) = states, outputs

        def step_one(rows: F32) -> F32:
            put(x, rows)
            invoke()
            new: F32 = fetch(after)
            put(state, new)
            return new[:, start:stop]

        return step_one
    pairs, last = list(zip(states, outputs, strict=False)), outputs[which]

    def step(rows: F32) -> F32:
        put(x, rows)
        invoke()
        for tensor, output in pairs:
            put(tensor, fetch(output))
        y: F32 = fetch(last)
        return y[:, start:stop]

    return step
