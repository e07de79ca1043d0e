"""What was measured of a converted model, as its file keeps it.

`docs/format.md` describes each field; the converters measure them.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

CERTIFICATE_VERSION = 1
_TENFOLD = 10.0

Verdict: TypeAlias = Literal["passed", "failed", "not judged"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every field is required in JSON, and no other is allowed."""


class Growth(_Record, frozen=True):
    """A line fitted to the logarithm of the error: how an error changes along a stream.

    `factor`: what 10,000 steps multiply it by; `low`, `high`: three standard errors around that.
    `growing`: it gets larger beyond doubt (low > 1), by more than a fifth over the stream.
    """

    factor: float
    low: float
    high: float
    growing: bool

    @property
    def verdict(self) -> Literal["growing", "bounded", "unclear"]:
        """Bounded only where a tenfold error after 10,000 steps is beyond doubt not to come."""
        if self.growing:
            return "growing"
        return "bounded" if self.high < _TENFOLD else "unclear"


class Errors(_Record, frozen=True):
    """One way of computing the model against the float64 reference of the unquantized one.

    `answers`: rows compared; `largest`: the largest absolute error, met at step `at`; `rms`: the
    root mean square; `sqnr_db`: 10 log10 of the outputs' power over the error's, None without any
    error. `flips`: rows whose decision differs, `margin`: by how much the reference preferred its
    own at most; None if the model makes no decision. `broken`: the first step whose answer is not
    finite; rows from there on are not compared. `curve`: the rms of each of equal parts of the
    stream; `growth` is None where these are too few or without error.
    """

    name: str
    answers: int
    largest: float
    at: int
    rms: float
    sqnr_db: float | None
    flips: int | None
    margin: float | None
    broken: int | None
    curve: tuple[float, ...]
    growth: Growth | None

    @property
    def agreement(self) -> float | None:
        """The share of rows with the reference's decision."""
        return None if self.flips is None else 1 - self.flips / self.answers


class Gate(_Record, frozen=True):
    """How often a gate is shut (below 0.01) or open (above 0.99): shares of steps and units."""

    name: str
    shut: float
    open: float


class LayerRecord(_Record, frozen=True):
    """A layer: its format, its SQNR inside the quantized model, and what its cell does.

    `largest_c` is the largest |c| of an LSTM in the reference, None for other layers.
    """

    name: str
    op: str
    format: str
    bytes: int
    sqnr_db: float | None
    gates: tuple[Gate, ...]
    largest_c: float | None


class FormatRecord(_Record, frozen=True):
    """The whole model in one format: bytes of its tensors, microseconds a step of one stream."""

    name: str
    bytes: int
    us_per_step: float
    largest: float
    sqnr_db: float | None


class ClassScore(_Record, frozen=True):
    """A class of a classifier; a ratio without any case is 0."""

    name: str
    precision: float
    recall: float
    f1: float
    rows: int


class Score(_Record, frozen=True):
    """How well the labels are met: by a classifier (confusion[i][j]: rows of class i called j) or
    by numbers; what does not apply is None or empty."""

    name: str
    accuracy: float | None = None
    macro_f1: float | None = None
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    mae: float | None = None
    rmse: float | None = None


class Task(_Record, frozen=True):
    """Scores on labelled rows: of the float64 reference, of the quantized model, and of a naive
    guess: the most frequent class, or for numbers the label of the row before."""

    rows: int
    scores: tuple[Score, ...]


class Certificate(_Record, frozen=True):
    """What a model's conversion costs on a long stream.

    `model` is the digest of the certified model, `data` says what was run, `steps` how long.
    `runs` has the source framework, if it could be run, the float32 and the quantized runtime.
    `used` is the place in `formats` of this model's own. `failures` are the bounds that did not
    hold, in words; `choice` why each layer has its format, if that was chosen.
    """

    version: int
    model: str
    data: str
    steps: int
    machine: str
    runs: tuple[Errors, ...]
    layers: tuple[LayerRecord, ...]
    formats: tuple[FormatRecord, ...]
    used: int
    task: Task | None
    max_error: float | None
    min_agreement: float | None
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    choice: tuple[str, ...]

    @property
    def quantized(self) -> Errors:
        """The run of the model as it is in the file."""
        return self.runs[-1]

    @property
    def format(self) -> FormatRecord:
        """The figures of the model as it is in the file."""
        return self.formats[self.used]

    @property
    def verdict(self) -> Verdict:
        """Did it keep its bounds?"""
        if self.failures:
            return "failed"
        asked = self.max_error is not None or self.min_agreement is not None
        return "passed" if asked else "not judged"

    def summary(self) -> list[str]:
        """What matters of it, a sentence a line."""
        e = self.quantized
        lines = [f"{self.verdict}{self._bounds()}; {self.steps:,} steps, {self.data}"]
        lines += self.failures
        size = "without any error" if e.sqnr_db is None else f"SQNR {e.sqnr_db:.1f} dB"
        lines.append(
            f"quantized: largest error {e.largest:.2g} at step {e.at:,}, {size}{_flips(e)}"
        )
        if e.growth is not None:
            lines.append(f"error {_grows(e.growth)}")
        if self.task is not None:
            lines += [_score(s, self.task.rows) for s in self.task.scores]
        return lines + list(self.choice)

    def _bounds(self) -> str:
        asked = []
        if self.max_error is not None:
            asked.append(f"error <= {self.max_error:g}")
        if self.min_agreement is not None:
            asked.append(f"{self.min_agreement:.6g} of decisions agree")
        return f" ({', '.join(asked)})" if asked else " (no bound was given)"


def _flips(e: Errors) -> str:
    if e.agreement is None:
        return ""
    return f", {e.agreement:.2%} of decisions agree ({e.flips} of {e.answers:,} differ)"


def _grows(g: Growth) -> str:
    words = {"growing": "grows", "bounded": "is bounded"}
    word = words.get(g.verdict, "may grow, these are too few steps to tell")
    return f"{word}: x{g.factor:.2g} in 10,000 steps ({g.low:.2g} to {g.high:.2g})"


def _score(s: Score, rows: int) -> str:
    if s.accuracy is None:
        return f"{s.name}: MAE {s.mae:.4g}, RMSE {s.rmse:.4g} over {rows:,} labelled rows"
    return f"{s.name}: {s.accuracy:.2%} right, macro F1 {s.macro_f1:.3f} of {rows:,} labelled rows"
