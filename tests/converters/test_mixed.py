"""What `--quantize int8` chooses."""

from __future__ import annotations

import numpy as np

from edge_rnn.graph import Dense, Input, Lstm, Matrix, Model
from edge_rnn_converters import compare, mixed
from edge_rnn_converters.quantize import int8, precision_of, quantize

I, H, O = 24, 48, 12
WIDE = ("first", "second", "lstm", "last")


def network(outlier: float = 0) -> Model:
    """Dense layers around an LSTM. The first one's column 0 is silent, and the second has weights
    of `outlier` for it, beside which int8 leaves little of its others. All else fits in int8."""
    rng = np.random.default_rng(0)

    def w(rows: int, columns: int) -> Matrix:
        return Matrix(int8(rng.normal(0, columns**-0.5, (rows, columns))).float64().astype("f4"))

    def b(rows: int) -> np.ndarray:
        return rng.normal(0, 0.1, rows).astype(np.float32)

    first, second, bias = w(I, I), w(H, I), b(I)
    first.data[0] = bias[0] = 0
    second.data[:, 0] = outlier
    return Model((Input("x", I),), (
        Dense("first", "x", first, bias),
        Dense("second", "first", second, b(H)),
        Lstm("lstm", "second", w(4 * H, H), w(4 * H, H), b(4 * H)),
        Dense("last", "lstm", w(O, H), b(O)),
        Dense("tiny", "last", w(1, O), b(1)),
    ), ("last", "tiny"))  # fmt: skip


def formats(model: Model) -> dict[str, str | None]:
    return {n.name: precision_of(n) for n in model.nodes}


def test_what_is_exact_enough_is_int8_but_for_the_smallest() -> None:
    chosen, why = mixed.choose(network())
    assert formats(chosen) == {**dict.fromkeys(WIDE, "w8a16"), "tiny": "float32"}
    assert why == ("tiny: float32, under 1% of the weights",)


def test_what_int8_would_spoil_is_not_int8_and_says_so() -> None:
    exact = network(outlier=300)
    chosen, why = mixed.choose(exact)
    x = compare.stress(exact)
    y = compare.run(exact, x)
    off, plain = (np.abs(compare.run(m, x) - y).max() for m in (chosen, quantize(exact, "int8")))
    assert off < plain / 4
    assert (formats(chosen)["second"], formats(chosen)["lstm"]) == ("float16", "w8a16")
    assert any(line.startswith("second: float16; in int8, it alone leaves") for line in why)
    assert why[-1].startswith("SQNR of these answers ")


def test_a_layer_of_most_weights_is_never_float16() -> None:
    """Nor is then any other, as that gains nothing."""
    exact = network()
    cell = exact.nodes[2]
    assert isinstance(cell, Lstm)
    cell.w.data[:, 0] = 300
    second = exact.nodes[1]
    assert isinstance(second, Dense)
    second.w.data[0] = second.b[0] = 0
    chosen, why = mixed.choose(exact)
    assert set(formats(chosen).values()) == {"w8a16", "float32"}
    assert why[-1].endswith("gains nothing")


def test_what_the_user_says_is_kept() -> None:
    chosen, why = mixed.choose(network(300), {"tiny": "w4a16", "second": "w8a8"})
    found = formats(chosen)
    assert (found["tiny"], found["second"]) == ("w4a16", "w8a8")
    assert not any(line.startswith(("tiny", "second")) for line in why)


def test_a_weight_beyond_float16_stays_int8() -> None:
    assert formats(mixed.choose(network(outlier=1e5))[0])["second"] == "w8a16"


def test_a_model_of_no_finite_answer_is_int8() -> None:
    exact = network(300)
    last = exact.nodes[3]
    assert isinstance(last, Dense)
    last.w.data[:] = 3e38
    assert formats(mixed.choose(exact)[0])["second"] == "w8a16"
