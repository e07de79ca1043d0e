"""Layers around recurrent cells: right against the reference, on time, blind to company."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_rnn
from edge_rnn import Session, reference
from edge_rnn.errors import InputError
from edge_rnn.graph import (
    Add,
    Concat,
    Conv1d,
    Dense,
    Matrix,
    Model,
    Multiply,
    Pool,
    Schedule,
    Slice,
)
from tests.core import models
from tests.effort import examples, fewer
from tests.golden import torch_layers

ROOT = Path(__file__).parents[2]
STRIDED = models.strided("int8")
T = 60
LAYERS = ("conv", "pool", "add", "multiply", "concat", "slice")


def conv(width: int, n: int, seed: int = 0, weights: str = "float32", **choices: Any) -> Conv1d:
    return models.conv(models.Random(seed, weights), i=width, n=n, **choices)


def close(model: Model, x: np.ndarray) -> np.ndarray:
    """The session's outputs, which are the reference's."""
    y, expected = Session(model).run("a", x), reference.run(model, x)
    assert y.shape == expected.shape == (model.schedule.count(len(x)), model.output_width)
    # float32 against float64: rounding of up to 2,000 terms of size one.
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=3e-5)
    return y


@pytest.mark.parametrize(("width", "n"), [(1, 1), (700, 3), (3, 700), (33, 31), (131, 257)])
@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_a_convolution_of_any_width(width: int, n: int, weights: str) -> None:
    layer = conv(width, n, weights=weights, kernel=3, stride=2, dilation=2)
    close(models.model(layer, width=width), models.inputs(20, width))


@pytest.mark.parametrize("width", [1, 7, 16, 31, 33, 257, 700])
@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_a_depthwise_convolution_of_any_width(width: int, weights: str) -> None:
    layer = conv(width, width, weights=weights, kernel=5, groups=width)
    close(models.model(layer, width=width), models.inputs(20, width))


@pytest.mark.parametrize("width", [1, 7, 31, 33, 700])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_a_pool_of_any_width(kind: Any, width: int) -> None:
    pool = Pool("pool", "x", kind, 7, 3, "causal")
    close(models.model(pool, width=width), models.inputs(20, width))


@pytest.mark.parametrize("width", [1, 31, 350])
def test_values_of_any_width_meet_and_part(width: int) -> None:
    model = models.model(
        Slice("left", "x", 0, width),
        Slice("right", "x", width, 2 * width),
        Add("sum", "left", ("right", "left")),
        Multiply("product", "sum", ("right",)),
        Concat("all", "product", ("x", "sum")),
        width=2 * width,
    )
    y = close(model, models.inputs(5, 2 * width))
    assert y.shape[1] == 4 * width
    assert y[:, width : 3 * width].tobytes() == models.inputs(5, 2 * width).tobytes()


windows = st.fixed_dictionaries(
    {
        "kernel": st.integers(1, 6),
        "stride": st.integers(1, 5),
        "padding": st.sampled_from(["causal", "valid"]),
    }
)


@examples(150)
@given(
    window=windows,
    dilation=st.integers(1, 4),
    groups=st.integers(1, 5),
    parts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    weights=st.sampled_from(["float32", "float16", "int8"]),
    steps=st.integers(0, 40),
)
def test_any_convolution_matches_the_reference(
    window, dilation, groups, parts, weights, steps
) -> None:
    width, n = groups * parts[0], groups * parts[1]
    layer = conv(width, n, weights=weights, dilation=dilation, groups=groups, **window)
    close(models.model(layer, width=width), models.inputs(steps, width))


@examples(100)
@given(window=windows, kind=st.sampled_from(["max", "average"]), steps=st.integers(0, 40))
def test_any_pool_matches_the_reference(window, kind, steps) -> None:
    close(models.model(Pool("pool", "x", kind, **window)), models.inputs(steps))


@examples(60)
@given(
    kinds=st.lists(st.tuples(st.sampled_from(["conv", "max", "gru"]), windows), max_size=5),
    steps=st.integers(0, 80),
)
def test_any_stack_matches_the_reference(kinds, steps) -> None:
    """Schedules of schedules, with cells and residuals that run at them."""
    r, nodes, last = models.Random(), [models.rnn(models.Random(), "first")], "first"
    for k, (kind, window) in enumerate(kinds):
        name = f"n{k}"
        if kind == "conv":
            nodes.append(models.conv(r, name, last, models.H, **window))
        elif kind == "max":
            nodes.append(Pool(name, last, "max", **window))
        else:
            nodes.append(models.gru(r, f"{name}-cell", last, models.H))
            nodes.append(Add(name, f"{name}-cell", (last,)))
        last = name
    close(models.model(*nodes), models.inputs(steps))


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_the_strided_stack_matches_the_reference(weights: str) -> None:
    y = close(models.strided(weights), models.inputs(300))
    assert models.strided(weights).schedule == Schedule(7, 6)
    assert len(y) == 49


# PyTorch as the judge of the reference; the runtime is compared with it too.


@pytest.mark.parametrize("name", torch_layers.CONVOLUTIONS)
def test_convolutions_are_pytorchs(name: str) -> None:
    case = dict(torch_layers.CONVOLUTIONS[name])
    with np.load(torch_layers.FILE) as arrays:
        x, weight, bias, y = (arrays[f"{name}/{key}"] for key in ("x", "weight", "bias", "y"))
    width, n = case.pop("i"), case.pop("n")
    w = np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(n, -1)
    model = models.model(Conv1d("conv", "x", Matrix(w), bias, **case), width=width)
    np.testing.assert_allclose(reference.run(model, x), y, rtol=1e-12, atol=1e-12)
    close(model, x)


@pytest.mark.parametrize("name", torch_layers.POOLS)
def test_pools_are_pytorchs(name: str) -> None:
    with np.load(torch_layers.FILE) as arrays:
        x, y = arrays[f"{name}/x"], arrays[f"{name}/y"]
    model = models.model(Pool("pool", "x", **torch_layers.POOLS[name]))
    np.testing.assert_allclose(reference.run(model, x), y, rtol=1e-12, atol=1e-12)
    close(model, x)


# On time, whatever else is stepped.


def test_steps_without_an_output_are_nan_and_masked() -> None:
    session, x = Session(STRIDED), models.inputs(T)
    expected = session.run("alone", x)
    y = session.step(["a"] * T, x)
    due = [STRIDED.schedule.due(n) for n in range(T)]
    assert np.isnan(y).all(axis=1).tolist() == [not d for d in due]
    assert y[due].tobytes() == expected.tobytes()
    for dtype in (np.bool_, np.uint8):
        out, emitted = np.zeros_like(y), np.full(T, 7).astype(dtype)
        session.reset("a")
        session.step_slots(session.slots(["a"] * T), x, out, emitted)
        assert emitted.tolist() == due
        assert out.tobytes() == y.tobytes()


def test_a_model_with_an_output_at_every_step_says_so() -> None:
    session = Session(models.stack())
    emitted = np.zeros(3, np.bool_)
    out = np.empty((3, 4), np.float32)
    session.step_slots(session.slots(["a", "b", "a"]), models.inputs(3), out, emitted)
    assert emitted.all()
    assert models.stack().schedule == Schedule(0, 1)


@pytest.mark.parametrize(
    "emitted",
    [np.zeros(2, np.bool_), np.zeros(3), np.zeros((3, 1), np.bool_), np.zeros(6, np.bool_)[::2]],
)
def test_a_wrong_mask_is_refused(emitted: np.ndarray) -> None:
    session = Session(STRIDED)
    out = np.empty((3, 14), np.float32)
    with pytest.raises(InputError, match="emitted"):
        session.step_slots(session.slots(["a"] * 3), models.inputs(3), out, emitted)
    assert session.steps("a") == 0


@examples(40)
@given(st.lists(st.integers(1, T - 1), max_size=8))
def test_any_chunking_equals_the_whole(cuts: list[int]) -> None:
    session, x = Session(STRIDED), models.inputs(T)
    whole = session.run("whole", x)
    chunks = [session.run("chunked", c) for c in np.split(x, sorted(set(cuts)))]
    assert np.concatenate(chunks).tobytes() == whole.tobytes()


@examples(40)
@given(st.integers(0, 1 << 30), st.integers(1, 40), st.sampled_from([1, 2, 3, 5, 256]))
def test_interleaved_streams_equal_separate_ones(seed: int, batch: int, max_batch: int) -> None:
    """Streams at different steps of a stride in one chunk, so that only some of its rows run."""
    count = fewer(200, least=40)
    order = np.random.default_rng(seed).integers(0, 5, count).tolist()
    session, x = Session(STRIDED, max_batch=max_batch), models.inputs(count)
    alone = {s: Session(STRIDED).step(["a"] * count, x * (s + 1)) for s in set(order)}
    rows = [(s, order[:k].count(s)) for k, s in enumerate(order)]
    for k in range(0, len(rows), batch):
        part = rows[k : k + batch]
        y = session.step([f"s{s}" for s, _ in part], np.array([x[n] * (s + 1) for s, n in part]))
        assert y.tobytes() == np.array([alone[s][n] for s, n in part]).tobytes()


@pytest.mark.parametrize("cut", range(25))
def test_a_snapshot_continues_in_the_middle_of_a_stride(cut: int) -> None:
    x = models.inputs(T)
    session = Session(STRIDED)
    whole = session.run("whole", x)
    first = session.run("dev", x[:cut]) if cut else whole[:0]
    other = Session(STRIDED)
    other.run("before", x[:5])
    other.slots(["dev"])
    if cut:
        other.restore(session.snapshot(["dev"]))
    assert np.concatenate([first, other.run("dev", x[cut:])]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("steps", [-1, 1 << 62, (1 << 63) - 1])
def test_a_snapshot_at_an_impossible_step_is_refused(steps: int) -> None:
    session = Session(STRIDED)
    session.run("a", models.inputs(4))
    state = msgspec.structs.replace(session.states()[0], steps=steps)
    with pytest.raises(edge_rnn.errors.SnapshotError, match="at step"):
        session.load_states([state])


def test_reset_starts_the_schedule_over() -> None:
    session, x = Session(STRIDED), models.inputs(T)
    whole = session.run("a", x)
    session.run("a", x[:4])
    session.reset("a")
    assert session.run("a", x).tobytes() == whole.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("at", [3, 8, 11])
def test_a_bad_row_steps_nobody(at: int, bad: float) -> None:
    session, x = Session(STRIDED), models.inputs(T).astype(float)
    whole = session.run("whole", x)
    first = session.run("a", x[:at])
    rows = np.stack([x[at], x[at]])
    rows[1, 3] = bad
    with pytest.raises(InputError, match=r"row 1: x\[3\] is .*expected a finite number"):
        session.step(["a", "b"], rows)
    assert session.steps("a") == at
    assert np.concatenate([first, session.run("a", x[at:])]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("kind", ["max", "average"])
def test_what_has_overflowed_shows_until_it_leaves_the_window(kind: Any) -> None:
    """inf - inf in one feature's column; the window of three keeps it for three steps."""
    w = np.array([[3e38, 3e38], [1, 0]], np.float32)
    model = models.model(
        Dense("big", "x", Matrix(w), np.zeros(2, np.float32)),
        Dense("small", "x", Matrix(-w), np.zeros(2, np.float32)),
        Add("nan", "big", ("small",)),
        Pool("pool", "nan", kind, 3, 1, "causal"),
        width=2,
    )
    x = np.zeros((8, 2), np.float32)
    x[2] = 1
    y = Session(model).run("a", x)
    assert np.isnan(y[:, 0]).tolist() == [n in (2, 3, 4) for n in range(8)]
    assert (y[:, 1] == 0).all()


@pytest.mark.process
def test_the_same_bits_with_the_jit_off() -> None:
    script = (
        "import sys; from tests.core import test_layers\n"
        "sys.stdout.buffer.write(test_layers.every_layers_bits())"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    assert done.stdout == every_layers_bits()


def every_layers_bits() -> bytes:
    """Of a few steps of three streams, in the two forms of weights that kernels read.

    With the JIT off a vector that reaches beyond an array is an error: no row is spare here.
    """
    kinds = [kind for kind in models.NODES if kind.startswith(LAYERS)]
    cases = [models.single(kind, w) for kind in kinds for w in ("float32", "int8")]
    streams = ["a", "b", "a", "a", "c", "b", "a", "a", "b"]
    parts = []
    for model in [*cases, models.strided("int8")]:
        session = Session(model, capacity=3)
        parts += [session.step(streams, models.inputs(9)), session.step(streams, models.inputs(9))]
    return b"".join(y.tobytes() for y in parts)
