"""Every node at every size, with the values that hurt."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn import Session, reference
from edge_rnn.errors import ModelError
from edge_rnn.graph import (
    ACTS,
    AHEAD,
    NODES,
    Act,
    Activation,
    Add,
    Concat,
    Conv1d,
    CoupledLstm,
    Dense,
    Embedding,
    Foreign,
    FrameConv,
    FramePool,
    Gru,
    L2Norm,
    LayerNorm,
    LogSoftmax,
    Lstm,
    Multiply,
    Node,
    NormLstm,
    Pool,
    PRelu,
    RmsNorm,
    Rnn,
    Scale,
    Slice,
    Softmax,
    Take,
    bound,
    bounds,
    of,
    product_bound,
    tuned,
)
from edge_rnn.validation import validate
from tests.bits import digest
from tests.core import models
from tests.core.models import Random, gain, lru, lstm_with, min_gru, norm_gru
from tests.effort import examples

ROOT = Path(__file__).parents[2]
T = 5
EPS = 0.01  # less, and two nearly equal numbers of a small layer amplify any rounding

# Of random weights, i inputs, h units, and k for a second width.
SIZED: dict[str, Callable[[Random, int, int, int], Node]] = {
    "rnn": lambda r, i, h, k: Rnn("cell", "x", r.matrix(h, i), r.matrix(h, h), r.vector(h)),
    "lstm": lambda r, i, h, k: lstm_with(Lstm, r, h, h, i),
    "lstm_options": lambda r, i, h, k: lstm_with(Lstm, r, k, h, i, peephole=r.vector(3 * h)),
    "lstm_coupled": lambda r, i, h, k: lstm_with(CoupledLstm, r, k, h, i, peephole=r.vector(2 * h)),
    "lstm_norm_products": lambda r, i, h, k: lstm_with(
        NormLstm,
        r,
        k,
        h,
        i,
        gain=gain(r, 4 * h),
        recurrent_gain=gain(r, 4 * h),
        cell_norm=gain(r, 2 * h),
        epsilon=EPS,
    ),
    "lstm_norm_gates": lambda r, i, h, k: lstm_with(
        NormLstm, r, k, h, i, gain=gain(r, 4 * h), epsilon=EPS
    ),
    "gru_after": lambda r, i, h, k: Gru(
        "cell", "x", r.matrix(3 * h, i), r.matrix(3 * h, h), r.vector(3 * h), r.vector(h)
    ),
    "gru_before": lambda r, i, h, k: Gru(
        "cell", "x", r.matrix(3 * h, i), r.matrix(3 * h, h), r.vector(3 * h), r.vector(h), "before"
    ),
    "gru_norm": lambda r, i, h, k: norm_gru(r, h, i, epsilon=EPS),
    "min_gru": lambda r, i, h, k: min_gru(r, h, i),
    "lru": lambda r, i, h, k: lru(r, h, k, i, d=r.matrix(k, i)),
    "lru_diagonal": lambda r, i, h, k: lru(r, h, i, i, diagonal=r.vector(i)),
    "dense": lambda r, i, h, k: Dense("y", "x", r.matrix(h, i), r.vector(h), "gelu"),
    "scale": lambda r, i, h, k: Scale("y", "x", r.vector(i), r.vector(i), r.vector(i)),
    "activation": lambda r, i, h, k: Activation("y", "x", "mish"),
    "softmax": lambda r, i, h, k: Softmax("y", "x"),
    "log_softmax": lambda r, i, h, k: LogSoftmax("y", "x"),
    "layer_norm": lambda r, i, h, k: LayerNorm("y", "x", gain(r, i), r.vector(i), EPS),
    "rms_norm": lambda r, i, h, k: RmsNorm("y", "x", gain(r, i), EPS),
    "l2_norm": lambda r, i, h, k: L2Norm("y", "x"),
    "prelu": lambda r, i, h, k: PRelu("y", "x", r.vector(i)),
}
WIDTH = st.one_of(st.integers(1, 40), st.integers(1, 700))


def test_no_kind_is_forgotten() -> None:
    made = {type(make(Random(), 3, 4, 2)) for make in SIZED.values()}
    in_models = {type(node) for kind in models.NODES for node in models.single(kind).nodes}
    beside = {Add, Multiply, Concat, Slice, Conv1d, Pool}  # of any size in test_layers.py
    beside |= {Take, FrameConv, FramePool}  # and in test_frames.py
    windows = set(AHEAD)  # in test_buffered.py
    ours = set(NODES.values()) - windows - {Foreign}  # in tests/converters/test_backends.py
    assert made | beside | {Embedding} == in_models | {Embedding} == ours


@pytest.mark.parametrize("kind", SIZED)
@examples(6)
@given(i=WIDTH, h=WIDTH, k=WIDTH, batch=st.integers(1, 4))
def test_any_size_matches_the_reference(kind: str, i: int, h: int, k: int, batch: int) -> None:
    """With rows of other streams beside it, so that what stands in padding would show."""
    model = models.model(SIZED[kind](Random(i + h + k), i, h, k), width=i)
    session, x = Session(model), models.inputs(T, i)
    streams = [f"s{b}" for b in range(batch)]
    for b in range(1, batch):
        session.step([f"s{b}"], x[b : b + 1] * 100)
    y = [session.step(streams, row[None].repeat(batch, 0))[0] for row in x]
    np.testing.assert_allclose(y, reference.run(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("h", [33, 80])
@pytest.mark.parametrize("format", models.FORMATS)
@pytest.mark.parametrize("kind", ["dense", "rnn", "lstm", "gru_after", "gru_before"])
def test_several_blocks_of_outputs_together_and_alone(kind: str, format: str, h: int) -> None:
    """Whichever tiles rows go through, and from whichever end weights are read."""
    r = Random(h, format)
    node = replace(SIZED[kind](r, 9, h, 1), activations=r.activations)  # type: ignore[call-arg]
    model = models.model(node, width=9)
    x = models.inputs(3 * 5, 9).reshape(3, 5, 9)
    session, streams = Session(model), ["a", "b", "c", "d", "e"]
    together = np.stack([session.step(streams, rows) for rows in x])
    for i, stream in enumerate(streams):
        alone = Session(model).run(stream, np.ascontiguousarray(x[:, i]))
        assert alone.tobytes() == together[:, i].tobytes()
        exact = reference.run(model, x[:, i])
        assert np.abs(alone - exact).max() <= 0.01 * max(1, np.abs(exact).max())


@pytest.mark.parametrize(
    ("kind", "format"),
    [(k, f) for k in models.NODES for f in models.formats(k) if " " in f],
)
def test_every_format_matches_the_reference(kind: str, format: str) -> None:
    """To a few units of int16: float32 and float64 may round a number to neighbouring integers.
    Of int8, whose units are 256 times as large, that happens to no number of these models."""
    model, x = models.single(kind, format), models.inputs(20)
    exact = reference.run(model, x)
    error = np.abs(Session(model).run("a", x) - exact).max()
    assert error <= 2e-4 * max(1, np.abs(exact).max())


GATED: dict[str, Callable[[Random, Act, Act], Node]] = {
    "rnn": lambda r, gate, act: models.rnn(r, act=act),
    "lstm": lambda r, gate, act: models.lstm(r, gate=gate, hidden=act),
    "lstm_projection": lambda r, gate, act: lstm_with(Lstm, r, 3, gate=gate, hidden=act),
    "lstm_coupled": lambda r, gate, act: lstm_with(CoupledLstm, r, gate=gate, hidden=act),
    "lstm_norm": lambda r, gate, act: lstm_with(
        NormLstm, r, gate=gate, hidden=act, gain=gain(r, 4 * models.H), cell_norm=r.vector(14)
    ),
    "gru": lambda r, gate, act: models.gru(r, gate=gate, candidate=act),
    "gru_norm": lambda r, gate, act: norm_gru(r, gate=gate, candidate=act),
    "min_gru": lambda r, gate, act: min_gru(r, gate=gate, act=act),
    "activation": lambda r, gate, act: Activation("y", "x", act),
}


@pytest.mark.parametrize("gate", ACTS)
@pytest.mark.parametrize("kind", GATED)
@pytest.mark.filterwarnings("ignore:overflow|invalid:RuntimeWarning")
def test_no_output_exceeds_its_bound(kind: str, gate: Act) -> None:
    """With inputs that drive every gate to its ends and weights that make cells oscillate."""
    for act in ACTS:
        node = GATED[kind](Random(1), gate, act)  # type: ignore[arg-type]
        limit = bound(node)
        for size in (1, 30) if limit else ():
            y = reference.run(models.model(node), size * models.inputs(60))
            assert np.abs(y).max() <= limit * (1 + 1e-12), (act, size)


@pytest.mark.parametrize("kind", models.NODES)
def test_no_value_exceeds_its_bound(kind: str) -> None:
    model = models.single(kind)
    y = np.abs(reference.run(model, 30 * models.inputs(60))).max()
    assert y <= (bounds(model)[model.outputs[0]] or np.inf) * (1 + 1e-12)


def test_what_is_bounded() -> None:
    """So that a range that is known is also used."""
    r = Random()
    assert [bound(make(r, "sigmoid", "tanh")) for make in GATED.values()] == [
        *(1, 1, 0, 1, 1, 1, 1, 1, 1)
    ]
    assert [bound(make(r, "hard_tanh", "relu6")) for make in GATED.values()] == [
        *(6, 6, 0, 6, 6, 0, 0, 0, 6)
    ]
    share, clipped = tuned("hard_sigmoid", 0.3, 0.5), of(tuned("clip", -3, 2), "relu")
    assert [bound(make(r, share, clipped)) for make in GATED.values()] == [
        *(3, 3, 0, 3, 3, 3, 3, 3, 3)
    ]
    assert product_bound(lstm_with(Lstm, r, 3, gate="hard_tanh", hidden="relu6")) == 6
    for act in ("min_gru", "gelu", "log_sigmoid", "exponential"):
        assert [bound(make(r, "sigmoid", act)) for make in GATED.values()] == [0] * len(GATED)


@pytest.mark.parametrize("value", [0, -0.0, 1e-45, -1e-40, 1e-30, 1e4, -1e4, 1e9])
@pytest.mark.parametrize("kind", [k for k in models.NODES if k not in ("rnn_linear", "gru_odd")])
def test_hostile_values_match_the_reference(kind: str, value: float) -> None:
    """All inputs alike, and one among ordinary ones; relative to the largest output."""
    model = models.single(kind)
    x = np.full((4, models.I), value, np.float32)
    x[3] = models.inputs(1)
    x[3, 1] = value
    exact = reference.run(model, x)
    error = np.abs(Session(model).run("a", x) - exact).max()
    assert error <= 3e-5 * max(1, np.abs(exact).max())


@pytest.mark.parametrize("kind", models.NODES)
def test_a_value_that_overflows_never_harms_another_stream(kind: str) -> None:
    session, x = Session(models.single(kind)), models.inputs(6)
    alone = [session.step(["alone"], row[None])[0] for row in x]
    sick = np.float32([[3e38, -3e38, 3e38, 1, 0]])
    for t in range(6):
        y = session.step(["sick", "well"], np.concatenate([sick, x[t : t + 1]]))
        assert y[1].tobytes() == alone[t].tobytes()


def test_every_kind_has_the_same_bits_with_the_jit_off() -> None:
    script = "from tests.core import test_kinds\nprint(test_kinds.digests())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert done.stdout == f"{digests()}\n"


def digests() -> dict[str, str]:
    """Of every kind, and of every activation at numbers of all sizes."""
    found = {kind: digest(models.single(kind), models.inputs(6)) for kind in models.NODES}
    ramp = np.concatenate([np.linspace(-100, 100, 61), np.geomspace(1e-38, 1e38, 35)])
    x = np.stack([ramp, -ramp]).astype(np.float32)
    for act in ACTS:
        model = models.model(Activation("y", "x", act), width=x.shape[1])  # type: ignore[arg-type]
        found[act] = digest(model, x)
    return found


@pytest.mark.parametrize("n", [1, 5, 16, 17, 100])
def test_a_sum_over_features_has_one_order(n: int) -> None:
    """Element j in partial sum j % 16, then a tree: bit for bit."""
    x = np.random.default_rng(n).normal(0, 1, n).astype(np.float32)
    partial = np.zeros(16, np.float32)
    for j, v in enumerate(x):
        partial[j % 16] += v * v
    for half in (8, 4, 2, 1):
        partial[:half] += partial[half : 2 * half]
    y = Session(models.model(L2Norm("y", "x", 0.0), width=n)).step(["a"], x[None])[0]
    assert y.tobytes() == (x / np.sqrt(partial[0])).tobytes()


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (lstm_with(Lstm, Random(), 3, projection=None), "without a projection R must equal H"),
        (lstm_with(Lstm, Random(), cell_clip=np.float32([0])), "cell_clip is 0.0, expected more"),
        (lstm_with(Lstm, Random(), cell_clip=np.float32([-1])), "cell_clip is -1.0"),
        (
            lstm_with(Lstm, Random(), cell_clip=np.float32([1, 1])),
            r"has shape \(2,\), expected \(1\)",
        ),
        (lstm_with(Lstm, Random(), projection_clip=np.float32([1])), "clip without a projection"),
        (lstm_with(Lstm, Random(), projection_bias=np.zeros(7, "f4")), "bias without a projection"),
        (lstm_with(Lstm, Random(), 3, projection_bias=np.zeros(7, "f4")), "bias has shape"),
        (lru(Random(), m=4, diagonal=np.zeros(4, np.float32)), "with a diagonal M must equal I"),
        (L2Norm("y", "x", -1.0), "epsilon is -1.0, allowed: float from 0.0 to 1000000.0"),
        (L2Norm("y", "x", float("nan")), "epsilon is nan"),
        (L2Norm("y", "x", float("inf")), "epsilon is inf"),
        (L2Norm("y", "x", 1), "epsilon is 1, allowed: float from 0.0"),  # type: ignore[arg-type]
        (norm_gru(Random(), over="all"), "over is 'all', allowed: zr, zrn"),
        (LayerNorm("y", "x", None, np.zeros(5, np.float32)), "gain is missing"),  # type: ignore[arg-type]
    ],
)
def test_what_can_not_be_is_refused(node: Node, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        validate(models.model(node))
