"""Sessions of models with windows and masks: each window is a sequence of its own, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn import Session, reference
from edge_rnn.errors import InputError, StaleSlotError
from edge_rnn.graph import (
    Model,
    Reverse,
    Window,
    masked,
    state_width,
)
from edge_rnn.state import Eviction
from edge_rnn.validation import validate
from tests.core import models
from tests.core.test_windows import GRU, bidirectional, centred, windowed
from tests.effort import examples

MASK = 0.25
KINDS: dict[str, Model] = {
    "stack": models.stack("int8"),
    "strided": models.strided("int8"),
    "bidirectional": bidirectional(),
    "sequences": bidirectional(sequences=True),
    "centred": centred(),
    "stack, mask": replace(models.stack(), mask=MASK),
    "bidirectional, mask": replace(bidirectional(), mask=MASK),
}
LENGTHS = {"strided": (8, 30), "centred": (1, 12)}
windows = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.tuples(
        st.just(kind), st.integers(*LENGTHS.get(kind, (1, 9))), st.integers(1, 30)
    )
)
"""(kind of model, length, hop, which is cut to the length)."""


def made(window: tuple[str, int, int]) -> Model:
    kind, length, hop = window
    return windowed(KINDS[kind], length, min(hop, length))


def messages(steps: int, seed: int = 1) -> np.ndarray:
    """Of which a third are masked, if there is a mask."""
    x = models.inputs(steps, seed=seed)
    x[np.random.default_rng(seed).random(steps) < 1 / 3] = MASK
    return x


def window_by_window(model: Model, x: np.ndarray) -> tuple[list[int], np.ndarray]:
    """(steps, y): what a fresh stream answers last in each window, which it alone sees."""
    assert model.window is not None
    length, hop = model.window.length, model.window.hop
    last = length - 1 if model.looks_ahead or model.mask is not None else model.schedule.first
    fresh = model if model.looks_ahead else replace(model, window=None, mask=None)
    steps, rows = [], []
    for start in range(0, len(x) - last, hop):
        window = x[start : start + length]
        seen = window if model.looks_ahead else window[~masked(model, window)]
        y = Session(fresh, capacity=1).run("fresh", seen)
        if len(y):
            steps.append(start + last)
            rows.append(y[-1])
    return steps, np.array(rows, np.float32).reshape(-1, model.output_width)


def answered(session: Session, stream: str, x: np.ndarray) -> tuple[list[int], np.ndarray]:
    """(steps, y) of a stream, all at once."""
    y, emitted = np.empty((len(x), session.model.output_width), np.float32), np.empty(len(x), bool)
    session.step_slots(session.slots([stream] * len(x)), x, y, emitted)
    assert np.isnan(y[~emitted]).all()
    return np.flatnonzero(emitted).tolist(), y[emitted]


def same(a: tuple[Any, np.ndarray], b: tuple[Any, np.ndarray]) -> None:
    assert list(a[0]) == list(b[0])
    assert a[1].tobytes() == b[1].tobytes()


@examples(60)
@given(window=windows, steps=st.integers(0, 60))
def test_windows_equal_fresh_streams_bit_for_bit(window, steps) -> None:
    model, x = made(window), messages(steps)
    same(answered(Session(model), "a", x), window_by_window(model, x))


@examples(60)
@given(window=windows, steps=st.integers(0, 60))
def test_windows_match_the_reference(window, steps) -> None:
    model, x = made(window), messages(steps)
    steps, y = reference.answers(model, x)
    found, rows = answered(Session(model), "a", x)
    assert found == list(steps)
    np.testing.assert_allclose(rows, y, rtol=2e-5, atol=5e-5)


@examples(30)
@given(length=st.integers(1, 12), steps=st.integers(0, 50), mask=st.booleans())
def test_tumbling_windows_that_answer_at_every_step(length, steps, mask) -> None:
    base = replace(GRU, mask=MASK if mask else None)
    x = messages(steps)
    found, y = answered(Session(windowed(base, length, every=True)), "a", x)
    session, expected, rows = Session(base), [], []
    for start in range(0, steps, length):
        part = answered(session, f"window {start}", x[start : start + length])
        expected += [start + step for step in part[0]]
        rows.append(part[1])
    same((found, y), (expected, np.concatenate([np.zeros((0, 3), np.float32), *rows])))


def test_every_output_of_a_strided_window() -> None:
    r = models.Random()
    base = models.model(models.conv(r, stride=3), models.gru(r, "cell", "conv", models.H))
    found, y = answered(Session(windowed(base, 6, every=True)), "a", models.inputs(20))
    assert found == [0, 3, 6, 9, 12, 15, 18]
    session = Session(base)
    each = [session.run(f"{a}", models.inputs(20)[a : a + 6]) for a in (0, 6, 12, 18)]
    assert y.tobytes() == np.concatenate(each).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("length", "hop"), [(9, 9), (12, 5), (10, 1)])
def test_any_cut_and_any_company(kind: str, length: int, hop: int) -> None:
    """Streams interleaved in batches of any size, an id several times in one, and any max_batch."""
    model = made((kind, length, hop))
    rng = np.random.default_rng(hop)
    x = {s: messages(50, seed=s) for s in range(4)}
    alone = {s: answered(Session(model), "alone", x[s]) for s in x}
    for max_batch in (1, 3, 256):
        session, place = Session(model, max_batch=max_batch), dict.fromkeys(x, 0)
        seen: dict[int, list] = {s: [] for s in x}
        order = rng.permutation(np.repeat(list(x), 50))
        for part in np.split(order, np.sort(rng.integers(0, 200, 20))):
            rows = []
            for s in part:
                rows.append((int(s), place[s]))
                place[s] += 1
            y = np.empty((len(part), model.output_width), np.float32)
            marks = np.empty(len(part), np.uint8)
            batch = np.array([x[s][n] for s, n in rows], np.float32).reshape(-1, model.input_width)
            session.step_slots(session.slots([f"s{s}" for s, _ in rows]), batch, y, marks)
            for (s, n), row, mark in zip(rows, y, marks, strict=True):
                seen[s] += [(n, row)] if mark else []
        for s, rows in seen.items():
            same(([n for n, _ in rows], np.array([y for _, y in rows])), alone[s])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 7, 12, 23])
def test_snapshots_in_the_middle_of_windows(kind: str, cut: int) -> None:
    model, x = made((kind, 12, 5)), messages(50)
    whole = answered(Session(model), "whole", x)
    session = Session(model)
    before = answered(session, "dev", x[:cut])
    assert session.state_bytes == 4 * state_width(model) == len(session.states()[0].state)
    other = Session(model)
    assert other.restore(session.snapshot()) == ["dev"]
    assert other.steps("dev") == cut
    after = answered(other, "dev", x[cut:])
    joined = before[0] + [cut + n for n in after[0]], np.concatenate([before[1], after[1]])
    same(joined, whole)


@pytest.mark.parametrize("kind", ["stack, mask", "bidirectional, mask", "strided"])
def test_reset_eviction_and_idle_streams(kind: str) -> None:
    model, x, now = made((kind, 12, 5)), messages(40), [0.0]
    events: list[Eviction] = []
    session = Session(model, 2, ttl=10, clock=lambda: now[0], on_evict=events.append)
    whole = answered(session, "a", x)
    session.reset("a")
    same(answered(session, "a", x), whole)
    session.step(["b", "c"], x[:2])
    assert events == [Eviction("a", 40, "capacity")]
    same(answered(session, "a", x), whole)
    now[0] = 11
    same(answered(session, "d", x), whole)
    assert {e.reason for e in events[2:]} == {"idle"}


def test_a_masked_message_is_no_step_of_a_continuous_stream() -> None:
    model, x = replace(GRU, mask=MASK), messages(60)
    session, now = Session(model, clock=lambda: now[0], ttl=10), [0.0]
    found, y = answered(session, "a", x)
    seen = x[~masked(model, x)]
    assert found == np.flatnonzero(~masked(model, x)).tolist()
    assert y.tobytes() == Session(GRU).run("a", seen).tobytes()
    assert session.steps("a") == len(seen) < 60
    assert session.run("b", np.full((5, 5), MASK)).shape == (0, 3)
    assert session.steps("b") == 0


def test_a_window_of_masked_messages_has_no_answer() -> None:
    x = models.inputs(12)
    x[3:9] = MASK
    for base in (GRU, bidirectional()):
        session = Session(windowed(replace(base, mask=MASK), 3))
        assert answered(session, "a", x)[0] == [2, 11]
        assert session.steps("a") == 12


def test_wrong_rows_step_no_window() -> None:
    model = made(("bidirectional", 4, 2))
    session, x = Session(model), models.inputs(9)
    whole = session.run("whole", x)
    session.step(["a"], x[:1])
    bad = x[1:3].copy()
    bad[1, 2] = np.inf
    with pytest.raises(InputError, match=r"row 1: x\[2\] is inf, expected a finite number"):
        session.step(["a", "a"], bad)
    slots, out = session.slots(["a"]), np.empty((1, 3), np.float32)
    for wrong in (x[:1, :4], x[:1].astype(float)):
        with pytest.raises(InputError, match="expected"):
            session.step_slots(slots, wrong, out)
    for wrong_out in (out.astype(float), np.empty((1, 6), np.float32)[:, ::2], out[:, :2].copy()):
        with pytest.raises(InputError, match="expected"):
            session.step_slots(slots, x[:1], wrong_out)
    with pytest.raises(InputError, match="emitted"):
        session.step_slots(slots, x[:1], out, np.empty(2, bool))
    session.close("a")
    with pytest.raises(StaleSlotError):
        session.step_slots(slots, x[:1], out)
    assert session.run("b", x).tobytes() == whole.tobytes()


def test_an_embedding_that_looks_ahead_checks_its_index() -> None:
    r = models.Random(3)
    base = models.embedding()
    model = windowed(
        replace(
            base,
            nodes=(*base.nodes, Reverse("back", "cell"), models.gru(r, "end", "back", models.H)),
            outputs=("end",),
        ),
        3,
    )
    session, x = Session(model), np.array([[1], [10], [4]], np.float32)
    np.testing.assert_allclose(
        session.run("a", x), reference.answers(model, x)[1], rtol=2e-5, atol=2e-5
    )
    with pytest.raises(InputError, match="expected a whole number from 0 to 10"):
        session.step(["a"], [[11]])


def test_many_streams_due_at_once_are_evaluated_in_parts() -> None:
    model = made(("bidirectional", 3, 1))
    session, x = Session(model, max_batch=7), models.inputs(40)
    expected = Session(model).run("one", x[:3])
    ids = [f"s{i}" for i in range(40)]
    for step in range(3):
        y = session.step(ids, np.repeat(x[step : step + 1], 40, axis=0))
    assert y.tobytes() == np.repeat(expected, 40, axis=0).tobytes()


def test_windows_take_any_window() -> None:
    """A window of one message, and one that is never whole."""
    for base in (GRU, bidirectional()):
        one = replace(base, window=Window(1, 1))
        validate(one)
        same(answered(Session(one), "a", models.inputs(9)), window_by_window(one, models.inputs(9)))
        assert answered(Session(windowed(base, 100, 50)), "a", models.inputs(99))[0] == []
