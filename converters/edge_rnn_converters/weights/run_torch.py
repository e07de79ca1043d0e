"""A described network in PyTorch's own layers: the arrays as they were saved, no order of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from edge_rnn.graph import F32, Schedule
from edge_rnn_converters.keras.run import quiet
from edge_rnn_converters.source import CannotRunError, SourceRun
from edge_rnn_converters.weights import schema
from edge_rnn_converters.weights.layer import Place

_ACTS = {
    "linear": "Identity", "relu": "ReLU", "relu6": "ReLU6", "tanh": "Tanh",
    "sigmoid": "Sigmoid", "softsign": "Softsign", "silu": "SiLU", "elu": "ELU", "selu": "SELU",
    "gelu": "GELU", "softplus": "Softplus", "mish": "Mish", "hard_swish": "Hardswish",
    "hard_tanh": "Hardtanh", "hard_sigmoid_relu6": "Hardsigmoid", "log_sigmoid": "LogSigmoid",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class TorchRunner:
    """Runs the layers one after the other. Between them stands a tensor (T, width), or, of a
    frame, (T, channels, positions) as PyTorch has it. `schedule`: when the converted model has
    outputs; None: when a window is whole, the last one."""

    places: Sequence[Place]
    schedule: Schedule | None

    def __call__(self, x: F32) -> SourceRun:
        """x (T, I) -> every output. Raises CannotRunError without torch, or where it has no such
        layer."""
        try:
            import torch
        except ImportError as e:
            raise CannotRunError("torch is not installed: pip install 'edge-rnn[torch]'") from e
        value, threads = torch.from_numpy(np.ascontiguousarray(x)), torch.get_num_threads()
        torch.set_num_threads(1)  # steps this small only wait for each other on several
        try:
            with torch.inference_mode(), quiet():
                for place in self.places:
                    value = _forward(place.keys, place, value)
        finally:
            torch.set_num_threads(threads)
        if value.ndim == 3:
            value = value.transpose(1, 2).flatten(1)
        y, framework = value.numpy(), f"torch {torch.__version__}"
        if self.schedule is None:
            return SourceRun(framework, np.array([len(x) - 1]), y[-1:])
        steps = self.schedule.first + self.schedule.period * np.arange(len(y))
        return SourceRun(framework, steps, y)


@singledispatch
def _forward(keys: schema.Layer, place: Place, x: Any) -> Any:
    """One layer."""
    raise NotImplementedError(type(keys).__name__)


def _tensors(place: Place) -> dict[str, Any]:
    import torch

    return {role: torch.from_numpy(np.ascontiguousarray(a)) for role, a in place.arrays.items()}


def _activate(act: str, x: Any) -> Any:
    from torch import nn

    if act == "gelu_tanh":
        return nn.GELU(approximate="tanh")(x)
    if act in ("exponential", "sqrt", "square", "abs", "log"):
        return getattr(x, act.replace("exponential", "exp"))()
    if act not in _ACTS:
        raise CannotRunError(f"PyTorch has no {act}")
    return getattr(nn, _ACTS[act])()(x)


@_forward.register(schema.Rnn)
@_forward.register(schema.Lstm)
@_forward.register(schema.Gru)
def _(keys: schema.Rnn | schema.Lstm | schema.Gru, place: Place, x: Any) -> Any:
    import torch

    state, x = _tensors(place), x.flatten(1)
    options: dict[str, Any] = {}
    if isinstance(keys, schema.Rnn):
        options["nonlinearity"] = keys.activation
        usual = keys.activation in ("tanh", "relu")
    else:
        usual = (keys.activation, keys.recurrent_activation) == ("tanh", "sigmoid")
    if not usual or getattr(keys, "reset", None) == "before":
        raise CannotRunError(f"PyTorch has no {keys.TYPE} with {place.label!r}'s activations")
    if (projection := state.get("weight_hr_l0")) is not None:
        options["proj_size"] = len(projection)
    hidden = (state["weight_hh_l0"] if projection is None else projection).shape[1]
    both = "weight_ih_l0_reverse" in state
    module = getattr(torch.nn, keys.TYPE.upper())(
        x.shape[1], hidden, sum("weight_ih" in role for role in state) // (1 + both),
        bidirectional=both,
        bias="bias_ih_l0" in state, batch_first=True, **options,
    )  # fmt: skip
    try:
        module.load_state_dict(state)
    except RuntimeError as e:  # one bias without the other
        raise CannotRunError(f"PyTorch has no {keys.TYPE} of {place.label!r}'s arrays") from e
    return module(x[None])[0][0]


@_forward.register
def _(keys: schema.Linear, place: Place, x: Any) -> Any:
    from torch.nn.functional import linear

    return _activate(keys.activation, linear(x.flatten(1), **_tensors(place)))


@_forward.register
def _(keys: schema.Conv1d, place: Place, x: Any) -> Any:
    from torch.nn.functional import conv1d, pad

    arrays = _tensors(place)
    w, b = arrays["weight"], arrays.get("bias")
    if keys.frame:
        x = _frame(x, w.shape[1])
        padding = 0 if keys.padding == "valid" else keys.padding
        return _activate(keys.activation, conv1d(x, w, b, keys.stride, padding))
    rows = x.flatten(1).T[None]
    if keys.padding == "causal":
        rows = pad(rows, ((w.shape[2] - 1) * keys.dilation, 0))
    y = conv1d(rows, w, b, keys.stride, 0, keys.dilation, keys.groups)
    return _activate(keys.activation, y[0].T)


def _frame(x: Any, channels: int) -> Any:
    """A message's numbers, all channels of a position side by side, as (T, channels, positions)."""
    return x if x.ndim == 3 else x.unflatten(1, (-1, channels)).transpose(1, 2)


@_forward.register
def _(keys: schema.Pool, place: Place, x: Any) -> Any:
    import torch
    from torch.nn.functional import avg_pool1d, max_pool1d, pad

    window = (keys.kernel, keys.stride or keys.kernel)
    rows = _frame(x, 1) if keys.frame else x.flatten(1).T[None]
    front = (keys.kernel - 1, 0) if keys.padding == "causal" else (0, 0)
    if isinstance(keys, schema.MaxPool):
        y = max_pool1d(pad(rows, front, value=-torch.inf), *window)
    else:
        there = avg_pool1d(pad(torch.ones_like(rows), front), *window)
        y = avg_pool1d(pad(rows, front), *window) / there
    return y if keys.frame else y[0].T


@_forward.register
def _(keys: schema.Pad, place: Place, x: Any) -> Any:
    from torch.nn.functional import pad

    mode = {"zero": "constant", "reflect": "reflect"}[keys.mode]
    return pad(_frame(x, 1), (keys.before, keys.after), mode=mode)


@_forward.register
def _(keys: schema.Magnitude, place: Place, x: Any) -> Any:
    import torch

    return torch.complex(*x.chunk(2, dim=1)).abs()


@_forward.register
def _(keys: schema.Embedding, place: Place, x: Any) -> Any:
    from torch.nn.functional import embedding

    return embedding(x[:, 0].long(), _tensors(place)["weight"])


@_forward.register
def _(keys: schema.LayerNorm, place: Place, x: Any) -> Any:
    from torch.nn.functional import layer_norm

    flat = x.flatten(1)
    return layer_norm(flat, flat.shape[1:], eps=place.epsilon(keys.epsilon), **_tensors(place))


@_forward.register
def _(keys: schema.RmsNorm, place: Place, x: Any) -> Any:
    from torch.nn.functional import rms_norm

    flat = x.flatten(1)
    return rms_norm(flat, flat.shape[1:], eps=keys.epsilon, **_tensors(place))


@_forward.register
def _(keys: schema.BatchNorm, place: Place, x: Any) -> Any:
    from torch.nn.functional import batch_norm

    arrays = {k: t for k, t in _tensors(place).items() if k != "num_batches_tracked"}
    return batch_norm(x, eps=place.epsilon(keys.epsilon), **arrays)


@_forward.register
def _(keys: schema.PRelu, place: Place, x: Any) -> Any:
    from torch.nn.functional import prelu

    return prelu(x, _tensors(place)["weight"])


@_forward.register
def _(keys: schema.Activation, place: Place, x: Any) -> Any:
    return _activate(keys.act, x)


@_forward.register
def _(keys: schema.L2Norm, place: Place, x: Any) -> Any:
    from torch.nn.functional import normalize

    return normalize(x.flatten(1), eps=keys.epsilon)


@_forward.register
def _(keys: schema.Softmax, place: Place, x: Any) -> Any:
    return x.flatten(1).softmax(1)


@_forward.register
def _(keys: schema.LogSoftmax, place: Place, x: Any) -> Any:
    return x.flatten(1).log_softmax(1)
