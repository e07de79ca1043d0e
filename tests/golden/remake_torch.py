"""Makes torch.npz here again: python -m tests.golden.remake_torch

It needs torch 2.13.0, minGRU-pytorch 0.2.1, LRU-pytorch 0.1.3 and einops, which no extra lists.
PyTorch's outputs in float64 for what the float64 reference is tested on. For each case NAME,
`NAME/y` is the output and `NAME/FIELD` what the case was given; `x` (T, I) is the input of all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from LRU_pytorch import LRU
from minGRU_pytorch import minGRU
from torch.nn import functional

T, I, H, R = 12, 6, 8, 3

ACTIVATIONS = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": functional.softsign,
    "silu": functional.silu,
    "hard_sigmoid_relu6": functional.hardsigmoid,
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "softplus": functional.softplus,
    "mish": functional.mish,
    "hard_swish": functional.hardswish,
    "hard_tanh": functional.hardtanh,
    "exponential": torch.exp,
    "log_sigmoid": functional.logsigmoid,
}


def single(*arrays: torch.Tensor) -> list[torch.Tensor]:
    """Rounded to float32, as weights are in a model."""
    return [a.float().double() for a in arrays]


def cases(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every array of the file but x."""
    made = {f"{name}/y": act(x) for name, act in ACTIVATIONS.items()}
    gain, bias, slope = single(1 + torch.randn(I), torch.randn(I), torch.rand(I))
    made |= {"layer_norm/gain": gain, "layer_norm/bias": bias, "prelu/slope": slope}
    made["layer_norm/y"] = functional.layer_norm(x, (I,), gain, bias, eps=1e-3)
    made["rms_norm/y"] = functional.rms_norm(x, (I,), gain, eps=1e-3)
    made["l2_norm/y"] = functional.normalize(x, eps=1e-12)
    made["log_softmax/y"] = functional.log_softmax(x, dim=1)
    made["softmax/y"] = functional.softmax(x, dim=1)
    made["prelu/y"] = functional.prelu(x, slope)
    layers = {
        "lstm": torch.nn.LSTM(I, H, proj_size=R),
        "rnn": torch.nn.RNN(I, H, nonlinearity="relu"),
        "min_gru": minGRU(I),
        "lru": LRU(I, R, H),
    }
    for name, layer in layers.items():
        for field, weights in layer.named_parameters():
            weights.data = weights.data.to(torch.complex64 if weights.is_complex() else torch.float)
            weights.data = weights.data.to(
                torch.complex128 if weights.is_complex() else torch.double
            )
            made[f"{name}/{field}"] = weights
    made |= {f"{name}/y": layers[name](x)[0] for name in ("lstm", "rnn")}
    made["min_gru/y"] = layers["min_gru"](x[None])[0]
    made["lru/y"] = layers["lru"](x)
    return made | fastrnns(x)


def fastrnns(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """PyTorch's benchmarks/fastrnns/custom_lstms.py, LayerNormLSTMCell, gates i, f, g, o."""
    w, u = single(torch.randn(4 * H, I), torch.randn(4 * H, H) / H)
    norms = [torch.nn.LayerNorm(n).double() for n in (4 * H, 4 * H, H)]
    for norm in norms:
        norm.weight.data, norm.bias.data = single(
            1 + torch.randn(norm.weight.shape) / 4, torch.randn(norm.bias.shape) / 4
        )
    h, c, rows = torch.zeros(H).double(), torch.zeros(H).double(), []
    for x_t in x:
        i, f, g, o = (norms[0](w @ x_t) + norms[1](u @ h)).chunk(4)
        c = norms[2](torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))
        h = torch.sigmoid(o) * torch.tanh(c)
        rows.append(h)
    made = {"norm_lstm/w": w, "norm_lstm/u": u, "norm_lstm/y": torch.stack(rows)}
    for name, norm in zip(("x", "h", "c"), norms, strict=True):
        made |= {f"norm_lstm/{name}_gain": norm.weight, f"norm_lstm/{name}_bias": norm.bias}
    return made


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_default_dtype(torch.double)
    (x,) = single(torch.randn(T, I) * 3)
    arrays = {"x": x, **cases(x)}
    plain = {name: a.detach().numpy() for name, a in arrays.items()}
    halves = {np.dtype(np.float64): np.float32, np.dtype(np.complex128): np.complex64}
    small = {n: a if n.endswith("/y") else a.astype(halves[a.dtype]) for n, a in plain.items()}
    np.savez_compressed(Path(__file__).with_name("torch.npz"), **small)
