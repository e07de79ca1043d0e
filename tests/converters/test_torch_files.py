"""PyTorch modules, TorchScript and exported programs: a realistic network in each form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn import Session
from edge_rnn_converters import compare, convert, convert_with_report
from edge_rnn_converters.detect import detect
from edge_rnn_converters.source import Options

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edge_rnn_converters.torch.source import read  # noqa: E402
from tests.converters.test_torch import (  # noqa: E402
    H,
    I,
    agrees,
    converted,
    example,
    exported,
    ops,
    quietly,
)


class Realistic(nn.Module):
    """A causal convolution, two GRU layers, a norm with a way around it, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(I, 8, 3)
        self.gru = nn.GRU(8, H, 2, batch_first=True, dropout=0.2)
        self.norm, self.drop, self.head = nn.LayerNorm(H), nn.Dropout(0.5), nn.Linear(H, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.pad(x.transpose(1, 2), (2, 0))
        y = torch.relu(self.conv(y)).transpose(1, 2)
        y = self.gru(y)[0]
        return torch.softmax(self.head(self.drop(self.norm(y) + y)), -1)


REALISTIC = ["conv1d", "gru", "gru", "layer_norm", "add", "dense", "softmax"]


@pytest.fixture(scope="module")
def realistic() -> Any:
    torch.manual_seed(1)
    return Realistic().eval()


def test_a_module(realistic: Any) -> None:
    assert ops(converted(realistic, example(1, 30, I))) == REALISTIC


@pytest.mark.parametrize("how", ["traced", "scripted", "frozen"])
def test_torchscript(realistic: Any, how: str, tmp_path: Path) -> None:
    path = tmp_path / "any name"
    if how == "traced":
        script = quietly(torch.jit.trace, realistic, torch.zeros(1, 30, I))
    else:
        script = quietly(torch.jit.script, realistic)
    (quietly(torch.jit.freeze, script) if how == "frozen" else script).save(path)
    assert detect(path) == "torchscript"
    source = read(path, "torchscript", Options())
    assert ops(agrees(source)) == REALISTIC
    assert source.regime.window is None


def test_an_exported_program(realistic: Any, tmp_path: Path) -> None:
    path = exported(realistic, tmp_path / "m.pt2", 1, 30, I)
    assert detect(path) == "pt2"
    source = read(path, "pt2", Options())
    assert ops(agrees(source)) == REALISTIC
    assert source.regime.window == 30
    assert any("windows of 30 steps" in note for note in source.notes)


def test_an_exported_program_of_any_number_of_steps(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(I, H), nn.ReLU(), nn.LayerNorm(H), nn.Linear(H, 2)).eval()
    open_steps = ({1: torch.export.Dim("T", min=2, max=4096)},)
    path = exported(module, tmp_path / "m.pt2", 1, 30, I, dynamic=open_steps)
    source = read(path, "pt2", Options())
    agrees(source)
    assert source.regime.window is None


def test_an_exported_program_that_keeps_its_state(tmp_path: Path) -> None:
    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(I, H)
            self.register_buffer("h", torch.zeros(1, H))
            self.register_buffer("c", torch.zeros(1, H))

        def forward(self, x: Any) -> Any:
            h, c = self.cell(x, (self.h, self.c))
            self.h.copy_(h)
            self.c.copy_(c)
            return h

    path = exported(Buffered().eval(), tmp_path / "m.pt2", 1, I)
    assert ops(agrees(read(path, "pt2", Options()))) == ["lstm"]


def test_convert_takes_a_module_and_a_file(realistic: Any, tmp_path: Path) -> None:
    quietly(torch.jit.script, realistic).save(tmp_path / "m.pt")
    live = convert(realistic, "float32", example_inputs=example(1, 30, I), check="require")
    report = convert_with_report(tmp_path / "m.pt", "float32", check="require")
    x = compare.stress(live)
    y = Session(live, capacity=1).run("s", x)
    with torch.inference_mode():
        wanted = realistic(torch.from_numpy(x)[None])[0].numpy()
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(Session(report.model, capacity=1).run("s", x), y)
    assert report.report.source_error is not None
    assert live.provenance is not None
    assert live.provenance.source == "Realistic"
    assert len(live.provenance.sha256) == 64
