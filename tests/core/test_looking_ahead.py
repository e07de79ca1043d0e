"""Models that are evaluated when a window is whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_rnn import Session, reference
from edge_rnn.graph import (
    Add,
    Concat,
    Conv1d,
    Model,
    Pad,
    Pool,
    Reverse,
    reads,
)
from tests.core import models
from tests.core.test_windowed import answered
from tests.core.test_windows import windowed
from tests.effort import fewer


def meeting(seed: int) -> Model:
    """Values of several origins that meet: rows forth, back, padded, thinned out and convolved."""
    r, rng = models.Random(seed), np.random.default_rng(seed)
    nodes: list[Any] = [models.gru(r, "n0")]
    same_rows = {"x": models.I, "n0": models.H}  # of as many rows as a window
    for k in range(1, 9):
        name, read = f"n{k}", str(rng.choice(list(same_rows)))
        width = same_rows[read]
        match rng.integers(6):
            case 0:
                nodes.append(Reverse(name, read))
            case 1:
                nodes += [
                    Pad(f"{name}-pad", read, 2, 1),
                    models.conv(r, name, f"{name}-pad", width, width, kernel=4, padding="valid"),
                ]
            case 2:
                nodes.append(models.gru(r, name, read, width))
                width = models.H
            case 3:
                nodes.append(Add(name, read, (str(rng.choice(_wide(same_rows, width))),)))
            case 4:
                other = str(rng.choice(list(same_rows)))
                nodes.append(Concat(name, read, (other,)))
                width += same_rows[other]
            case _:
                nodes += [
                    Pad(f"{name}-pad", read, 0, 3, -3.0e38),
                    Pool(name, f"{name}-pad", "max", 4, 1),
                ]
        same_rows[name] = width
    joined = [name for name in same_rows if name not in {n for m in nodes for n in reads(m)}]
    nodes.append(Concat("all", joined[0], (*joined[1:], "n0")))
    nodes.append(
        Conv1d("thin", "all", r.matrix(3, 2 * _width(nodes, same_rows)), r.vector(3), 2, 2)
    )
    nodes.append(Reverse("end", "thin"))
    return models.model(*nodes)


def _wide(widths: dict[str, int], width: int) -> list[str]:
    return [name for name, w in widths.items() if w == width]


def _width(nodes: list[Any], widths: dict[str, int]) -> int:
    return sum(widths[name] for name in reads(nodes[-1]))


@pytest.mark.parametrize("seed", range(fewer(40)))
def test_any_graph_that_looks_ahead_matches_the_reference(seed: int) -> None:
    model, x = windowed(meeting(seed), 2 + seed % 7, 1 + seed % 2), models.inputs(30)
    steps, y = reference.answers(model, x)
    found, rows = answered(Session(model), "a", x)
    assert found == list(steps)
    np.testing.assert_allclose(rows, y, rtol=2e-5, atol=5e-5)


@pytest.mark.parametrize("weights", models.FORMATS)
def test_quantized_parts_round_as_the_whole_does(weights: str) -> None:
    """The bounds of values reach the parts that read them."""
    r = models.Random(5, weights)
    model = windowed(
        models.model(
            models.gru(r, "a"),
            Reverse("back", "a"),
            Pad("pad", "back", 1, 1),
            models.conv(r, "conv", "pad", models.H, padding="valid", act="tanh"),
            Add("sum", "conv", ("a",)),
            models.lstm(r, "b", "sum", models.H),
        ),
        6,
        2,
    )
    steps, y = reference.answers(model, models.inputs(30))
    found, rows = answered(Session(model), "a", models.inputs(30))
    assert found == list(steps)
    # A number between two integers may be rounded to either, by the float32 it is.
    np.testing.assert_allclose(rows, y, atol=5e-5 if " " not in weights else 0.02)


def test_a_window_that_overflows_is_nan_alone() -> None:
    model = windowed(
        models.model(
            models.rnn(models.Random(), "cell", act="relu"),
            Reverse("back", "cell"),
            models.rnn(models.Random(), "again", "back", models.H, act="relu"),
        ),
        4,
    )
    x = models.inputs(12)
    whole = Session(model).run("well", x)
    sick = x.copy()
    sick[5] = 3e38 * np.sign(x[5])
    y = Session(model).run("sick", sick)
    assert np.isnan(y[1]).all()
    assert y[[0, 2]].tobytes() == whole[[0, 2]].tobytes()
