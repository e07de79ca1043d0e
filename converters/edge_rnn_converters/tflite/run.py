"""Runs a TFLite model with LiteRT, to check a conversion against its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn_converters import litert
from edge_rnn_converters.source import CannotRunError
from edge_rnn_converters.tensors.run import Engine


def engine(
    blob: bytes, inputs: Sequence[str], outputs: Sequence[str], kept: Sequence[str]
) -> Engine:
    """LiteRT with the file loaded; it keeps the states `kept` itself, from call to call.

    Raises CannotRunError when neither LiteRT nor its predecessor is installed, or can't load it.
    """
    name, interpreter = _interpreter(blob)
    fed = list(zip(inputs, interpreter.get_input_details(), strict=True))
    fetched = list(zip(outputs, interpreter.get_output_details(), strict=True))
    inside = dict.fromkeys(kept, np.zeros(0, np.float32))

    def call(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for value, d in fed:
            interpreter.set_tensor(d["index"], litert.stored(feed[value], d))
        interpreter.invoke()
        found = {value: litert.meant(interpreter.get_tensor(d["index"]), d) for value, d in fetched}
        return {**inside, **found}

    return Engine(name, call)


def _interpreter(blob: bytes) -> tuple[str, Any]:
    if (found := litert.found()) is None:
        raise CannotRunError("LiteRT is not installed: pip install ai-edge-litert")
    name, kind = found
    try:
        interpreter = kind(model_content=blob, num_threads=1)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as e:
        raise CannotRunError(f"{name} can't load it: {e}") from e
    return name, interpreter
