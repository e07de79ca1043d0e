"""What `--quantize int8` chooses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_rnn.graph import Dense, Input, Lstm, Matrix, Model
from edge_rnn_converters import compare, mixed
from edge_rnn_converters.quantize import precision_of, quantize

I, H, O = 24, 48, 12


def network(spread: float) -> Model:
    """dense -> LSTM -> dense -> dense of one weight a row; the first one's columns span `spread`
    decades, the loudest being the last."""
    rng = np.random.default_rng(0)

    def w(rows: int, columns: int) -> Matrix:
        return Matrix((rng.normal(size=(rows, columns)) / np.sqrt(columns)).astype(np.float32))

    def b(rows: int) -> np.ndarray:
        return rng.normal(0, 0.1, rows).astype(np.float32)

    first = w(H, I).data * 10 ** np.linspace(-spread, 0, I, dtype=np.float32)
    cell = Lstm("lstm", "first", w(4 * H, H), w(4 * H, H), b(4 * H))
    nodes = (Dense("first", "x", Matrix(first), b(H)), cell, Dense("last", "lstm", w(O, H), b(O)),
             Dense("tiny", "last", w(1, O), b(1)))  # fmt: skip
    return Model((Input("x", I),), nodes, ("tiny",))


def formats(model: Model) -> dict[str, str | None]:
    return {n.name: precision_of(n) for n in model.nodes}


def rough(model: Model) -> Model:
    """With one weight in each row of its LSTM so large that int8 leaves little of the others."""
    cell = model.nodes[1]
    assert isinstance(cell, Lstm)
    w = cell.w.data.copy()
    w[:, 0] = 300
    nodes = (model.nodes[0], replace(cell, w=Matrix(w)), *model.nodes[2:])
    first = model.nodes[0]
    assert isinstance(first, Dense)
    quiet = first.w.data.copy()
    quiet[0] = 0
    bias = first.b.copy()
    bias[0] = 0
    return replace(model, nodes=(replace(first, w=Matrix(quiet), b=bias), *nodes[1:]))


def test_what_is_exact_enough_is_int8_but_for_the_smallest() -> None:
    chosen, why = mixed.choose(network(0))
    assert formats(chosen) == dict.fromkeys(("first", "lstm", "last"), "w8a16") | {
        "tiny": "float32"
    }
    assert why == ("tiny: float32, under 1% of the weights",)


def test_what_int8_would_spoil_is_not_int8_and_says_so() -> None:
    """The columns of large weights read zeros, so that all that matters is lost in int8's step."""
    exact = rough(network(0))
    chosen, why = mixed.choose(exact)
    x = compare.stress(exact)
    y = compare.run(exact, x)
    plain = np.abs(compare.run(quantize(exact, "int8"), x) - y).max()
    assert np.abs(compare.run(chosen, x) - y).max() < plain
    assert "float16" in formats(chosen).values()
    assert any("float16; in int8, it alone leaves" in line for line in why)
    assert why[-1].startswith("SQNR of these answers ")


def test_at_most_six_tenths_are_float16() -> None:
    chosen, _ = mixed.choose(rough(network(3)))
    weights = {n.name: mixed._weights(n) for n in chosen.nodes}
    half = sum(weights[n] for n, p in formats(chosen).items() if p == "float16")
    assert half <= 0.6 * sum(weights.values())


def test_what_the_user_says_is_kept() -> None:
    chosen, why = mixed.choose(network(0), {"tiny": "w4a16", "lstm": "float16"})
    found = formats(chosen)
    assert (found["tiny"], found["lstm"]) == ("w4a16", "float16")
    assert not any(line.startswith(("tiny", "lstm")) for line in why)


def test_a_weight_beyond_float16_stays_int8() -> None:
    exact = rough(network(0))
    first = exact.nodes[0]
    assert isinstance(first, Dense)
    w = first.w.data.copy()
    w[1, 0] = 1e5
    chosen, _ = mixed.choose(replace(exact, nodes=(replace(first, w=Matrix(w)), *exact.nodes[1:])))
    assert formats(chosen)["first"] == "w8a16"


def test_a_model_of_no_finite_answer_is_int8() -> None:
    exact = network(0)
    last = exact.nodes[-1]
    assert isinstance(last, Dense)
    nan = replace(last, b=np.float32([np.inf]))
    chosen, _ = mixed.choose(replace(exact, nodes=(*exact.nodes[:-1], nan)))
    assert formats(chosen)["lstm"] == "w8a16"
