"""LiteRT (TensorFlow Lite), or its older tflite-runtime: where it is, and how its tensors keep
numbers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PACKAGES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}


def found() -> tuple[str, Any] | None:
    """(its package and version, the class Interpreter), None where neither is installed."""
    for module, package in _PACKAGES.items():
        try:
            kind = import_module(f"{module}.interpreter").Interpreter
        except ImportError:
            continue
        return f"{package} {version(package)}", kind
    return None


def stored(a: NDArray[Any], details: Mapping[str, Any]) -> NDArray[Any]:
    """Numbers as a tensor holds them, quantized where it is: round(a / scale) + zero, as TFLite's
    specification has it."""
    kind, (scale, zero) = details["dtype"], details["quantization"]
    if not scale or not np.issubdtype(kind, np.integer):
        return np.ascontiguousarray(a, kind)
    limits = np.iinfo(kind)
    whole = np.rint(a / np.float32(scale)) + zero
    return np.asarray(np.clip(whole, limits.min, limits.max), kind)


def meant(a: NDArray[Any], details: Mapping[str, Any]) -> NDArray[Any]:
    """The numbers that a tensor stands for."""
    scale, zero = details["quantization"]
    if not scale or not np.issubdtype(a.dtype, np.integer):
        return np.asarray(a)
    return np.asarray((a.astype(np.float32) - np.float32(zero)) * np.float32(scale))
