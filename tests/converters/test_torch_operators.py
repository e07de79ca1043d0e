"""Operators that PyTorch records: what converts, and how the others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.source import Options

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edge_rnn_converters.torch.source import read_module  # noqa: E402
from tests.converters.test_torch import H, I, T, converted, example, ops  # noqa: E402


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


F = nn.functional
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "relu in place": (lambda x: F.relu(x * 2, inplace=True), ["scale", "activation"]),
    "elu": (F.elu, ["activation"]),
    "gelu": (F.gelu, ["activation"]),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), ["activation"]),
    "silu": (F.silu, ["activation"]),
    "selu": (F.selu, ["activation"]),
    "mish": (F.mish, ["activation"]),
    "softplus": (F.softplus, ["activation"]),
    "softsign": (F.softsign, ["activation"]),
    "hardswish": (F.hardswish, ["activation"]),
    "hardtanh": (F.hardtanh, ["activation"]),
    "hardsigmoid": (F.hardsigmoid, ["activation"]),
    "relu6": (F.relu6, ["activation"]),
    "leaky_relu": (F.leaky_relu, ["prelu"]),
    "logsigmoid": (F.logsigmoid, ["scale", "activation", "scale"]),
    "softmax": (lambda x: F.softmax(x, 2), ["softmax"]),
    "log_softmax": (lambda x: F.log_softmax(x, -1), ["log_softmax"]),
    "normalize": (lambda x: F.normalize(x, dim=-1), ["l2_norm"]),
    "layer_norm": (lambda x: F.layer_norm(x, (I,)), ["layer_norm"]),
    "rms_norm": (lambda x: F.rms_norm(x, (I,)), ["rms_norm"]),
    "rsub": (lambda x: 3 - x, ["scale"]),
    "scaled sum": (lambda x: torch.add(x, x.tanh(), alpha=0.5), None),
    "parts": (lambda x: torch.cat([x[..., 2:], x.chunk(2, -1)[0].tanh()], -1), None),
}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, wanted = FUNCTIONS[name]
    model = converted(Of(function), example(1, 10, I))
    assert wanted is None or ops(model) == wanted


def test_convolution_and_pooling() -> None:
    module = nn.Sequential(nn.Conv1d(I, 5, 3), nn.BatchNorm1d(5), nn.ELU(), nn.MaxPool1d(2))
    assert ops(converted(module, example(1, I, 30)))[::3] == ["conv1d", "pool"]


def test_an_embedding() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.gru = nn.Embedding(11, 5), nn.GRU(5, H)

        def forward(self, x: Any) -> Any:
            return self.gru(self.table(x))[0]

    inputs = (torch.randint(11, (T, 1)),)
    assert ops(converted(Model(), inputs)) == ["embedding", "gru"]


def attention(x: Any) -> Any:
    return F.scaled_dot_product_attention(x, x, x)


def written(x: Any) -> Any:
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 0] * 2
    return y + x


def decided(x: Any) -> Any:
    return x * 2 if x.mean() > 0 else x * 3


def by_numpy(x: Any) -> Any:
    return x * torch.from_numpy(np.tanh(x.numpy()))


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "attention": (attention, "scaled_dot_product_attention: .*train without attention|scaled_dot"),
    "a write to a part": (written, "in-place operator: changes a tensor through another view"),
    "a decision": (decided, "control flow: what is computed depends on the data's values"),
    "numpy": (by_numpy, "two calls on different data do not run the same operators"),
    "noise": (lambda x: x + torch.randn(4), "two calls on different data"),
    "an unknown operator": (lambda x: torch.erfinv(x), "aten.erfinv.default 'erfinv': operator"),
    "a sum over time": (lambda x: x.cumsum(1), "aten.cumsum.default"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_operator(name: str) -> None:
    function, text = REFUSED[name]
    with pytest.raises(UnsupportedError, match=text):
        read_module(Of(function), Options(example_inputs=example(1, T, I)))
