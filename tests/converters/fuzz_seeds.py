"""Sound files of every format, small, to be changed: see `fuzz`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from tests.converters.fuzz import Seed
from tests.converters.keras_models import H, keras2_file, layers, made, recurrent_config
from tests.converters.onnx_models import Graph, I, random
from tests.converters.test_keras2 import weights
from tests.converters.test_torch import exported, quietly
from tests.converters.test_weight_files import checkpoint, h5
from tests.converters.test_weights import cell
from tests.converters.test_weights import weights as arrays_of

GOLDEN = Path(__file__).parents[1] / "golden"
ARRAYS = cell("lstm", 4, 6, H) | arrays_of(fc__weight=(4, H), fc__bias=(4,))
NETWORK = "lstm, linear, softmax"


def _onnx(folder: Path) -> list[Seed]:
    g = Graph()
    y = g("Squeeze", g.cell("GRU", "x")[0], g.const([1]))
    y = g("Softmax", g("Add", g("MatMul", g("Relu", y), g.const(random(H, 4))), g.const(random(4))))
    (folder / "gru.onnx").write_bytes(g.model({"x": ["T", 1, I]}, [y]).SerializeToString())
    g = Graph()
    h, c = (g("Unsqueeze", g("Gather", "s", g.const(k), axis=0), g.const([0])) for k in (0, 1))
    x = g("Relu", g("Conv", "x", g.const(random(I, I, 3)), pads=[1, 1], kernel_shape=[3]))
    x = g("Transpose", g("ReduceMean", x, axes=[2], keepdims=1), perm=[2, 0, 1])
    y, hn, cn = g.cell("LSTM", x, g.bias("LSTM"), "", h, c)
    flat = g("Reshape", y, g.const([1, -1]))
    out = g("Sigmoid", g("Gemm", flat, g.const(random(2, H)), transB=1))
    after = g("Concat", hn, cn, axis=0)
    states = g("Reshape", after, g.const([2, 1, H]))
    model = g.model({"x": [1, I, 8], "s": [2, 1, H]}, [out, states])
    (folder / "lstm_state.onnx").write_bytes(model.SerializeToString())
    written = "gru_written_learned.onnx"
    (folder / written).write_bytes((GOLDEN / "onnx" / written).read_bytes())
    return [Seed("gru.onnx", "onnx"), Seed("lstm_state.onnx", "onnx"), Seed(written, "onnx")]


def _keras(folder: Path) -> list[Seed]:
    front = [layers.Conv1D(4, 3, padding="causal", activation="relu"), layers.BatchNormalization()]
    stack = [*front, layers.GRU(H, return_sequences=True), layers.LSTM(3), layers.Dense(2)]
    made(*stack).save(folder / "stack.keras")
    entries: list[Any] = [("LSTM", recurrent_config(), weights("LSTM"))]
    keras2_file(folder / "lstm.h5", entries)
    h5(folder / "weights.h5")
    return [Seed("stack.keras", "zip"), Seed("lstm.h5", "h5"), Seed("weights.h5", "h5", "gru")]


def _tflite(folder: Path) -> list[Seed]:
    names = ["lstm.tflite", "gru_unrolled.tflite", "conv_fused.tflite", "lstm_fused_int8.tflite"]
    for name in names:
        (folder / name).write_bytes((GOLDEN / "tflite" / name).read_bytes())
    return [Seed(name, "tflite") for name in names]


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(I, 4, 3), nn.GRU(4, H, batch_first=True)
        self.head = nn.Linear(H, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))
        return torch.softmax(self.head(y), -1)


def _torch(folder: Path) -> list[Seed]:
    torch.manual_seed(0)
    quietly(torch.jit.script, _Net().eval()).save(folder / "net.pt")
    exported(_Net().eval(), folder / "net.pt2", 1, 9, I)
    checkpoint(ARRAYS, folder / "weights.pt")
    checkpoint(ARRAYS, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    return [Seed("net.pt", "zip"), Seed("net.pt2", "zip"), Seed("weights.pt", "zip", NETWORK),
            Seed("legacy.pt", "pickle", NETWORK)]  # fmt: skip


def _weights(folder: Path) -> list[Seed]:
    save_file(ARRAYS, folder / "w.safetensors")
    np.savez(folder / "w.npz", **ARRAYS)
    return [Seed("w.safetensors", "safetensors", NETWORK), Seed("w.npz", "zip", NETWORK)]


FAMILIES: dict[str, Callable[[Path], list[Seed]]] = {
    "onnx": _onnx, "keras": _keras, "tflite": _tflite, "torch": _torch, "arrays": _weights,
}  # fmt: skip
"""What writes the seeds of a family of formats into a folder."""
