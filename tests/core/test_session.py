"""The compiled runtime: right against the reference, and bit for bit blind to company."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn import Session, reference
from edge_rnn.errors import CapacityError, InputError, SnapshotError, StaleSlotError, StreamError
from edge_rnn.graph import ACTS, Activation, Add, Dense, Matrix, Softmax
from edge_rnn.state import Eviction
from tests.core import models
from tests.effort import examples

ROOT = Path(__file__).parents[2]
DEEP = models.stack("int8")
T = 60


@pytest.mark.parametrize(
    ("kind", "weights"),
    [(k, w) for k in models.NODES for w in models.formats(k) if " " not in w],
)
def test_every_node_matches_the_reference(kind: str, weights: str) -> None:
    model = models.single(kind, weights)
    x = models.inputs(T)
    # float32 against float64: rounding of a few hundred terms of size one.
    np.testing.assert_allclose(
        Session(model).run("a", x), reference.run(model, x), rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_deep_stack_matches_the_reference(weights: str) -> None:
    model = models.stack(weights)
    x = models.inputs(300)
    np.testing.assert_allclose(Session(model).run("a", x), reference.run(model, x), atol=5e-5)


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_embedding_matches_the_reference(weights: str) -> None:
    model = models.embedding(weights)
    x = np.random.default_rng(0).integers(0, 11, (T, 1))
    np.testing.assert_allclose(Session(model).run("a", x), reference.run(model, x), atol=2e-5)


@pytest.mark.parametrize("act", ACTS)
def test_activation_over_its_whole_range(act: str) -> None:
    model = models.model(Activation("y", "x", act), width=1)  # type: ignore[arg-type]
    x = np.concatenate([np.linspace(-30, 30, 4001), [0, -0.0, 1e-30, -1e-4, 3.9e-4, 1e30, -1e30]])
    y = Session(model).run("a", x[:, None])
    with np.errstate(over="ignore"):  # the square of 1e30
        exact = reference.run(model, x[:, None]).astype(np.float32)
    np.testing.assert_allclose(y, exact, rtol=3e-6, atol=2e-7)


@pytest.mark.parametrize("node", [*ACTS, "softmax"])
def test_nan_passes_through_every_activation(node: str) -> None:
    """inf - inf, from finite inputs: a diverged stream shows."""
    w = np.full((1, 1), 3e38, np.float32)
    bias = np.zeros(1, np.float32)
    last = Softmax("y", "nan") if node == "softmax" else Activation("y", "nan", node)  # type: ignore[arg-type]
    model = models.model(
        Dense("up", "x", Matrix(w), bias),
        Dense("down", "x", Matrix(-w), bias),
        Add("nan", "up", ("down",)),
        last,
        width=1,
    )
    y = Session(model).run("a", [[0], [10], [0]])
    assert np.isnan(y[:, 0]).tolist() == [False, True, False]


def test_softmax_of_extreme_logits() -> None:
    model = models.single("softmax")
    x = np.array([[1e30, -1e30, 0, 1, 2], [-200, -200, -200, -200, -300], [88, 89, 90, 91, 1e4]])
    np.testing.assert_allclose(Session(model).run("a", x), reference.run(model, x), atol=1e-6)


@examples(25)
@given(st.lists(st.integers(1, T - 1), max_size=6))
def test_any_chunking_equals_the_whole(cuts: list[int]) -> None:
    session = Session(DEEP)
    x = models.inputs(T)
    whole = session.run("whole", x)
    chunks = [session.run("chunked", c) for c in np.split(x, sorted(set(cuts)))]
    assert np.concatenate(chunks).tobytes() == whole.tobytes()


@examples(25)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(1, 16))
def test_interleaved_streams_equal_separate_ones(order: list[int], batch: int) -> None:
    """Any mix of streams in any batches, an id several times in one call included."""
    session, x = Session(DEEP), {s: models.inputs(80, seed=s) for s in range(5)}
    alone = {s: session.run(f"alone{s}", x[s]) for s in range(5)}
    rows = [(s, order[:k].count(s)) for k, s in enumerate(order)]
    for k in range(0, len(rows), batch):
        part = rows[k : k + batch]
        y = session.step([f"s{s}" for s, _ in part], np.array([x[s][n] for s, n in part]))
        assert y.tobytes() == np.array([alone[s][n] for s, n in part]).tobytes()


@pytest.mark.parametrize("max_batch", [1, 2, 3, 4, 7])
def test_max_batch_never_changes_a_bit(max_batch: int) -> None:
    streams, x = [f"s{i % 5}" for i in range(23)], models.inputs(23)
    expected = Session(DEEP).step(streams, x)
    assert Session(DEEP, max_batch=max_batch).step(streams, x).tobytes() == expected.tobytes()


def test_step_slots_is_the_same_step() -> None:
    session = Session(DEEP)
    x = models.inputs(2)
    expected = session.step(["a", "b"], x)
    slots = session.slots(["c", "d"])
    out = np.empty((2, 4), np.float32)
    session.step_slots(slots, x, out)
    assert slots.dtype == np.int64
    assert out.tobytes() == expected.tobytes()


def test_snapshot_restore_continues_bit_for_bit() -> None:
    x = models.inputs(T)
    session = Session(DEEP)
    whole = session.run("whole", x)
    session.run("dev", x[:30])
    other = Session(DEEP)
    assert other.restore(session.snapshot(["dev"])) == ["dev"]
    assert other.steps("dev") == 30
    assert other.run("dev", x[30:]).tobytes() == whole[30:].tobytes()


@pytest.mark.process
def test_a_new_process_continues_bit_for_bit(tmp_path) -> None:
    x = models.inputs(T)
    session = Session(DEEP)
    whole = session.run("whole", x)
    session.run("dev", x[:30])
    (tmp_path / "blob").write_bytes(session.snapshot(["dev"]))
    script = (
        "import sys; from tests.core import models; from edge_rnn import Session\n"
        "s = Session(models.stack('int8'))\n"
        f"s.restore(open({str(tmp_path / 'blob')!r}, 'rb').read())\n"
        f"sys.stdout.buffer.write(s.run('dev', models.inputs({T})[30:]).tobytes())"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    assert out.stdout == whole[30:].tobytes()


def test_a_snapshot_of_another_model_is_refused() -> None:
    session = Session(DEEP)
    session.run("dev", models.inputs(3))
    other = Session(models.stack("int8", seed=9))
    with pytest.raises(SnapshotError, match="snapshot of model"):
        other.restore(session.snapshot())
    assert other.streams == []


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"x" + b, lambda b: b""])
def test_a_damaged_snapshot_is_refused(damage) -> None:
    session = Session(DEEP)
    session.run("dev", models.inputs(3))
    with pytest.raises(SnapshotError, match="snapshot"):
        session.restore(damage(session.snapshot()))


def test_reset_starts_over() -> None:
    session, x = Session(DEEP), models.inputs(5)
    first = session.run("a", x)
    session.reset("a")
    assert session.steps("a") == 0
    assert session.run("a", x).tobytes() == first.tobytes()
    with pytest.raises(StreamError, match="no open stream 'b'"):
        session.reset("b")


def test_a_full_session_evicts_the_least_recently_used() -> None:
    events: list[Eviction] = []
    session, x = Session(DEEP, capacity=3, on_evict=events.append), models.inputs(1)
    for s in ("a", "b", "c", "a", "d"):
        session.step([s], x)
    assert events == [Eviction("b", 1, "capacity")]
    assert session.streams == ["c", "a", "d"]
    session.step(["c", "e"], models.inputs(2))
    assert [e.stream for e in events] == ["b", "a"], "c stood in the batch and must stay"
    with pytest.raises(CapacityError, match="4 streams in one call"):
        session.slots(["1", "2", "3", "4"])
    assert session.streams == ["d", "c", "e"]


def test_an_evicted_streams_slot_is_refused_not_shared() -> None:
    session, x = Session(DEEP, capacity=1), models.inputs(1)
    slots = session.slots(["a"])
    before = session.step(["b"], x)
    out = np.zeros((1, 4), np.float32)
    with pytest.raises(StaleSlotError, match="ask `slots` again"):
        session.step_slots(slots, x, out)
    session.reset("b")
    assert session.step(["b"], x).tobytes() == before.tobytes()
    for bad in (-1, 1, 1 << 40):
        with pytest.raises(StaleSlotError):
            session.step_slots(np.array([bad]), x, out)


def test_idle_streams_are_evicted_by_the_clock_given() -> None:
    now, events = [0.0], list[Eviction]()
    session = Session(DEEP, ttl=10, clock=lambda: now[0], on_evict=events.append)
    x = models.inputs(1)
    first = session.step(["a"], x)
    now[0] = 6
    session.step(["b"], x)
    now[0] = 12
    session.step(["b"], x)
    assert events == [Eviction("a", 1, "idle")]
    assert session.step(["a"], x).tobytes() == first.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_bad_row_steps_nobody(bad: float) -> None:
    session, x = Session(DEEP), models.inputs(T).astype(float)
    whole = session.run("whole", x)
    session.step(["a", "b"], x[:1].repeat(2, 0))
    rows = x[1:2].repeat(2, 0)
    rows[1, 3] = bad
    with pytest.raises(InputError, match=r"row 1: x\[3\] is .*expected a finite number"):
        session.step(["a", "b"], rows)
    assert session.steps("a") == 1
    assert session.run("a", x[1:]).tobytes() == whole[1:].tobytes()


@pytest.mark.parametrize("bad", [-1, 11, 2.5])
def test_an_index_outside_the_embedding_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="expected a whole number from 0 to 10"):
        Session(models.embedding()).run("a", [[bad]])


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.zeros((2, 4)), r"shape \(2, 4\), expected \(rows, 5\)"),
        (np.zeros(5), "shape"),
        ([["a"] * 5], "not an array of numbers"),
        (np.zeros((3, 5)), "2 streams for 3 rows"),
    ],
)
def test_wrong_arrays_are_refused(x, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Session(DEEP).step(["a", "b"], x)


class Subclass(np.ndarray):
    """Not what is read as an array."""


def test_step_slots_takes_no_other_type() -> None:
    session, x, out = Session(DEEP), models.inputs(1), np.empty((1, 4), np.float32)
    slots, sealed = session.slots(["a"]), x.copy()
    sealed.flags.writeable = False
    for bad in (
        *(x.astype(t) for t in (np.float64, np.int32, np.float16, ">f4", "V4")),
        *(x[0], x[None], np.zeros((5, 1), np.float32).T[:, ::-1], sealed, x.view(Subclass)),
    ):
        with pytest.raises(InputError, match="expected int64, float32, float32"):
            session.step_slots(slots, bad, out)
    for bad in (slots.astype(np.int32), slots.astype(np.uint64), slots.astype(float), slots[None]):
        with pytest.raises(InputError, match="expected int64, float32, float32"):
            session.step_slots(bad, x, out)
    assert session.steps("a") == 0
    session.step_slots(slots, x, out)
    assert session.steps("a") == 1


def test_step_slots_takes_no_other_shape() -> None:
    session, x = Session(DEEP), models.inputs(1)
    slots, out = session.slots(["a"]), np.empty((1, 4), np.float32)
    for bad in ((slots, x[:, :4], out), (slots, x, out[:, :3]), (slots[:0], x, out)):
        with pytest.raises(InputError, match="expected"):
            session.step_slots(*map(np.ascontiguousarray, bad))
    assert session.steps("a") == 0


def test_an_empty_batch_is_nothing() -> None:
    assert Session(DEEP).step([], np.zeros((0, 5))).shape == (0, 4)


def test_overflow_shows_as_nan_and_stays_in_its_stream() -> None:
    session, x = Session(models.stack()), models.inputs(T)
    whole = session.run("whole", x)
    huge = np.full((1, 5), 3e38, np.float32)
    session.step(["sick"], huge * np.float32([[1, -1, 1, -1, 1]]))
    session.step(["sick"], huge)
    assert session.run("well", x).tobytes() == whole.tobytes()
