"""Counting predictions against the truth."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge_rnn_devices.scoreboard import Latencies, Scoreboard
from edge_rnn_devices.screen import Screen
from tests.effort import examples


def said(n: int, label: str, at: float, p: float = 0.9) -> dict:
    return {"n": n, "label": label, "probabilities": {label: p}, "timestamp": at}


def test_a_prediction_is_judged_by_the_truth_of_its_moment() -> None:
    board = Scoreboard(["run", "walk"])
    board.truth("a", 0.0, "walk")
    board.truth("a", 10.0, "run")
    for n, (at, label) in enumerate([(1, "walk"), (9.9, "walk"), (10, "run"), (11, "walk")]):
        board.prediction("a", said(n + 1, label, at), at + 0.004)
    summary = board.summary()
    assert summary["accuracy"] == 0.75
    assert summary["classes"]["run"] == {"precision": 1.0, "recall": 0.5, "support": 2}
    assert summary["classes"]["walk"] == {"precision": 2 / 3, "recall": 1.0, "support": 2}
    assert summary["out_of_order"] == 0


@pytest.mark.parametrize(
    ("numbers", "faults"), [([1, 2, 3], 0), ([1, 3], 1), ([1, 1, 2], 1), ([7, 8], 0)]
)
def test_gaps_and_repeats_are_counted(numbers: list[int], faults: int) -> None:
    board = Scoreboard(["walk"])
    for n in numbers:
        board.prediction("a", said(n, "walk", 0), 0)
    assert board.summary()["out_of_order"] == faults


@given(st.lists(st.floats(1e-5, 50), min_size=1, max_size=200))
@examples(100)
def test_percentiles_are_exact_to_a_bin(seconds: list[float]) -> None:
    latencies = Latencies()
    for s in seconds:
        latencies.add(s)
    for q in (50, 99):
        exact = np.percentile(seconds, q, method="inverted_cdf")
        assert latencies.percentile(q) == pytest.approx(exact, rel=0.025)


def test_the_screen_shows_every_device() -> None:
    board = Scoreboard(["run", "walk"])
    for name in ("watch-2", "watch-10"):
        board.truth(name, 0, "run")
        board.prediction(name, said(1, "run", 0.5), 0.504)
    console = Console(record=True, width=120, file=StringIO())
    console.print(Screen(board, "title"))
    text = console.export_text()
    assert text.index("watch-2") < text.index("watch-10")
    for part in ("title", "run", "90%", "100.0%", "p50 4.0 ms", "✓ run"):
        assert part in text
