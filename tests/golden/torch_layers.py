"""Makes torch_layers.npz here: python -m tests.golden.torch_layers, with torch==2.13.0 installed.

Each case is one layer over one random sequence: x (T, I), y (T', N) as PyTorch computes it in
float64 and, of a convolution, weight (N, I / groups, kernel) and bias (N). A causal layer is
PyTorch's over a sequence padded at its front, as its users write it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("torch_layers.npz")
STEPS = 37

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"i": 5, "n": 7, "kernel": 3, "padding": "valid"},
    "causal": {"i": 5, "n": 7, "kernel": 3, "padding": "causal"},
    "strided": {"i": 4, "n": 6, "kernel": 5, "stride": 3, "padding": "valid"},
    "causal strided dilated": {
        "i": 3,
        "n": 4,
        "kernel": 4,
        "stride": 2,
        "dilation": 3,
        "padding": "causal",
    },
    "groups": {"i": 6, "n": 9, "kernel": 2, "groups": 3, "dilation": 2, "padding": "valid"},
    "depthwise": {"i": 6, "n": 6, "kernel": 4, "groups": 6, "padding": "causal"},
    "depthwise twice": {"i": 3, "n": 6, "kernel": 3, "groups": 3, "stride": 2, "padding": "valid"},
    "pointwise": {"i": 8, "n": 2, "kernel": 1, "stride": 4, "padding": "causal"},
}
POOLS: dict[str, dict[str, Any]] = {
    f"{kind} {padding} {kernel} {stride}": {
        "kind": kind,
        "padding": padding,
        "kernel": kernel,
        "stride": stride,
    }
    for kind in ("max", "average")
    for padding in ("valid", "causal")
    for kernel, stride in ((2, 2), (3, 1), (4, 3), (2, 5))
}


def convolve(x: Any, weight: Any, bias: Any, case: dict[str, Any]) -> Any:
    """PyTorch's convolution of x (1, I, T)."""
    from torch.nn.functional import conv1d, pad

    stride, dilation = case.get("stride", 1), case.get("dilation", 1)
    if case["padding"] == "causal":
        x = pad(x, ((case["kernel"] - 1) * dilation, 0))
    return conv1d(x, weight, bias, stride, 0, dilation, case.get("groups", 1))


def pool(x: Any, case: dict[str, Any]) -> Any:
    """PyTorch's pooling of x (1, I, T); a mean is taken of what is not padding."""
    import torch
    from torch.nn.functional import avg_pool1d, max_pool1d, pad

    window = (case["kernel"], case["stride"])
    front = (case["kernel"] - 1, 0) if case["padding"] == "causal" else (0, 0)
    if case["kind"] == "max":
        return max_pool1d(pad(x, front, value=-torch.inf), *window)
    there = avg_pool1d(pad(torch.ones_like(x), front), *window)
    return avg_pool1d(pad(x, front), *window) / there


def main() -> None:
    """Write the file."""
    import torch

    rng, arrays = np.random.default_rng(0), dict[str, Any]()

    def random(*shape: int) -> Any:
        return rng.normal(0, 1, shape).astype(np.float32)

    for name, case in CONVOLUTIONS.items():
        i, n = case["i"], case["n"]
        x, bias = random(STEPS, i), random(n)
        weight = random(n, i // case.get("groups", 1), case["kernel"])
        x64, *parameters = (torch.tensor(a.astype(np.float64)) for a in (x.T[None], weight, bias))
        y = convolve(x64, *parameters, case)
        arrays |= {f"{name}/x": x, f"{name}/weight": weight, f"{name}/bias": bias}
        arrays[f"{name}/y"] = y[0].numpy().T
    for name, case in POOLS.items():
        x = random(STEPS, 5)
        y = pool(torch.tensor(x.T[None].astype(np.float64)), case)
        arrays |= {f"{name}/x": x, f"{name}/y": y[0].numpy().T}
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
