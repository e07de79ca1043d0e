"""`--quantize auto`: the smallest format of each layer with which the model keeps its bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32, Model
from edge_rnn.session import Session
from edge_rnn_converters.certificate.measure import Bounds
from edge_rnn_converters.certificate.truth import Truth
from edge_rnn_converters.quantize import Precision, precision_of, quantize, size_of
from edge_rnn_converters.source import Progress

LADDER: tuple[Precision, ...] = ("w4a8", "w4a16", "w8a8", "w8a16", "float16", "float32")
"""From the smallest to the most exact; of two as small, the faster first."""
SAMPLE = 2000
"""Steps on which a layer alone is measured, and what is hopeless is found out."""

Formats: TypeAlias = dict[str, Precision]
Alone: TypeAlias = dict[str, dict[Precision, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The model with each layer in its format, and why, a sentence a layer."""

    model: Model
    formats: Mapping[str, Precision]
    reasons: tuple[str, ...]


def choose(
    exact: Model,
    x: F32,
    truth: Truth,
    bounds: Bounds,
    fixed: Mapping[str, Precision] | None = None,
    progress: Progress = lambda stage: None,
) -> Choice:
    """Formats with which the outputs over x (T, I) keep `bounds`; `fixed` are those of layers that
    are not to be chosen.

    Each layer is measured alone in each format: the root mean square of what it does to the
    outputs, all else in float32. All start in the smallest; while a bound does not hold, the layer
    that does most harm gets the next format that does less. At the end each layer, the largest
    first, gets a smaller format if the bounds hold all the same. If they can't hold even in
    float32, that is what it ends in; the certificate will say so.

    Raises ModelError without any bound.
    """
    if not bounds.given:
        raise ModelError("quantize=auto needs a bound to keep: max_error or min_agreement")
    chooser = _Chooser(exact, x[: truth.length], truth, bounds, dict(fixed or {}), progress)
    return chooser.choice()


@dataclass(frozen=True, slots=True, eq=False)
class _Chooser:
    exact: Model
    x: F32
    truth: Truth
    bounds: Bounds
    fixed: Formats
    progress: Progress

    def choice(self) -> Choice:
        names = [n.name for n in self.exact.nodes if precision_of(n) and n.name not in self.fixed]
        alone = {name: dict(self._alone(name)) for name in names}
        formats = self._lowered(self._raised(alone), alone)
        reasons = tuple(_reason(name, formats[name], alone[name]) for name in names)
        return Choice(self._model(formats), formats, reasons)

    def _alone(self, name: str) -> list[tuple[Precision, float]]:
        """The error of each format that the layer can have; float16 has a largest weight."""
        found: list[tuple[Precision, float]] = []
        for p in LADDER:
            self.progress(f"{name} alone in {p}")
            try:
                found.append((p, self._errors(quantize(self.exact, "float32", {name: p}), SAMPLE)))
            except UnsupportedError:
                continue
        return found

    def _errors(self, model: Model, steps: int) -> float:
        y = self.truth.compared(Session(model, capacity=1).run("auto", self.x[:steps]))
        return self.truth.errors_at("auto", y.astype("f8"), slice(len(y))).rms

    def _raised(self, alone: Alone) -> Formats:
        formats: Formats = {name: next(iter(errors)) for name, errors in alone.items()}
        while not self._holds(formats):
            better = {name: _next(formats[name], errors) for name, errors in alone.items()}
            open_ = [name for name, p in better.items() if p is not None]
            if not open_:
                break
            worst = max(open_, key=lambda name: alone[name][formats[name]])
            step = better[worst]
            assert step is not None  # noqa: S101 - it is open
            formats[worst] = step
        return formats

    def _lowered(self, formats: Formats, alone: Alone) -> Formats:
        if not self._holds(formats):
            return formats
        by_size = sorted(alone, key=self._size_of(formats), reverse=True)
        for name in by_size:
            size = self._size_of(formats)(name)
            for p in alone[name]:
                trial: Formats = {**formats, name: p}
                if self._size_of(trial)(name) >= size:
                    break
                if self._holds(trial):
                    formats = trial
                    break
        return formats

    def _size_of(self, formats: Formats) -> Callable[[str], int]:
        sizes = {n.name: size_of(n) for n in self._model(formats).nodes}
        return sizes.__getitem__

    def _holds(self, formats: Formats) -> bool:
        """Over a sample first, which is enough to see most failures."""
        model = self._model(formats)
        self.progress("trying " + ", ".join(f"{n} {p}" for n, p in formats.items()))
        for steps in sorted({min(SAMPLE, len(self.x)), len(self.x)}):
            y = self.truth.compared(Session(model, capacity=1).run("auto", self.x[:steps]))
            rows = slice(len(y))
            if self.bounds.failures(self.truth.errors_at("auto", y.astype("f8"), rows)):
                return False
        return True

    def _model(self, formats: Formats) -> Model:
        return quantize(self.exact, "float32", {**formats, **self.fixed})


def _next(now: Precision, errors: Mapping[Precision, float]) -> Precision | None:
    """The smallest format after this one that does less harm."""
    after = list(errors)[list(errors).index(now) + 1 :]
    return next((p for p in after if errors[p] < errors[now]), None)


def _reason(name: str, chosen: Precision, errors: Mapping[Precision, float]) -> str:
    text = f"{name}: {chosen}, error {errors[chosen]:.2g} alone"
    smaller = list(errors)[: list(errors).index(chosen)]
    return text + (f"; in {smaller[-1]} it would be {errors[smaller[-1]]:.2g}" if smaller else "")
