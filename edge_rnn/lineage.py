"""Whether one model's states are another's too: the same network in another number format.

A state is float32 in every format (h, c, a convolution's ring, a window's messages), laid out by
the nodes' declarations, so it means the same wherever the weights are the same numbers rounded in
another way. A model that was trained again is not.
"""

from __future__ import annotations

import hashlib

from edge_rnn.graph import Matrix, Model, attributes, digest, reads, tensors


def lineage(model: Model) -> str:
    """SHA-256 in hex of the network that this model is a number format of.

    It covers the digest of the float32 model that the converter started from, and all of this
    file's structure except what a format changes: the type of matrices, `activations`, and biases,
    which are calibrated for a format. A file that does not tell what it was converted from stands
    for itself alone.
    """
    exact = model.provenance and model.provenance.exact
    h = hashlib.sha256(f"exact {exact or digest(model)}\n".encode())
    for i in model.inputs:
        h.update(f"input {i.name} {i.width}\n".encode())
    for node in model.nodes:
        choices = {k: v for k, v in attributes(node).items() if k != "activations"}
        h.update(f"{node.OP} {node.name} {' '.join(reads(node))} {choices}\n".encode())
        for name, _, tensor in tensors(node):
            shape = tensor.data.shape if isinstance(tensor, Matrix) else tensor.shape
            h.update(f"{name} {tuple(shape)}\n".encode())
    h.update(f"outputs {model.outputs} window {model.window} mask {model.mask}\n".encode())
    return h.hexdigest()
