"""PyTorch: its cell modules in inference mode, on one thread."""

from __future__ import annotations

import warnings
from typing import Any

from edge_rnn.cli.measure import Step, Variant
from edge_rnn.errors import MissingExtraError, UnsupportedError
from edge_rnn.graph import (
    F32,
    Activation,
    Dense,
    Gru,
    Lstm,
    Model,
    Node,
    Rnn,
    Scale,
    Softmax,
)
from edge_rnn_converters.peers.nodes import check, float32


def variants(model: Model, batch: int) -> list[Variant]:
    """float32, and int8 weights by torch.ao.quantization.quantize_dynamic.

    Raises MissingExtraError or UnsupportedError. It sets the process to one PyTorch thread.
    """
    try:
        import torch
    except ImportError as e:
        raise MissingExtraError("torch", extra="torch", need="to measure against PyTorch") from e
    check("PyTorch", model)
    for n in model.nodes:
        if isinstance(n, Gru) and n.reset == "before":
            raise UnsupportedError(f"PyTorch: node {n.name!r}: it has no GRU with reset='before'")
        if isinstance(n, Rnn) and n.act not in ("tanh", "relu"):
            raise UnsupportedError(f"PyTorch: node {n.name!r}: it has no RNN with act={n.act!r}")
    torch.set_num_threads(1)
    layers = torch.nn.ModuleList(_module(n) for n in model.nodes).eval()
    runtime = f"PyTorch {torch.__version__}"
    found = [Variant("PyTorch float32", runtime, "float32", _step(model, layers, batch))]
    if any(isinstance(n, Rnn | Lstm | Gru | Dense) for n in model.nodes):
        found.append(Variant("PyTorch int8", runtime, "int8", _step(model, _int8(layers), batch)))
    return found


def _int8(layers: Any) -> Any:
    import torch

    with warnings.catch_warnings():
        # It says that it will move to another package some day.
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(layers)


def _step(model: Model, layers: Any, batch: int) -> Step:
    import torch

    states: list[Any] = [_initial(n, batch) for n in model.nodes]
    names = [model.inputs[0].name, *(n.name for n in model.nodes)]
    reads = [names.index(n.input) for n in model.nodes]
    output = names.index(model.outputs[0])

    def step(x: F32) -> F32:
        with torch.inference_mode():
            values = [torch.from_numpy(x)]
            for k, layer in enumerate(layers):
                if states[k] is None:
                    values.append(layer(values[reads[k]]))
                else:
                    new = states[k] = layer(values[reads[k]], states[k])
                    values.append(new[0] if isinstance(new, tuple) else new)
            y: F32 = values[output].numpy()
            return y

    return step


def _initial(node: Node, batch: int) -> Any:
    import torch

    if not isinstance(node, Rnn | Lstm | Gru):
        return None
    zeros = torch.zeros(batch, node.u.data.shape[1])
    return (zeros, zeros) if isinstance(node, Lstm) else zeros


def _module(node: Node) -> Any:
    from torch import nn

    if isinstance(node, Rnn | Lstm | Gru):
        return _cell(node)
    if isinstance(node, Dense):
        linear = nn.Linear(*node.w.data.shape[::-1])
        _fill(linear, weight=float32(node.w), bias=node.b)
        return linear if node.act == "linear" else nn.Sequential(linear, _activation(node.act))
    if isinstance(node, Scale):
        return _scale(node)
    if isinstance(node, Softmax):
        return nn.Softmax(dim=1)
    assert isinstance(node, Activation)  # noqa: S101 - `check` lets nothing else pass
    return _activation(node.act)


def _activation(act: str) -> Any:
    from torch import nn

    return {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "linear": nn.Identity}[act]()


def _scale(node: Scale) -> Any:
    import torch

    offset, scale, shift = (torch.tensor(v) for v in (node.offset, node.scale, node.shift))

    class Affine(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return (x - offset) * scale + shift

    return Affine()


def _cell(node: Rnn | Lstm | Gru) -> Any:
    """The cell with our weights; PyTorch's GRU keeps its gates as r, z, n."""
    import numpy as np
    from torch import nn

    w, u, b = float32(node.w), float32(node.u), node.b
    recurrent = np.zeros_like(b)
    shape = (w.shape[1], u.shape[1])
    if isinstance(node, Gru):
        cell = nn.GRUCell(*shape)
        recurrent[-len(node.rb) :] = node.rb
        w, u, b = (np.concatenate([np.split(a, 3)[k] for k in (1, 0, 2)]) for a in (w, u, b))
    elif isinstance(node, Lstm):
        cell = nn.LSTMCell(*shape)
    else:
        cell = nn.RNNCell(*shape, nonlinearity=node.act)
    _fill(cell, weight_ih=w, weight_hh=u, bias_ih=b, bias_hh=recurrent)
    return cell


def _fill(module: Any, **arrays: F32) -> None:
    import torch

    with torch.no_grad():
        for name, array in arrays.items():
            getattr(module, name).copy_(torch.from_numpy(array.copy()))
