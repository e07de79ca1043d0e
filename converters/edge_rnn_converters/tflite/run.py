"""Runs a TFLite model with LiteRT, to check a conversion against its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn_converters.source import CannotRunError, Runner, SourceRun
from edge_rnn_converters.tensors.run import Engine


@dataclass(frozen=True, slots=True)
class QuantizedRunner:
    """Runs a file's float32 twin, and tells how far the file itself is from it."""

    twin: Runner
    own: Runner

    def __call__(self, x: F32) -> SourceRun:
        """x (T, I) -> the twin's outputs. Raises CannotRunError."""
        exact, integers = self.twin(x), self.own(x)
        gap = np.abs(exact.y - integers.y).max()
        text = f"{exact.framework}, in float32; its integers differ from that by up to {gap:.3g}"
        return replace(exact, framework=text)


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
            interpreter.set_tensor(d["index"], _stored(feed[value], d))
        interpreter.invoke()
        found = {value: _meant(interpreter.get_tensor(d["index"]), d) for value, d in fetched}
        return {**inside, **found}

    return Engine(name, call)


def _interpreter(blob: bytes) -> tuple[str, Any]:
    for package, called in (("ai_edge_litert", "LiteRT"), ("tflite_runtime", "TFLite")):
        try:
            module = import_module(f"{package}.interpreter")
        except ImportError:
            continue
        version = getattr(import_module(package), "__version__", "")
        name = f"{called} {version}".strip()
        try:
            interpreter = module.Interpreter(model_content=blob, num_threads=1)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as e:
            raise CannotRunError(f"{name} can't load it: {e}") from e
        return name, interpreter
    raise CannotRunError("LiteRT is not installed: pip install ai-edge-litert")


def _stored(a: NDArray[Any], details: Mapping[str, Any]) -> NDArray[Any]:
    """Numbers as the input tensor holds them."""
    scale, zero = details["quantization"]
    dtype = np.dtype(details["dtype"])
    if not scale:
        return np.ascontiguousarray(a, dtype)
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(a / scale) + zero, limits.min, limits.max), dtype)


def _meant(a: NDArray[Any], details: Mapping[str, Any]) -> NDArray[Any]:
    """The numbers that an output tensor stands for."""
    scale, zero = details["quantization"]
    return np.asarray((a.astype(np.float32) - zero) * np.float32(scale)) if scale else a
