"""Pipelines of models with windows and masks: the same answers however often they are restarted."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn import reference
from edge_rnn.graph import Feature, Model, Window
from edge_rnn.journal import Journal
from edge_rnn.messages import Message, Spec
from edge_rnn.pipeline import Pipeline
from tests.core import models
from tests.core.test_windows import GRU, bidirectional
from tests.effort import examples

NAMES = tuple(Feature(n) for n in "abcde")
MODELS: dict[str, Model] = {
    "tumbling": replace(GRU, features=NAMES, window=Window(6, 6)),
    "sliding": replace(GRU, features=NAMES, window=Window(6, 2)),
    "every": replace(GRU, features=NAMES, window=Window(6, 6, every=True)),
    "buffered": replace(bidirectional(), features=NAMES, window=Window(6, 2)),
    "masked": replace(GRU, features=NAMES, mask=0.0),
    "masked windows": replace(GRU, features=NAMES, window=Window(6, 2), mask=0.0),
    "masked and buffered": replace(bidirectional(), features=NAMES, window=Window(6, 2), mask=0.0),
}
SPEC = Spec(topics=["in/{stream}"], output="out/{stream}")


def recorded(steps: int) -> tuple[dict[str, np.ndarray], list[Message]]:
    """x of three streams, and their messages, interleaved."""
    x = {f"d{s}": models.inputs(steps, seed=s) for s in range(3)}
    for rows in x.values():
        rows[np.random.default_rng(4).random(steps) < 0.3] = 0
    messages = [
        Message(f"in/{s}", msgspec.json.encode(dict(zip("abcde", rows[n].tolist(), strict=True))))
        for n in range(steps)
        for s, rows in x.items()
    ]
    return x, messages


@pytest.mark.parametrize("kind", MODELS)
def test_answers_are_those_of_the_reference(kind: str) -> None:
    model, (x, messages) = MODELS[kind], recorded(30)
    answers = [
        msgspec.json.decode(p.payload) for p in Pipeline(model, SPEC).feed(messages, 0).predictions
    ]
    for stream, rows in x.items():
        steps, y = reference.answers(model, rows)
        own = [a for a in answers if a["stream"] == stream]
        np.testing.assert_allclose([a["values"] for a in own], y, atol=5e-5)
        # A masked message is no step of a stream without windows.
        n = np.arange(1, 1 + len(steps)) if kind == "masked" else steps + 1
        assert [a["n"] for a in own] == n.tolist()


@pytest.mark.parametrize("kind", MODELS)
@examples(15)
@given(cuts=st.lists(st.integers(0, 90), max_size=5))
def test_any_cut_and_any_restart(kind, cuts, tmp_path_factory) -> None:
    model, (_, messages) = MODELS[kind], recorded(30)
    whole = Pipeline(model, SPEC).feed(messages, 0).predictions
    path: Path = tmp_path_factory.mktemp("state") / "p.state"
    answers = []
    edges = [0, *sorted(cuts), len(messages)]
    for start, stop in pairwise(edges):
        pipeline = Pipeline(model, SPEC)
        with Journal(path, model=pipeline.digest, pipeline="p") as journal:
            pipeline.load(journal.load())
            answers += pipeline.feed(messages[start:stop], 0).predictions
            journal.commit(pipeline.changes())
    assert answers == whole


def test_a_masked_first_message_is_no_divergence() -> None:
    zeros = Message("in/a", msgspec.json.encode(dict.fromkeys("abcde", 0)))
    ones = Message("in/a", msgspec.json.encode(dict.fromkeys("abcde", 1)))
    result = Pipeline(MODELS["masked"], SPEC).feed([zeros, zeros, ones, zeros], 0)
    assert result.rejected == [] and [p.n for p in result.predictions] == [1]


def test_a_stream_starts_anew_after_a_window_that_diverged() -> None:
    cell, dense = GRU.nodes
    loud = replace(dense, act="exponential", b=np.full(3, 100, np.float32))
    model = replace(GRU, nodes=(cell, loud), features=NAMES, window=Window(3, 2))
    messages = recorded(9)[1][::3]  # of one stream
    result = Pipeline(model, SPEC).feed(messages, 0)
    assert {r.reason for r in result.rejected} == {"diverged"}
    found = [messages.index(r.message) for r in result.rejected]
    assert found == [2, 5, 8], "and not 2, 4, 6, 8"
