"""What tells models, and their answers, apart: SHA-256 over their bits."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph.model import Model
from edge_rnn.graph.node import F32, Matrix, attributes, reads, tensors


def output_digest(y: F32) -> str:
    """SHA-256 in hex over the bits of y as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(y, "<f4").tobytes()).hexdigest()


def digest(model: Model) -> str:
    """SHA-256 in hex of what the model computes: structure and weights, not descriptions.

    Two models with the same digest can exchange their streams' states.
    """
    h = hashlib.sha256()
    for i in model.inputs:
        h.update(f"input {i.name} {i.width}\n".encode())
    for node in model.nodes:
        h.update(f"{node.OP} {node.name} {' '.join(reads(node))} {attributes(node)}\n".encode())
        for name, _, tensor in tensors(node):
            for part in _parts(tensor):
                h.update(f"{name} {part.dtype} {part.shape}\n".encode())
                h.update(np.ascontiguousarray(part).tobytes())
    h.update(f"outputs {model.outputs}\n".encode())
    if model.window is not None:
        window = model.window
        h.update(f"window {window.length} {window.hop} {window.every}\n".encode())
    if model.mask is not None:
        h.update(f"mask {np.float32(model.mask)}\n".encode())
    return h.hexdigest()


def _parts(tensor: Any) -> list[NDArray[Any]]:
    if not isinstance(tensor, Matrix):
        return [tensor]
    return [tensor.data] if tensor.scale is None else [tensor.data, tensor.scale]
