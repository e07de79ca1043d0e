"""How long a step takes: ours, and other runtimes' beside it."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32, Embedding, Model, multiply_adds, value_widths
from edge_rnn.session import Session

Step: TypeAlias = Callable[[F32], F32]
"""x (B, I) -> y (B, O): the next step of B streams whose states it keeps."""

Numbers: TypeAlias = Literal["float32", "int8"]

TOLERANCE: dict[Numbers, float] = {"float32": 1e-4, "int8": 0.1}
"""Largest `Compared.difference` of outputs that agree, by what the matrix products of the less
exact side multiply."""

WARM_UP = 64
ROUNDS = 60
_MIN_CALLS, _TRIES, _READINGS = 2, 8, 32
_LOOK = 1e-4
"""Seconds of calls between two questions to the operating system, each of which costs caches."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a peer runs a model, such as "LiteRT int8 full" of runtime "LiteRT 2.3.0".

    `numbers` are what its matrix products multiply.
    """

    name: str
    runtime: str
    numbers: Numbers
    step: Step


@dataclass(frozen=True, slots=True)
class Timing:
    """Steps of one batch size: microseconds a call (median, 99th percentile), steps a second."""

    batch: int
    calls: int
    p50_us: float
    p99_us: float
    steps_per_second: float
    multiply_adds_per_second: float


@dataclass(frozen=True, slots=True)
class Compared:
    """A variant beside us: how much its outputs differ, and how many times faster we are.

    difference: root-mean-square difference of the outputs over the root-mean-square of ours, which
        unlike the largest difference says the same whatever the batch size.
    ratio: the median of the rounds' ratios. A variant that does not agree was not timed.
    """

    variant: str
    runtime: str
    batch: int
    difference: float
    tolerance: float
    timing: Timing | None = None
    ratio: float | None = None

    @property
    def agrees(self) -> bool:
        """True when the outputs differ by no more than the tolerance."""
        return self.difference <= self.tolerance


def compare(
    model: Model, batch: int, variants: Sequence[Variant], seconds: float, rounds: int = ROUNDS
) -> tuple[Timing, list[Compared]]:
    """Time our step and those of the variants that agree, in turn, `seconds` for each.

    Every call has fresh inputs; see `in_turn`.
    """
    ours, x = our_step(model, batch), inputs(model, batch)
    compared = _agreement(model, ours, x, variants)
    agreed = [i for i, c in enumerate(compared) if c.agrees]
    steps = [ours, *(variants[i].step for i in agreed)]
    spent = in_turn([(s, x) for s in steps], seconds, rounds)
    own, *others = (_timing(model, batch, turns) for turns in zip(*spent, strict=True))
    typical = _medians(spent)
    for column, (i, timing) in enumerate(zip(agreed, others, strict=True), 1):
        ratio = float(np.median(typical[:, column] / typical[:, 0]))
        compared[i] = replace(compared[i], timing=timing, ratio=ratio)
    return own, compared


def in_turn(
    steps: Sequence[tuple[Step, F32]], seconds: float, rounds: int = ROUNDS
) -> list[list[list[float]]]:
    """Seconds of the calls of each step, by round and step.

    A step goes with the inputs (n, ...) that its calls have in turn. In a round each runs for
    `seconds` / `rounds`, a time so short that a machine that slows down slows all.
    """
    return [[_calls(step, x, seconds / rounds) for step, x in steps] for _ in range(rounds)]


def medians(
    steps: Sequence[tuple[Step, F32]], seconds: float, rounds: int = ROUNDS
) -> NDArray[np.float64]:
    """The median seconds of a call (rounds, steps) of what `in_turn` runs."""
    return _medians(in_turn(steps, seconds, rounds))


def our_step(model: Model, batch: int) -> Step:
    """Through `Session.step_slots`, as the daemon does."""
    session = Session(model, capacity=batch)
    slots = session.slots([str(i) for i in range(batch)])
    y = np.empty((batch, model.output_width), np.float32)

    def step(x: F32) -> F32:
        session.step_slots(slots, x, y)
        return y

    return step


def inputs(model: Model, batch: int, steps: int = WARM_UP, seed: int = 0) -> F32:
    """Random inputs (steps, B, I): standard normal features, valid indices for an embedding."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, batch, model.input_width), np.float32)
    column = 0
    for i in model.inputs:
        for n in model.nodes:
            if isinstance(n, Embedding) and n.input == i.name:
                x[..., column] = rng.integers(0, len(n.table.data), x.shape[:2])
        column += i.width
    return x


def _agreement(model: Model, ours: Step, x: F32, variants: Sequence[Variant]) -> list[Compared]:
    """Run all from the initial state over the same inputs."""
    size, errors = 0.0, np.zeros(len(variants))
    for rows in x:
        y = ours(rows).astype(np.float64)
        size += np.square(y).sum()
        errors += [np.square(v.step(rows) - y).sum() for v in variants]
    differences = np.sqrt(errors / max(size, np.finfo(np.float64).tiny))
    # Nodes with quantized activations are as exact as int8 is.
    exact = all(getattr(n, "activations", "float32") == "float32" for n in model.nodes)
    return [
        Compared(v.name, v.runtime, x.shape[1], float(d), TOLERANCE[v.numbers if exact else "int8"])
        for v, d in zip(variants, differences, strict=True)
    ]


def _medians(spent: list[list[list[float]]]) -> NDArray[np.float64]:
    return np.array([[np.median(calls) for calls in turns] for turns in spent])


def _calls(step: Step, x: F32, seconds: float) -> list[float]:
    """Seconds of each call, without what reading the clock takes, for about `seconds`.

    Calls that lost the processor to another process are left out, unless even several tries did:
    how long they then waited says nothing of the runtime.
    """
    whole: list[float] = []
    cut: list[float] = []
    clock = min(-(time.perf_counter() - time.perf_counter()) for _ in range(_READINGS))
    end, switches = time.perf_counter() + seconds, _switches()
    while (
        (n := len(whole) + len(cut)) < _MIN_CALLS
        or time.perf_counter() < end
        or (not whole and n < _TRIES)
    ):
        group = _group(step, x, n, clock)
        before, switches = switches, _switches()
        (whole if switches == before else cut).extend(group)
    return whole or cut


def _group(step: Step, x: F32, n: int, clock: float) -> list[float]:
    """Seconds of each call from the nth on until the next look."""
    spent: list[float] = []
    start = began = time.perf_counter()
    while not spent or start - began < _LOOK:
        rows = x[(n + len(spent)) % len(x)]
        start = time.perf_counter()
        step(rows)
        spent.append(time.perf_counter() - start - clock)
    return spent


def _switches() -> int:
    """How often this thread has lost the processor against its will."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _timing(model: Model, batch: int, turns: Sequence[Sequence[float]]) -> Timing:
    spent: NDArray[np.float64] = np.concatenate([np.array(t) for t in turns])
    p50, p99 = (float(p) for p in np.percentile(spent, [50, 99]))
    rate = batch / p50
    widths = value_widths(model)
    work = sum(multiply_adds(n, widths) for n in model.nodes)
    return Timing(batch, len(spent), p50 * 1e6, p99 * 1e6, rate, rate * work)
