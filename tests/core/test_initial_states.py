"""Cells whose state does not begin at zeros: in streams, in windows, and with integer products."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn import Session, reference
from edge_rnn.graph import (
    Concat,
    CoupledLstm,
    Dense,
    Gru,
    Input,
    Lstm,
    Matrix,
    MinGru,
    Model,
    Node,
    NormGru,
    NormLstm,
    Reverse,
    Rnn,
    Window,
    initial_state,
)
from edge_rnn.modelfile import load, save
from edge_rnn_converters.quantize import quantize

I, H, R = 3, 5, 4


def some(*shape: int) -> Any:
    return np.random.default_rng([7, *shape]).normal(0, 0.6, shape).astype(np.float32)


def matrix(*shape: int) -> Matrix:
    return Matrix(some(*shape))


H0, C0 = 3 * some(H) + 1, 2 * some(H) - 1
NODES: dict[str, Node] = {
    "rnn": Rnn("cell", "x", matrix(H, I), matrix(H, H), some(H), initial_h=H0),
    "lstm": Lstm("cell", "x", matrix(4 * H, I), matrix(4 * H, H), some(4 * H), initial_h=H0,
                 initial_c=C0),
    "lstm of c": Lstm("cell", "x", matrix(4 * H, I), matrix(4 * H, H), some(4 * H), initial_c=C0),
    "projected": Lstm("cell", "x", matrix(4 * H, I), matrix(4 * H, R), some(4 * H), initial_c=C0,
                      projection=matrix(R, H), initial_h=3 * some(R)),
    "coupled": CoupledLstm("cell", "x", matrix(3 * H, I), matrix(3 * H, H), some(3 * H),
                           initial_h=H0, initial_c=C0),
    "lstm_norm": NormLstm("cell", "x", matrix(4 * H, I), matrix(4 * H, H), some(4 * H),
                          gain=some(4 * H), initial_h=H0, initial_c=C0),
    "gru": Gru("cell", "x", matrix(3 * H, I), matrix(3 * H, H), some(3 * H), some(H),
               initial_h=H0),
    "gru before": Gru("cell", "x", matrix(3 * H, I), matrix(3 * H, H), some(3 * H), some(H),
                      reset="before", initial_h=H0),
    "gru_norm": NormGru("cell", "x", matrix(3 * H, I), matrix(3 * H, H), some(3 * H), some(H),
                        some(3 * H), 1 + some(3 * H), initial_h=H0),
    "min_gru": MinGru("cell", "x", matrix(2 * H, I), some(2 * H), initial_h=H0),
}  # fmt: skip


def model(kind: str, **options: Any) -> Model:
    node = NODES[kind]
    width = R if kind == "projected" else H
    dense = Dense("dense", "cell", matrix(2, width), some(2))
    return Model((Input("x", I),), (node, dense), ("dense",), **options)


def inputs(n: int = 40) -> Any:
    return np.random.default_rng(1).normal(size=(n, I)).astype(np.float32)


@pytest.mark.parametrize("precision", ["float32", "w8a8", "w8a16", "int4", "float16"])
@pytest.mark.parametrize("kind", NODES)
def test_a_stream_begins_there_when_it_is_new_reset_or_comes_back(
    kind: str, precision: Any
) -> None:
    m, x = quantize(model(kind), precision), inputs()
    session = Session(m, capacity=2)
    y = session.run("a", x)
    _, wanted = reference.answers(m, x)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-4 if precision != "w8a8" else 0.05)
    session.reset("a")
    assert np.array_equal(session.run("a", x), y)
    session.run("b", x[:3])
    session.run("c", x[:5])  # evicts the first
    assert np.array_equal(session.run("a", x), y)
    session.close("c")
    assert np.array_equal(session.step(["c"], x[:1]), y[:1])


@pytest.mark.parametrize("window", [Window(7, 7), Window(7, 7, every=True), Window(7, 3)])
@pytest.mark.parametrize("mask", [None, 0.0])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_each_window_begins_there(kind: str, window: Window, mask: float | None) -> None:
    m, x = model(kind, window=window, mask=mask), inputs()
    x[[0, 3, 9, 10, 11, 20]] = 0
    session = Session(m, capacity=3)
    emitted = np.zeros(len(x), np.bool_)
    y = np.empty((len(x), 2), np.float32)
    session.step_slots(np.repeat(session.slots(["a"]), len(x)), x, y, emitted)
    steps, wanted = reference.answers(m, x)
    assert np.array_equal(np.flatnonzero(emitted), steps)
    np.testing.assert_allclose(y[emitted], wanted, rtol=0, atol=1e-5)


def test_windows_that_look_ahead_begin_there() -> None:
    back = replace(NODES["gru"], name="back", input="turned")
    nodes = (NODES["lstm"], Reverse("turned", "x"), back, Reverse("again", "back"),
             Concat("both", "cell", ("again",)))  # fmt: skip
    m = Model((Input("x", I),), nodes, ("both",), window=Window(6, 2))
    y, (_, wanted) = Session(m, capacity=1).run("a", inputs()), reference.answers(m, inputs())
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", NODES)
def test_the_file_keeps_it(kind: str, tmp_path: Path) -> None:
    m = model(kind)
    save(m, tmp_path / "m.ernn")
    again = load(tmp_path / "m.ernn")
    assert np.array_equal(initial_state(again), initial_state(m))
    assert initial_state(m).any()
    assert np.array_equal(Session(again).run("a", inputs()), Session(m).run("a", inputs()))
