"""Measures a conversion: the source, the float64 reference, the float32 and quantized runtime."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge_rnn.certificate import (
    CERTIFICATE_VERSION,
    Certificate,
    Errors,
    FormatRecord,
    LayerRecord,
)
from edge_rnn.errors import ModelError
from edge_rnn.graph import F32, Model, Node, Schedule, digest, schedules
from edge_rnn.kernels.cpu import LEVEL
from edge_rnn.reference import F64
from edge_rnn.session import Session
from edge_rnn_converters.certificate import task
from edge_rnn_converters.certificate.data import Data
from edge_rnn_converters.certificate.metrics import I64, sqnr_db
from edge_rnn_converters.certificate.truth import Truth, Watched, compute
from edge_rnn_converters.compare import by_window
from edge_rnn_converters.quantize import ALIASES, PRECISIONS, precision_of, quantize, size_of
from edge_rnn_converters.source import CannotRunError, Progress, Runner

CHUNK = 500
"""Steps of a call to the runtime, so that its speed is a median and its outputs need no room."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the quantized runtime must keep: the largest absolute error of an output, the share of
    decisions that are the reference's."""

    max_error: float | None = None
    min_agreement: float | None = None

    @property
    def given(self) -> bool:
        """Is there any?"""
        return self.max_error is not None or self.min_agreement is not None

    def failures(self, e: Errors) -> list[str]:
        """What of it does not hold, in words."""
        found = []
        if e.broken is not None:
            found.append(f"{e.name}: the answer at step {e.broken} is not finite")
        if self.max_error is not None and not e.largest <= self.max_error:
            found.append(f"{e.name}: error {e.largest:.3g} at step {e.at} > {self.max_error:g}")
        if self.min_agreement is not None:
            agreement = e.agreement
            if agreement is None:
                raise ModelError("the model makes no decision, so that none can agree: no softmax, "
                                 "no classes, no single sigmoid")  # fmt: skip
            if agreement < self.min_agreement:
                found.append(f"{e.name}: {agreement:.3%} of decisions agree < "
                             f"{self.min_agreement:.3%}")  # fmt: skip
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Certified:
    """A certificate and what to draw: the reference's and the quantized runtime's answers (n, O)
    at the steps `steps`, and the names of their columns, if they have any."""

    certificate: Certificate
    steps: I64
    truth: F64
    quantized: F32
    columns: tuple[str, ...]


def certify(
    exact: Model,
    model: Model,
    data: Data,
    source: Runner | None = None,
    bounds: Bounds = Bounds(),
    *,
    choice: Sequence[str] = (),
    truth: Truth | None = None,
    progress: Progress = lambda stage: None,
) -> Certified:
    """Measure `model`, the quantized form of `exact`, over data.x (T, I), one stream.

    source runs the framework that `exact` came from; choice: why its layers have their formats;
    truth: what `compute` gave for the same, if that was done.

    Raises ModelError where there is nothing to compare or a bound does not apply, MismatchError
    where a first answer is not finite, InputError for labels that don't fit the model.
    """
    truth = truth or compute(exact, data.x, progress)
    x = data.x[: truth.length]
    progress("running the source framework")
    runs, ran = _source(source, exact, x, truth)
    formats = list(_formats(exact, model, x, truth, progress))
    y = next(y for _, y, ours in formats if ours)
    whole = next(y for record, y, _ in formats if record.name == "float32")
    runs += [truth.errors("float32", whole), truth.errors("quantized", y)]
    layers = _layers(model, x, truth, progress)
    return Certified(
        Certificate(
            version=CERTIFICATE_VERSION,
            model=digest(model),
            data=data.what,
            steps=truth.length,
            machine=f"{platform.machine()}, {LEVEL.name}",
            runs=tuple(runs),
            layers=layers,
            formats=tuple(record for record, _, _ in formats),
            used=[ours for _, _, ours in formats].index(True),
            task=task.score(exact, data.labels, truth.steps, truth.answers, y),
            max_error=bounds.max_error,
            min_agreement=bounds.min_agreement,
            failures=tuple(bounds.failures(runs[-1])),
            notes=(*truth.notes, *ran),
            choice=tuple(choice),
        ),
        truth.steps,
        truth.answers,
        y,
        exact.classes or tuple(t.name for t in exact.targets),
    )


def _source(
    source: Runner | None, exact: Model, x: F32, truth: Truth
) -> tuple[list[Errors], list[str]]:
    """The source framework's errors at the steps that it answers for, and a note if there are
    none."""
    if source is None:
        return [], ["the source framework was not run"]
    try:
        window = exact.window
        result = source(x) if window is None else by_window(source, exact, window, x)
    except CannotRunError as e:
        return [], [f"the source framework was not run: {e}"]
    _, where, theirs = np.intersect1d(truth.steps, result.steps, return_indices=True)
    if not len(where):
        return [], [f"{result.framework} answers at none of the steps that the model does"]
    y = np.asarray(result.y, np.float64)[theirs]
    return [truth.errors_at(result.framework, y, where)], []


def _layers(model: Model, x: F32, truth: Truth, progress: Progress) -> tuple[LayerRecord, ...]:
    power = {n.name: [0.0, 0.0] for n in model.nodes}
    for names in _together(model) if truth.values else []:
        progress(f"every layer of the quantized model: {', '.join(names)[:40]}")
        seen = replace(model, outputs=names, classes=(), targets=(), probe=None, certificate=None)
        at = 0
        for y in _answers(Session(seen, capacity=1), x):
            columns = 0
            for name in names:
                exact = truth.values[name][at : at + len(y)]
                off = y[:, columns : columns + exact.shape[1]] - exact
                columns += exact.shape[1]
                power[name][0] += float((exact**2).sum())
                power[name][1] += float((off**2).sum())
            at += len(y)
    return tuple(_layer(n, power[n.name], truth.watched.get(n.name)) for n in model.nodes)


def _layer(node: Node, power: list[float], watched: Watched | None) -> LayerRecord:
    return LayerRecord(
        name=node.name,
        op=node.OP,
        format=precision_of(node) or "",
        bytes=size_of(node),
        sqnr_db=sqnr_db(*power),
        gates=watched.gates() if watched else (),
        largest_c=watched.largest_c if watched else None,
    )


def _together(model: Model) -> list[tuple[str, ...]]:
    """The names of the nodes, those together whose values are there at the same steps."""
    groups: dict[Schedule, list[str]] = {}
    for name, at in schedules(model).items():
        if any(n.name == name for n in model.nodes):
            groups.setdefault(at, []).append(name)
    return [tuple(names) for names in groups.values()]


def _answers(session: Session, x: F32) -> Iterator[F32]:
    """What the runtime answers to x, some hundred steps at a time."""
    for start in range(0, len(x), CHUNK):
        yield session.run("certificate", x[start : start + CHUNK])


def _formats(
    exact: Model, model: Model, x: F32, truth: Truth, progress: Progress
) -> Iterator[tuple[FormatRecord, F32, bool]]:
    """(figures, answers, is it this model?) of each format that every layer can have, and of the
    model as it is where its layers differ."""
    candidates: dict[str, Model] = {p: quantize(exact, p) for p in PRECISIONS if p not in ALIASES}
    digests = {name: digest(m) for name, m in candidates.items()}
    if digest(model) not in digests.values():
        candidates["this model"], digests["this model"] = model, digest(model)
    for name, candidate in candidates.items():
        progress(f"{len(x)} steps in {name}")
        y, seconds = _timed(candidate, x)
        y = truth.compared(y)
        e = truth.errors(name, y)
        size, us = sum(map(size_of, candidate.nodes)), float(f"{1e6 * seconds:.3g}")
        record = FormatRecord(name, size, us, e.largest, e.sqnr_db)
        yield record, y, digests[name] == digest(model)


def _timed(model: Model, x: F32) -> tuple[F32, float]:
    """The runtime's answers, and the seconds of a step where nothing else held it up."""
    session, rows, seconds = Session(model, capacity=1), [], []
    for start in range(0, len(x), CHUNK):
        began = time.perf_counter()
        rows.append(session.run("certificate", x[start : start + CHUNK]))
        seconds.append((time.perf_counter() - began) / len(x[start : start + CHUNK]))
    return np.concatenate(rows), min(seconds)
