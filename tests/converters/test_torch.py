"""PyTorch: modules, exported programs and TorchScript, each against PyTorch itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn import reference
from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import Model, Window
from edge_rnn_converters import compare, convert
from edge_rnn_converters.source import Options, Source

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edge_rnn_converters.torch.source import read, read_module  # noqa: E402

T, I, H = 9, 4, 6


def example(*shape: int) -> tuple[Any, ...]:
    return (torch.zeros(shape),)


def quietly(make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What PyTorch makes, without what it warns of meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*arguments, **options)


def agrees(source: Source, bound: float = 1e-5) -> Model:
    """The model, once PyTorch and the float64 reference give the same on 256 steps."""
    x = compare.stress(source.model)
    truth = compare.truth(source.model, x)
    ran = source.run(x)
    assert len(ran.steps) >= 3
    wanted = truth.y[np.searchsorted(truth.steps, ran.steps)]
    assert np.abs(ran.y - wanted).max() <= bound
    assert np.abs(truth.y).max() > 1e-3
    return source.model


def converted(module: Any, inputs: tuple[Any, ...]) -> Model:
    torch.manual_seed(0)
    return agrees(read_module(module, Options(example_inputs=inputs)))


def ops(model: Model) -> list[str]:
    return [node.OP for node in model.nodes]


def exported(module: Any, path: Path, *shape: int, dynamic: Any = None) -> Path:
    program = quietly(torch.export.export, module, example(*shape), dynamic_shapes=dynamic)
    quietly(torch.export.save, program, path)
    return path


class Layer(nn.Module):
    """A recurrent layer and what is taken of its result."""

    def __init__(self, kind: Any, of: Callable[[Any], Any] = lambda r: r[0], **options: Any):
        super().__init__()
        self.layer, self.of = kind(I, H, **options), of

    def forward(self, x: Any) -> Any:
        return self.of(self.layer(x))


KINDS = {"lstm": (nn.LSTM, {}), "gru": (nn.GRU, {}), "tanh": (nn.RNN, {}),
         "relu": (nn.RNN, {"nonlinearity": "relu"})}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_recurrent_layers(kind: str, layers: int, batch_first: bool, bias: bool) -> None:
    torch.manual_seed(layers)
    cls, more = KINDS[kind]
    module = Layer(cls, num_layers=layers, batch_first=batch_first, bias=bias,
                   dropout=0.3 * (layers > 1), **more)  # fmt: skip
    shape = (2, T, I) if batch_first else (T, 2, I)
    assert ops(converted(module, example(*shape))) == [kind if kind in ("lstm", "gru") else "rnn"
                                                       ] * layers  # fmt: skip


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", [(T, I), (T, 1, I), (T, 3, I)])
def test_projections(layers: int, shape: tuple[int, ...]) -> None:
    model = converted(Layer(nn.LSTM, num_layers=layers, proj_size=3), example(*shape))
    assert model.nodes[-1].projection.data.shape == (3, H)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_a_final_state_is_an_answer_at_every_step(kind: str) -> None:
    cls, more = KINDS[kind]
    last = Layer(cls, lambda r: (r[1][0] if kind == "lstm" else r[1])[-1], num_layers=2, **more)
    source = read_module(last, Options(example_inputs=example(T, 1, I)))
    agrees(source)
    assert source.regime.ends


@pytest.mark.parametrize(
    ("kind", "more"),
    [*((kind, more) for kind in KINDS for more in ({}, {"num_layers": 2}, {"bias": False})),
     ("lstm", {"proj_size": 3, "num_layers": 2})],
)  # fmt: skip
def test_both_directions_in_windows(kind: str, more: dict[str, Any]) -> None:
    cls, options = KINDS[kind]
    torch.manual_seed(3)
    module = Layer(cls, bidirectional=True, **options, **more).eval()
    source = read_module(module, Options(example_inputs=example(T, 1, I)))
    assert ops(source.model).count("reverse") == 2 * more.get("num_layers", 1)
    x = np.random.default_rng(0).normal(size=(T, I)).astype(np.float32)
    with torch.inference_mode():
        y = module(torch.from_numpy(x[:, None]))[:, 0].numpy()
    model = replace(source.model, window=Window(T, T))
    np.testing.assert_allclose(reference.run(model, x), y, atol=1e-5)


class Stepper(nn.Module):
    """Cells stepped by hand; the state is an argument and a result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(I, H), nn.GRUCell(H, 5)
        self.third, self.head = nn.RNNCell(5, 3, nonlinearity="relu"), nn.Linear(3, 2)

    def forward(self, x: Any, state: Any) -> Any:
        (h, c), g, r = state
        h, c = self.first(x, (h, c))
        g = self.second(torch.sigmoid(h), g)
        r = self.third(g, r)
        return self.head(r), ((h, c), g, r)


def test_cells_with_their_state_as_input_and_output() -> None:
    z = torch.zeros
    inputs = (z(1, I), ((z(1, H), z(1, H)), z(1, 5), z(1, 3)))
    model = converted(Stepper(), inputs)
    assert ops(model) == ["lstm", "activation", "gru", "rnn", "dense"]


@pytest.mark.parametrize("kind", KINDS)
def test_layers_with_their_state_as_input_and_output(kind: str) -> None:
    cls, more = KINDS[kind]
    state = torch.zeros(2, 1, H)
    given = (torch.zeros(1, 1, I), (state, state) if kind == "lstm" else state)

    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = cls(I, H, 2, batch_first=True, **more)

        def forward(self, x: Any, state: Any) -> Any:
            return self.layer(x, state)

    model = converted(Stateful(), given)
    assert len(model.nodes) == 2


class Keeping(nn.Module):
    """Keeps its state itself, `how` it likes, and the last two inputs beside it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.cell, self.head, self.how = nn.GRUCell(3 * I, H), nn.Linear(H, 2), how
        self.register_buffer("h", torch.zeros(1, H))
        self.seen: Any = None
        self.state: Any = None

    def forward(self, x: Any) -> Any:
        seen = torch.zeros(2, I) if self.seen is None else self.seen
        window = torch.cat([seen, x])
        self.seen = window[1:]
        before = self.h if self.how == "buffer" else self.state
        h = self.cell(window.reshape(1, -1), before)
        if self.how == "buffer":
            self.h.copy_(h)
        else:
            self.state = h
        return self.head(h)


@pytest.mark.parametrize("how", ["buffer", "attribute"])
def test_a_state_that_the_module_keeps(how: str) -> None:
    module = Keeping(how)
    model = converted(module, example(1, I))
    assert ops(model).count("gru") == 1
    assert ops(model).count("conv1d") == 2  # what it keeps of the inputs, one and two steps ago
    assert module.seen is None, "the user's own module is left alone"
    assert not module.h.any()


class Looping(nn.Module):
    """A Python loop over the steps."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.cell, self.top = nn.LSTMCell(I, H), nn.GRUCell(H, 5)
        self.mix, self.head, self.how = nn.Linear(5, 5), nn.Linear(5, 2), how

    def forward(self, x: Any) -> Any:
        parts = x.unbind(1) if self.how == "unbind" else None
        state, g, results = None, torch.zeros(x.shape[0], 5), []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t] if parts is None else parts[t], state)
            g = self.top(torch.tanh(state[0]), g)
            results.append(self.head(g) if self.how == "inside" else g)
        if self.how == "last":
            return self.head(g)
        y = torch.stack(results, 1)
        return y if self.how == "inside" else self.head(y)


@pytest.mark.parametrize("how", ["inside", "after", "unbind", "last"])
def test_a_loop_over_the_steps(how: str) -> None:
    model = converted(Looping(how), example(1, T, I))
    assert ops(model) == ["lstm", "activation", "gru", "dense"]


def test_a_loop_of_no_cell_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.u = nn.Linear(I, H), nn.Linear(H, H)

        def forward(self, x: Any) -> Any:
            h, rows = torch.zeros(1, H), []
            for t in range(x.shape[1]):
                h = torch.tanh(self.w(x[:, t])) * self.u(h)
                rows.append(h)
            return torch.stack(rows, 1)

    with pytest.raises(UnsupportedError, match="no cell has these equations"):
        converted(Odd(), example(1, T, I))


def test_a_state_that_is_not_zero_at_first_is_refused() -> None:
    module = Keeping("buffer")
    module.h += 1
    with pytest.raises(UnsupportedError, match="initial state: the first call does not compute"):
        converted(module, example(1, I))


def test_a_module_without_an_example_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="example_inputs: are missing"):
        convert(nn.GRU(I, H))


def test_an_example_that_the_module_does_not_take() -> None:
    with pytest.raises((UnsupportedError, ModelError), match="GRU"):
        convert(nn.GRU(I, H), example_inputs=example(1, T, I + 1))


def test_torchscript_with_several_inputs_asks_for_their_shapes(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x, gain: int):  # type: ignore[no-untyped-def]
            return torch.tanh(x * gain)

    quietly(torch.jit.script, Two()).save(tmp_path / "m.pt")
    with pytest.raises(UnsupportedError, match="it has 2 inputs of shapes that it does not tell"):
        read(tmp_path / "m.pt", "torchscript", Options())
    known = Options(inputs={"x": (1, T, I), "gain": 3})
    assert ops(agrees(read(tmp_path / "m.pt", "torchscript", known))) == ["scale", "activation"]
