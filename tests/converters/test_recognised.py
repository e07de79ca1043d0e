"""Cells that a model has written out in equations, in PyTorch and ONNX, in each of the ways."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_rnn.errors import UnsupportedError
from edge_rnn.graph import Window
from edge_rnn_converters import convert_with_report
from tests.converters.onnx_models import Graph, I, random

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden" / "onnx"
H = 5


class Lstm(nn.Module):
    """One product of the input and the state side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(I + H, 4 * H)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Gru(nn.Module):
    """Reset before or after the product, gates apart."""

    def __init__(self, after: bool) -> None:
        super().__init__()
        self.after = after
        self.wz, self.wr, self.wn = (nn.Linear(I, H) for _ in range(3))
        self.uz, self.ur, self.un = (nn.Linear(H, H) for _ in range(3))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.sigmoid(self.wz(x) + self.uz(h))
        r = torch.sigmoid(self.wr(x) + self.ur(h))
        inner = r * self.un(h) if self.after else self.un(r * h)
        return (1 - z) * torch.tanh(self.wn(x) + inner) + z * h, c


class Split(nn.Module):
    """All gates in two products, cut apart."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(I, 3 * H), nn.Linear(H, 3 * H)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        xr, xz, xn = self.w(x).chunk(3, 1)
        hr, hz, hn = self.u(h).chunk(3, 1)
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        n = torch.tanh(xn + r * hn)
        return n + z * (h - n), c


class Rnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(I, H), nn.Linear(H, H, bias=False)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(self.w(x) + 0.3 * self.u(h)), c


CELLS = {
    "lstm": Lstm,
    "gru": lambda: Gru(True),
    "gru before": lambda: Gru(False),
    "gru split": Split,
    "rnn": Rnn,
}


class Over(nn.Module):
    """The cell in a loop over the steps, with a layer around each."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.norm, self.head = cell, nn.LayerNorm(I), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 5)
        c = torch.zeros(x.size(0), 5)
        rows = []
        for t in range(x.size(1)):
            h, c = self.cell(self.norm(x[:, t]), h, c)
            rows.append(self.head(h))
        return torch.stack(rows, 1)


class Plain(Over):
    """The layers around the loop."""

    def forward(self, x: Tensor) -> Tensor:
        h, c = torch.zeros(1, H), torch.zeros(1, H)
        rows = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], h, c)
            rows.append(h)
        return self.head(torch.stack(rows, 1))


class Begun(Plain):
    """The states before the first step are learned, or of one number."""

    def __init__(self, cell: nn.Module, start: str = "learned") -> None:
        super().__init__(cell)
        self.start, self.h, self.c = start, *(nn.Parameter(torch.randn(1, H)) for _ in "hc")

    def forward(self, x: Tensor) -> Tensor:
        h, c = self.h, self.c
        if self.start == "expanded":
            h, c = h.expand(x.size(0), -1), torch.tanh(c).repeat(x.size(0), 1)
        elif self.start == "full":
            h, c = torch.full((x.size(0), H), 0.5), torch.ones(x.size(0), H)
        elif self.start == "new":
            h, c = x.new_zeros(x.size(0), H), x.new_full((x.size(0), H), 0.5)
        rows = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], h, c)
            rows.append(h)
        return self.head(torch.stack(rows, 1))


class Builtin(nn.Module):
    """PyTorch's own cell, in a form for `Begun`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[kind](I, H)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.cell, nn.LSTMCell):
            return self.cell(x, (h, c))
        return self.cell(x, h), c


class Once(nn.Module):
    """One step, the state packed in one tensor that it takes and returns."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(H, 2)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = self.cell(x, state[0], state[1])
        return self.head(h), torch.stack([h, c])


class OnlyOnce(Once):
    """One step of a cell without c."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h, _ = self.cell(x, h, h)
        return self.head(h), h


def exported(model: nn.Module, given: tuple[Tensor, ...], path: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, given, str(path), dynamo=False, opset_version=17, **options)
    return path


def scripted(model: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(model)


def traced(model: nn.Module, given: tuple[Tensor, ...], path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model.eval(), given).save(str(path))
    return path


def ops(source: Any, **options: Any) -> list[str]:
    conversion = convert_with_report(source, quantize="float32", check="require", **options)
    assert conversion.report.source_error is not None
    assert conversion.report.source_error < 1e-5
    return [node.OP for node in conversion.model.nodes]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_in_python_over_any_number_of_steps(kind: str) -> None:
    found = ops(Over(CELLS[kind]()), example_inputs=(torch.zeros(1, 7, I),))
    assert found == ["layer_norm", kind.split()[0], "dense"]


@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_that_onnx_holds_as_a_graph(kind: str, tmp_path: Path) -> None:
    model = scripted(Over(CELLS[kind]()).eval())
    path = exported(model, (torch.zeros(1, 7, I),), tmp_path / "m.onnx", input_names=["x"],
                    dynamic_axes={"x": {1: "steps"}})  # fmt: skip
    assert b"Loop" in path.read_bytes()
    assert ops(path) == ["layer_norm", kind.split()[0], "dense"]


@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_that_onnx_has_written_out(kind: str, tmp_path: Path) -> None:
    model = Plain(CELLS[kind]()).eval()
    path = exported(model, (torch.zeros(1, 7, I),), tmp_path / "m.onnx")
    assert ops(path) == [kind.split()[0], "dense"]


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("start", ["learned", "expanded", "full"])
def test_a_loop_in_python_from_constant_states(kind: str, start: str) -> None:
    given = (torch.zeros(1, 7, I),)
    assert ops(Begun(CELLS[kind](), start), example_inputs=given) == [kind.split()[0], "dense"]


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_loop_of_pytorch_s_own_cell_from_learned_states(kind: str) -> None:
    found = ops(Begun(Builtin(kind)), example_inputs=(torch.zeros(1, 7, I),))
    assert found == [kind, "dense"]


def written_out(model: nn.Module, path: Path) -> Path:
    torch.export.save(torch.export.export(model.eval(), (torch.zeros(1, 7, I),)), path)
    return path


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("start", ["zeros", "learned", "expanded", "full", "new"])
def test_a_loop_of_pytorch_s_own_cell_that_an_exported_program_has_written_out(
    kind: str, start: str, tmp_path: Path
) -> None:
    cell = Builtin(kind)
    model = Plain(cell) if start == "zeros" else Begun(cell, start)
    assert ops(written_out(model, tmp_path / "m.pt2")) == [kind, "dense"]


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_traced_step_of_pytorch_s_own_cell_whose_parts_are_written_to(
    kind: str, tmp_path: Path
) -> None:
    """Tracing takes the cell apart: it adds to a sum's parts and applies gates to them in place."""
    model = Once(Builtin(kind)) if kind == "lstm" else OnlyOnce(Builtin(kind))
    state = torch.zeros(*([2] if kind == "lstm" else []), 1, H)
    path = traced(model, (torch.zeros(1, I), state), tmp_path / "m.pt")
    shapes = {"x": (1, I), "state": (2, 1, H), "h": (1, H)}
    assert ops(path, inputs=shapes) == [kind, "dense"]


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_traced_loop_of_pytorch_s_own_cell(kind: str, tmp_path: Path) -> None:
    path = traced(Plain(Builtin(kind)), (torch.zeros(1, 7, I),), tmp_path / "m.pt")
    assert ops(path, inputs={"x": (1, 7, I)}) == [kind, "dense"]
    with pytest.raises(UnsupportedError, match=r"reads some of the steps.*--input x=1x30x6"):
        ops(path)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_written_out_loop_with_another_step_among_its_own_is_refused(
    kind: str, tmp_path: Path
) -> None:
    class Odd(Builtin):
        calls = 0

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            self.calls += 1
            return super().forward(x, h * 0.5 if self.calls == 5 else h, c)

    with pytest.raises(UnsupportedError, match="step 4 computes another thing than the second"):
        ops(written_out(Begun(Odd(kind)), tmp_path / "m.pt2"))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("start", ["learned", "expanded", "full"])
def test_a_loop_from_constant_states_that_onnx_has_written_out(
    kind: str, start: str, tmp_path: Path
) -> None:
    model = Begun(CELLS[kind](), start).eval()
    path = exported(model, (torch.zeros(1, 7, I),), tmp_path / "m.onnx")
    assert ops(path) == [kind.split()[0], "dense"]


def test_a_state_before_the_loop_that_follows_from_the_input_is_refused() -> None:
    class Begins(Plain):
        def forward(self, x: Tensor) -> Tensor:
            h, rows = torch.tanh(self.cell.w(x[:, 0])), []
            for t in range(x.size(1)):
                h, _ = self.cell(x[:, t], h, h)
                rows.append(h)
            return self.head(torch.stack(rows, 1))

    with pytest.raises(UnsupportedError, match="before the first step depends on the input"):
        ops(Begins(Rnn()), example_inputs=(torch.zeros(1, 7, I),))


NEWER: dict[str, list[str]] = {
    "gru_step": ["gru", "dense"],
    "gru_written": ["gru", "dense"],
    "gru_written_learned": ["gru", "dense"],
    "gru_open": ["gru", "dense"],
    "gru_open_batch": ["gru", "dense"],
    "gru_open_learned": ["gru", "dense"],
    "lstm_open_17": ["lstm", "dense"],
}


@pytest.mark.parametrize("name", NEWER)
def test_what_pytorch_s_newer_exporter_makes(name: str) -> None:
    """See tests/golden/remake_onnx.py; open steps and batch, operator sets 17 and 18."""
    assert ops(GOLDEN / f"{name}.onnx") == NEWER[name]


def test_a_learned_state_that_the_newer_exporter_multiplied_out_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"multiplied a constant state out.*dynamo=False"):
        ops(GOLDEN / "lstm_written_learned.onnx")


def test_an_open_batch_of_a_loop_that_the_newer_exporter_wrote_out_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="export with a batch of one, and no open batch"):
        ops(GOLDEN / "rnn_open_batch.onnx")


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("batch", [False, True])
def test_one_step_with_its_state(kind: str, batch: bool, tmp_path: Path) -> None:
    """Of an LSTM, h and c in one tensor."""
    shape, at = ((2, 1, H), 1) if kind == "lstm" else ((1, H), 0)
    model = (Once if kind == "lstm" else OnlyOnce)(CELLS[kind]()).eval()
    given = torch.zeros(1, I), torch.zeros(shape)
    axes = {"x": {0: "batch"}, "state": {at: "batch"}} if batch else {}
    path = exported(model, given, tmp_path / "m.onnx",
                    input_names=["x", "state"], dynamic_axes=axes)  # fmt: skip
    assert ops(path) == ops(model, example_inputs=given) == [kind.split()[0], "dense"]


def scan(axis: int, head: bool = False) -> onnx.ModelProto:
    """An Elman cell as a `Scan` over (steps, batch, I) or (batch, steps, I)."""
    body = Graph()
    sums = body("Add", body("MatMul", "xt", "w"), body("MatMul", "h", "u"))
    after = body("Tanh", sums)
    row = body("Mul", after, after) if head else body("Identity", after)
    info = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    inner = onnx.helper.make_graph(
        body.nodes, "body", [info("h", kind, [1, H]), info("xt", kind, [1, I])],
        [info(after, kind, [1, H]), info(row, kind, [1, H])],
    )  # fmt: skip
    g = Graph()
    start = g.const(np.zeros((1, H), np.float32))
    g.constants += [
        onnx.numpy_helper.from_array(random(I, H), "w"),
        onnx.numpy_helper.from_array(random(H, H), "u"),
    ]
    _, y = g("Scan", start, "x", outputs=2, body=inner, num_scan_inputs=1,
             scan_input_axes=[axis], scan_output_axes=[axis])  # fmt: skip
    shape = ["T", 1, I] if axis == 0 else [1, "T", I]
    return g.model({"x": shape}, [y])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("head", [False, True])
def test_a_scan_over_the_steps(axis: int, head: bool, tmp_path: Path) -> None:
    onnx.save(scan(axis, head), tmp_path / "m.onnx")
    assert ops(tmp_path / "m.onnx") == ["rnn", "multiply"] if head else ["rnn"]


def test_what_is_no_cell_is_refused_by_what_is_in_the_way(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.sin(x + h)

    given = torch.zeros(1, H), torch.zeros(1, H)
    path = exported(Odd(), given, tmp_path / "m.onnx", input_names=["x", "h"])
    with pytest.raises(UnsupportedError, match="Sin '/Sin': operator: is in the way"):
        convert_with_report(path)


def test_a_state_that_may_be_either_input_is_refused(tmp_path: Path) -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.u = nn.Linear(H, H), nn.Linear(H, H)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(self.w(x) + self.u(h))

    given = torch.zeros(1, H), torch.zeros(1, H)
    path = exported(Either(), given, tmp_path / "m.onnx", input_names=["x", "h"])
    with pytest.raises(UnsupportedError, match="'h' or 'x': each may be the one that is kept"):
        convert_with_report(path)


def test_a_loop_that_may_end_early_is_refused(tmp_path: Path) -> None:
    class Early(Over):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(x.size(0), 5)
            c = torch.zeros(x.size(0), 5)
            for t in range(x.size(1) - 1):
                h, c = self.cell(x[:, t], h, c)
            return self.head(h)

    path = exported(scripted(Early(Lstm()).eval()), (torch.zeros(1, 7, I),), tmp_path / "m.onnx",
                    input_names=["x"], dynamic_axes={"x": {1: "steps"}})  # fmt: skip
    with pytest.raises(UnsupportedError, match="turns: are not known to be as many as the steps"):
        convert_with_report(path)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_learned_initial_state(bidirectional: bool) -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(I, H, 2, batch_first=True, bidirectional=bidirectional)
            parts = 4 if bidirectional else 2
            self.h, self.c = (nn.Parameter(torch.randn(parts, 1, H)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x, (self.h, self.c))[0]

    mode = Window(6, 6) if bidirectional else None
    found = ops(Learned(), example_inputs=(torch.zeros(1, 6, I),), mode=mode)
    assert found.count("lstm") == (4 if bidirectional else 2)


def test_a_first_step_of_constants_that_an_exporter_left_is_refused_by_name(tmp_path: Path) -> None:
    """PyTorch's newer exporter multiplies the zero state out, and leaves its Split."""
    g = Graph()
    w, u = g.const(random(I, H)), g.const(random(H, 2 * H))
    fed = g("Split", g.const(random(1, 2 * H)), outputs=2, axis=1)
    rows = []
    for t in range(4):
        row = g("MatMul", g("Gather", "x", g.const(t), axis=1), w)
        rows.append(h := g("Tanh", g("Add", row, g("Mul", *fed))))
        fed = g("Split", g("MatMul", h, u), outputs=2, axis=1)
    y = g("Concat", *[g("Unsqueeze", h, g.const([1])) for h in rows], axis=1)
    path = tmp_path / "m.onnx"
    onnx.save(g.model({"x": [1, 4, I]}, [y]), path)
    with pytest.raises(UnsupportedError, match="build the model with the framework's own RNN"):
        convert_with_report(path)
