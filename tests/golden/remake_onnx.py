"""Makes the files in `onnx/`, what PyTorch's newer ONNX exporter makes of recurrent networks.

    pip install torch==2.13.0 onnxscript==0.7.2 && python -m tests.golden.remake_onnx

Weights are random, so that files remade by another version compute the same kind of thing, not the
same numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from tests.converters.test_recognised import Begun, Builtin, H, I, OnlyOnce, Plain, Split

FOLDER = Path(__file__).parent / "onnx"
X = torch.zeros(1, 7, I)


class Net(nn.Module):
    """A recurrent layer of PyTorch's own, its first state zeros or learned."""

    def __init__(self, kind: Any, learned: bool = False) -> None:
        super().__init__()
        self.cell, self.head = kind(I, H, batch_first=True), nn.Linear(H, 2)
        self.start = nn.Parameter(torch.randn(1, 1, H)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x, self.start)[0])


def save(name: str, model: nn.Module, *given: Tensor, opset: int = 18, **options: Any) -> None:
    program = torch.onnx.export(model.eval(), given, dynamo=True, opset_version=opset, **options)
    proto = program.model_proto
    for part in (*proto.graph.node, *proto.graph.value_info, proto.graph, proto):
        del part.metadata_props[:]  # where each came from, in Python
    onnx.save(proto, FOLDER / f"{name}.onnx")


def main() -> None:
    torch.manual_seed(0)
    steps: Any = {"dynamic_shapes": {"x": {1: Dim("steps")}}}
    both: Any = {"dynamic_shapes": {"x": {0: Dim("batch"), 1: Dim("steps")}}}
    two = torch.zeros(2, 7, I)
    save("gru_step", OnlyOnce(Split()), torch.zeros(1, I), torch.zeros(1, H))
    save("gru_written", Plain(Split()), X)
    save("gru_written_learned", Begun(Split()), X)
    save("lstm_written_learned", Begun(Builtin("lstm")), X)
    save("gru_open", Net(nn.GRU), X, **steps)
    save("gru_open_batch", Net(nn.GRU), two, **both)
    save("gru_open_learned", Net(nn.GRU, learned=True), X, **steps)
    save("lstm_open_17", Net(nn.LSTM), X, opset=17, **steps)
    save("rnn_open_batch", Net(nn.RNN), two, **both)


if __name__ == "__main__":
    main()
