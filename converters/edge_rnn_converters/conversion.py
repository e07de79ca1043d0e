"""From a trained model's file to a checked `Model`: read, check, quantize, describe, probe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

import edge_rnn
from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32, Feature, Model, Provenance, Window, answer_steps, digest
from edge_rnn.validation import validate
from edge_rnn_converters import compare, mixed, modes
from edge_rnn_converters.certificate import Certified, Request, certify, compute
from edge_rnn_converters.certificate.auto import choose
from edge_rnn_converters.certificate.biases import corrected
from edge_rnn_converters.modes import Mode, in_mode
from edge_rnn_converters.quantize import DEFAULT, Precision, size_of
from edge_rnn_converters.quantize import quantize as quantized
from edge_rnn_converters.readers import opened
from edge_rnn_converters.source import CannotRunError, Options, Progress, Source

Check: TypeAlias = Literal["auto", "require", "skip"]
Auto: TypeAlias = Literal["auto"]

_GROWS = (
    f"the model's outputs exceed {compare.LARGEST:g} after step {{}} of the check's inputs, or "
    "rounding alone moves them further than can be judged; compared up to there"
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked, on how many steps, and the largest absolute errors found.

    `source_run` is the source framework that was run, with its version, None if none was; then
    `source_error` is None too. `source_steps` counts the steps that it answered for, `steps` the
    answers of the reference; `mode` is how the model is used.
    Errors are against the float64 reference of the unquantized model: of the source framework, of
    the float32 runtime, of the runtime with the weights as converted (the last, where there is a
    certificate, on its stream). `choice`: why layers have their formats, where that was chosen.
    """

    framework: str
    source_run: str | None
    source_error: float | None
    source_steps: int
    steps: int
    mode: str
    runtime_error: float
    quantize: Precision | Auto
    quantized_error: float
    float32_bytes: int
    bytes: int
    notes: tuple[str, ...]
    choice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """A converted model and what is known of it; `certified` if a certificate was asked for."""

    model: Model
    report: Report
    certified: Certified | None = None


def convert(
    source: str | os.PathLike[str] | Any,
    quantize: Precision = DEFAULT,
    *,
    layers: Mapping[str, Precision] | None = None,
    features: Sequence[Feature | str] = (),
    classes: Sequence[str] = (),
    targets: Sequence[Feature | str] = (),
    rate_hz: float | None = None,
    inputs: Mapping[str, tuple[int, ...] | float] | None = None,
    check: Check = "auto",
    mode: Mode | None = None,
    example_inputs: tuple[Any, ...] = (),
    description: str | os.PathLike[str] | None = None,
    network: str = "",
    signature: str = "",
) -> Model:
    """The model in a file of a known format (see `docs/converting.md`), or a live
    `torch.nn.Module`, quantized.

    quantize: the precision of weights and activations, "int8" with more bits where `mixed.choose`
    sees the need; layers: that of the nodes of these names.
    features, classes, targets: names of the input's and output's columns; rate_hz: how often a
    message comes. inputs: by name, the shape of a source's input that its file leaves open, or the
    number that an input always is, a sampling rate. check: "auto" runs the source framework if it
    is installed, "require" demands it, "skip" does not run it.
    example_inputs: what a live module is called with, tensors of the right shape.
    description: a TOML file, or network: a line, that says what network a file's weights are of,
    where the file holds weights alone. signature: which of a SavedModel's is meant.
    mode: "continuous", a stream's state is carried on; or a `Window`: each window of so many
    messages from the initial state, a new one every hop (see `docs/windows.md`). None is
    continuous, but for a model that looks ahead its source's windows.

    Where the source answers once, at a sequence's end, a continuous stream is answered at every
    step, with what the source would say if the sequence ended there.

    Raises UnsupportedError naming layer and attribute for what can't be run faithfully,
    MismatchError when the model does not compute what its source does, ModelError for a damaged
    file or wrong descriptions, MissingExtraError when the format's reader is not installed.
    """
    return convert_with_report(
        source,
        quantize,
        layers=layers,
        features=features,
        classes=classes,
        targets=targets,
        rate_hz=rate_hz,
        inputs=inputs,
        check=check,
        mode=mode,
        example_inputs=example_inputs,
        description=description,
        network=network,
        signature=signature,
    ).model


def convert_with_report(
    source: str | os.PathLike[str] | Any,
    quantize: Precision | Auto = DEFAULT,
    *,
    layers: Mapping[str, Precision] | None = None,
    features: Sequence[Feature | str] = (),
    classes: Sequence[str] = (),
    targets: Sequence[Feature | str] = (),
    rate_hz: float | None = None,
    inputs: Mapping[str, tuple[int, ...] | float] | None = None,
    check: Check = "auto",
    mode: Mode | None = None,
    certificate: Request | None = None,
    example_inputs: tuple[Any, ...] = (),
    description: str | os.PathLike[str] | None = None,
    network: str = "",
    signature: str = "",
    progress: Progress = lambda stage: None,
) -> Conversion:
    """As `convert`, with the report of what was checked; `progress` is told each stage.

    certificate: measure the model on a long stream and put the result into its file; "auto"
        precision takes its bounds, so it needs one. Biases are calibrated on the stream too.
    """
    if quantize == "auto" and certificate is None:
        raise ModelError("quantize=auto needs a certificate with a bound to keep")
    told = None if description is None else Path(description)
    window = mode.length if isinstance(mode, Window) else None
    options = Options(told, network, window, inputs or {}, example_inputs, signature)
    name, sha256, read = opened(source, options, progress)
    used, notes = in_mode(read, mode)
    maker = f"edge-rnn {edge_rnn.__version__}"
    exact = replace(
        used,
        features=_named(features),
        targets=_named(targets),
        classes=tuple(classes),
        rate_hz=rate_hz,
        provenance=Provenance(read.framework, name, sha256, maker, digest(used)),
    )
    validate(exact)
    task = _Task(replace(read, notes=notes), exact, quantize, layers, check, progress)
    model, why = task.quantized()
    report = replace(task.checked(model), choice=why)
    if certificate is None:
        return Conversion(task.probed(model), report)
    return task.certified(model, report, certificate)


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """A source that is read, its exact model as described, and what is to become of it."""

    read: Source
    exact: Model
    quantize: Precision | Auto
    layers: Mapping[str, Precision] | None
    check: Check
    progress: Progress

    def quantized(self) -> tuple[Model, tuple[str, ...]]:
        """The model, and why its layers have their formats if that was chosen; "auto" chooses
        later."""
        if self.quantize == "int8":
            return mixed.choose(self.exact, self.layers, self.progress)
        precision = "float32" if self.quantize == "auto" else self.quantize
        return quantized(self.exact, precision, self.layers), ()

    def certified(self, model: Model, report: Report, asked: Request) -> Conversion:
        """The model with its biases calibrated on a long stream, and its certificate of that;
        "auto" chooses its formats here."""
        data, choice = asked.stream(self.exact), report.choice
        truth = compute(self.exact, data.x, self.progress)
        if self.quantize == "auto":
            chosen = choose(self.exact, data.x, truth, asked.bounds, self.layers, self.progress)
            model, choice = chosen.model, chosen.reasons
        self.progress("calibrating biases")
        model, calibrated = corrected(self.exact, model, data, truth, asked.bounds)
        model = self.probed(model)
        runner = None if self.check == "skip" else self.read.run
        found = certify(self.exact, model, data, runner, asked.bounds, truth=truth,
                        choice=(*choice, *calibrated), progress=self.progress)  # fmt: skip
        measured = found.certificate
        report = replace(report, choice=measured.choice, bytes=sum(map(size_of, model.nodes)),
                         quantized_error=measured.quantized.largest)  # fmt: skip
        return Conversion(replace(model, certificate=measured), report, found)

    def probed(self, model: Model) -> Model:
        """The model with a run of it that any machine can repeat."""
        self.progress("recording a probe")
        return compare.probed(model)

    def checked(self, model: Model) -> Report:
        """What source, reference and runtime say of the same inputs. Raises MismatchError."""
        x = compare.stress(self.exact)
        self.progress(f"computing {len(x)} steps in float64")
        truth = compare.truth(self.exact, x)
        n = len(truth.steps)
        self.progress("running the source framework")
        ran, error, answered, notes = self._run_source(x, truth)
        self.progress("running the runtime")
        y = compare.run(self.exact, x)
        runtime = compare.agree("the float32 runtime", y, truth, answer_steps(self.exact, x))
        return Report(
            framework=self.read.framework,
            source_run=ran,
            source_error=error,
            source_steps=answered,
            steps=n,
            runtime_error=runtime,
            quantize=self.quantize,
            mode=modes.described(model),
            quantized_error=float(np.abs(compare.run(model, x)[:n] - truth.y).max()),
            float32_bytes=sum(map(size_of, self.exact.nodes)),
            bytes=sum(map(size_of, model.nodes)),
            notes=(*self.read.notes, *_grows(truth), *notes),
        )

    def _run_source(
        self, x: F32, truth: compare.Truth
    ) -> tuple[str | None, float | None, int, tuple[str, ...]]:
        """(what ran, its error, the steps it answered for, notes: why it did not run, what it
        told).

        A network that looks ahead is compared on windows, any other as a stream that goes on: how
        that is cut into windows is the runtime's matter.
        """
        if self.check not in ("auto", "require", "skip"):
            raise ModelError(f"check is {self.check!r}, expected auto, require or skip")
        if self.check == "skip":
            return None, None, 0, ("the source framework was not run: check is off",)
        exact, window, run = self.exact, self.exact.window, self.read.run
        if window is not None and not exact.looks_ahead:
            exact, window = replace(exact, window=None), None
            x = compare.stress(exact)
            truth = compare.truth(exact, x)
        try:
            result = compare.by_window(run, exact, window, x) if window else run(x)
        except CannotRunError as e:
            if self.check == "require":
                raise UnsupportedError(f"check=require: the source can't be run: {e}") from e
            return None, None, 0, (f"the source framework was not run: {e}",)
        error = compare.agree(result.framework, result.y, truth, result.steps)
        answered = int(np.isin(result.steps, truth.steps).sum())
        return result.framework, error, answered, result.notes


def _grows(truth: compare.Truth) -> list[str]:
    return [] if len(truth.steps) == truth.whole else [_GROWS.format(len(truth.steps))]


def _named(columns: Sequence[Feature | str]) -> tuple[Feature, ...]:
    return tuple(c if isinstance(c, Feature) else Feature(c) for c in columns)
