"""What `--quantize int8` gives: eight bits, and more in the layers that can't do with them.

Measurements: docs/decisions/0014-mixed-int8.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edge_rnn.graph import F32, Matrix, Model, Node, answer_steps, tensors
from edge_rnn.reference import F64
from edge_rnn.session import Session
from edge_rnn_converters import compare
from edge_rnn_converters.certificate.metrics import I64, sqnr_db
from edge_rnn_converters.quantize import Precision, quantize
from edge_rnn_converters.source import Progress
from edge_rnn_converters.streams import SIGNALS

ROOM = {30.0: 0.6, 45.0: 0.125}
"""The share of the weights that may be in float16 while the SQNR of the answers, in dB, is below
that: for an error of more than 3 % of them, whatever leaves the file 0.4 of float32's; for one of
more than the rounding of a single layer usually makes, an eighth more bytes."""
GAIN_DB = 0.5
"""Less is not worth more than an eighth."""
SMALL = 0.01
"""Layers that have less than this of the weights, all together, stay float32."""
STEPS = 64
"""Of each kind of signal, or as many as the model needs for an answer."""
MOST_STEPS = 4096


def choose(
    exact: Model,
    fixed: Mapping[str, Precision] | None = None,
    progress: Progress = lambda stage: None,
) -> tuple[Model, tuple[str, ...]]:
    """The model in int8, and what is not and why, a sentence each; the layers of `fixed` are in
    the formats given there.

    The smallest layers stay float32. While the SQNR of the answers to generated signals is below
    a level of `ROOM`, layers get float16, first those that, alone in int8, make most noise for
    their size, as long as the share that this level has room for is not exceeded.
    """
    formats = dict(fixed or {})
    weights = {n.name: _weights(n) for n in exact.nodes if _weights(n) and n.name not in formats}
    total = sum(map(_weights, exact.nodes))
    small = list(_small(weights, SMALL * total))
    formats |= dict.fromkeys(small, "float32")
    progress("trying int8")
    judge = _Judge.of(exact)
    model = quantize(exact, "int8", formats)
    why = (f"{', '.join(small)}: float32, under {SMALL:.0%} of the weights",) if small else ()
    at_first = now = judge.sqnr_db(model)
    if not _room(now):
        return model, why
    alone = {}
    for name in (name for name in weights if name not in small):
        progress(f"{name} alone in int8")
        alone[name] = judge.sqnr_db(quantize(exact, "float32", {name: "int8"}))
    half: list[str] = []
    plain = model
    for name in sorted(alone, key=lambda name: alone[name] + 10 * np.log10(weights[name])):
        share = sum(weights[n] for n in (*half, name)) / total
        if share > _room(now) or not _fits(exact, name):
            continue
        half.append(name)
        model = quantize(exact, "int8", {**formats, **dict.fromkeys(half, "float16")})
        now = judge.sqnr_db(model)
    if at_first < min(ROOM) and now < at_first + GAIN_DB:
        return plain, (*why, f"SQNR of the answers to generated signals {at_first:.1f} dB in int8; "
                             "float16 where there is room for it gains nothing")  # fmt: skip
    lines = [f"{name}: float16; in int8, it alone leaves the answers to generated signals an SQNR "
             f"of {alone[name]:.1f} dB" for name in half]  # fmt: skip
    return model, (*why, *lines, f"SQNR of these answers {at_first:.1f} dB before, {now:.1f} dB so")


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """Answers of the float32 runtime to each kind of signal, one stream: x (T, I), y (n, O), and
    the rows of y of each kind, (n,) numbers."""

    x: F32
    y: F64
    kinds: I64

    @classmethod
    def of(cls, exact: Model) -> _Judge:
        first, period = exact.schedule
        steps = min(max(STEPS, first + period), MOST_STEPS)
        x = compare.signals(exact, steps)
        y = compare.run(exact, x).astype(np.float64)
        return cls(x, y, answer_steps(exact, x) // steps)

    def sqnr_db(self, model: Model) -> float:
        """The median over the kinds, as none need be what this model hears; infinite if there is
        no finite answer to judge by."""
        with np.errstate(all="ignore"):
            off = Session(model, capacity=1).run("mixed", self.x) - self.y
            power, noise = ([float((v[self.kinds == k] ** 2).sum()) for k in range(SIGNALS)]
                            for v in (self.y, off))  # fmt: skip
        found = [sqnr_db(p, n) for p, n in zip(power, noise, strict=True) if 0 < p < np.inf]
        return float(np.median([np.inf if db is None else db for db in found] or [np.inf]))


def _room(sqnr_db: float) -> float:
    """The share of the weights that may be in float16 where the answers are this exact."""
    return max((share for level, share in ROOM.items() if sqnr_db < level), default=0.0)


def _small(weights: Mapping[str, int], room: float) -> Iterator[str]:
    """The smallest layers, as long as they have less than `room` weights together."""
    for name in sorted(weights, key=weights.__getitem__):
        room -= weights[name]
        if room <= 0:
            return
        yield name


def _weights(node: Node) -> int:
    return sum(t.data.size for _, _, t in tensors(node) if isinstance(t, Matrix))


def _fits(model: Model, name: str) -> bool:
    """Are the layer's weights in float16's range?"""
    node = next(n for n in model.nodes if n.name == name)
    largest = float(np.finfo(np.float16).max)
    return all(np.abs(t.data).max() <= largest
               for _, _, t in tensors(node) if isinstance(t, Matrix))  # fmt: skip
