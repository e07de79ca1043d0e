"""How near we are to what a core can do at most, and what a call from Python costs.

The second table of matrix.py, with the bars of README.md. Figures that are ratios come from
measurements in turn; the microseconds of a call are as wide as the processor's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from edge_rnn import Session
from edge_rnn.cli.layers import one_stream, peak, stream, weight_bytes
from edge_rnn.cli.measure import Step, inputs, medians, our_step
from edge_rnn.graph import F32, Activation, Dense, Input, Lstm, Matrix, Model, Slice
from edge_rnn_converters.quantize import Precision, quantize

SLICE = 0.015
"""Seconds for each of the two that are measured in turn, in a round."""
CALLS = 256
"""Calls from Python that are timed together."""
FEW = 64
"""Rows of a product, of the most that any processor makes together."""
PRECISIONS: tuple[tuple[Precision, int, float], ...] = (("w8a16", 256, 1.35), ("w4a8", 512, 1.0))


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that `measure`, given a number of rounds, finds, and its bar if it has one: what it
    may be at most, or with `least` at least."""

    title: str
    unit: str
    bar: float | None
    measure: Callable[[int], float]
    least: bool = False

    def reached(self, value: float) -> bool:
        """Does the value keep to the bar?"""
        if self.bar is None:
            return True
        return value >= self.bar if self.least else value <= self.bar


def lstm(H: int, precision: Precision) -> Model:
    """An LSTM of 8 features."""
    node = Lstm("cell", "x", weights(4 * H, 8), weights(4 * H, H), np.zeros(4 * H, np.float32))
    return quantize(Model((Input("x", 8),), (node,), ("cell",)), precision)


def recurrent_product(H: int, rows: int) -> Model:
    """What is left of an LSTM's step: the activations made integers, multiplied by the recurrent
    matrix, scaled, biased and stored as float32. Of the outputs one is handed out: a cell's gates
    stay inside, too."""
    dense = Dense("u", "x", weights(rows, H), np.zeros(rows, np.float32))
    model = Model((Input("x", H),), (dense, Slice("one", "u", 0, 1)), ("one",))
    return quantize(model, "w8a8")


def weights(rows: int, columns: int) -> Matrix:
    """Random ones."""
    w = np.random.default_rng(0).normal(0, columns**-0.5, (rows, columns))
    return Matrix(w.astype(np.float32))


def over_stream(H: int, rounds: int) -> float:
    """A step of one stream, within a call, over reading as many bytes as its weights have."""
    model = lstm(H, "w8a8")
    step, x, steps = one_stream(model)
    read, nbytes = stream(weight_bytes(model))
    one, other = in_turn((step, x), (read, x), rounds)
    return float(np.median(one / steps / (other / nbytes * weight_bytes(model))))


def over_w8a8(H: int, precision: Precision, rounds: int) -> float:
    """A step in `precision` over one in w8a8, of one stream, within a call."""
    (step, x, steps), (other, z, others) = (one_stream(lstm(H, p)) for p in (precision, "w8a8"))
    one, two = in_turn((step, x), (other, z), rounds)
    return float(np.median(one / steps / (two / others)))


def of_peak(H: int, rounds: int, batch: int = 256) -> float:
    """Percent of the core's integer multiply-adds that a dense layer makes, with all it does."""
    model = recurrent_product(H, 4 * H)
    works, work = peak(integer=True)
    x = inputs(model, batch)
    one, other = in_turn((our_step(model, batch), x), (works, x), rounds)
    return float(np.median(100 * (4 * H * H * batch / one) / (work / other)))


def of_peak_alone(H: int, rounds: int, batch: int = 256) -> float:
    """The same of the product alone: of what 4 H rows take longer than the first FEW."""
    works, work = peak(integer=True)
    models = [recurrent_product(H, rows) for rows in (4 * H, FEW)]
    turns = [(our_step(m, batch), inputs(m, batch)) for m in models]
    all_, few, other = medians([*turns, (works, turns[0][1])], rounds * SLICE, rounds).T
    return float(np.median(100 * ((4 * H - FEW) * H * batch / (all_ - few)) / (work / other)))


def calls() -> tuple[Step, Step, F32]:
    """(CALLS of `step_slots`, as many of `step`, their inputs), one stream with next to nothing to
    compute."""
    model = Model((Input("x", 1),), (Activation("y", "x"),), ("y",))
    session = Session(model, capacity=1)
    slots, y = session.slots(["one"]), np.empty((1, 1), np.float32)

    def bare(x: F32) -> F32:
        for _ in range(CALLS):
            session.step_slots(slots, x, y)
        return y

    def with_ids(x: F32) -> F32:
        for _ in range(CALLS):
            session.step(["one"], x)
        return y

    return bare, with_ids, inputs(model, 1)


def slots_us(rounds: int) -> float:
    """Microseconds of `step_slots`."""
    bare, _, x = calls()
    return float(np.median(medians([(bare, x)], rounds * SLICE, rounds))) * 1e6 / CALLS


def ids_us(rounds: int) -> float:
    """Microseconds of `step` above those of `step_slots`."""
    bare, with_ids, x = calls()
    one, other = in_turn((bare, x), (with_ids, x), rounds)
    return float(np.median(other - one)) * 1e6 / CALLS


def in_turn(a: tuple[Step, F32], b: tuple[Step, F32], rounds: int) -> tuple[F32, F32]:
    """Seconds (rounds,) of a call of each."""
    one, other = medians([a, b], rounds * SLICE, rounds).T
    return one, other


FIGURES = (
    *(
        Figure(
            f"LSTM w8a8 batch 1 H={H}: a step over reading its weights",
            *("", 1.4, partial(over_stream, H)),
        )
        for H in (256, 512)
    ),
    *(
        Figure(
            f"LSTM w8a8 batch 256 H={H}: {what}, of the most multiply-adds",
            *("%", bar, partial(measure, H)),
            least=True,
        )
        for what, bar, measure in (
            ("the recurrent product", 75, of_peak_alone),
            ("all of a dense layer of its size", None, of_peak),
        )
        for H in (128, 256, 512)
    ),
    *(
        Figure(
            f"LSTM {precision} batch 1 H={H}: a step over one in w8a8",
            *("", bar, partial(over_w8a8, H, precision)),
        )
        for precision, H, bar in PRECISIONS
    ),
    Figure("step_slots, batch 1: a call from Python", "µs", 1.0, slots_us),
    Figure("step, batch 1: a call from Python, above step_slots", "µs", 1.0, ids_us),
)
