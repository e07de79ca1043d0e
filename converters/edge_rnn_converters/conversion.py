"""From a trained model's file to a checked `Model`: read, check, quantize, describe, probe."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

import edge_rnn
from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn.graph import F32, Feature, Matrix, Model, Provenance, Window, answer_steps, tensors
from edge_rnn.validation import validate
from edge_rnn_converters import compare, modes
from edge_rnn_converters.detect import Format, detect
from edge_rnn_converters.modes import Mode, in_mode
from edge_rnn_converters.quantize import Precision
from edge_rnn_converters.quantize import quantize as quantized
from edge_rnn_converters.source import CannotRunError, Options, Source, reading

Check: TypeAlias = Literal["auto", "require", "skip"]
Progress: TypeAlias = Callable[[str], None]

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
    the float32 runtime, of the runtime with the weights as converted.
    """

    framework: str
    source_run: str | None
    source_error: float | None
    source_steps: int
    steps: int
    mode: str
    runtime_error: float
    quantize: Precision
    quantized_error: float
    float32_bytes: int
    bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """A converted model and what is known of it."""

    model: Model
    report: Report


def convert(
    source: str | os.PathLike[str],
    quantize: Precision = "w8a16",
    *,
    layers: Mapping[str, Precision] | None = None,
    features: Sequence[Feature | str] = (),
    classes: Sequence[str] = (),
    targets: Sequence[Feature | str] = (),
    rate_hz: float | None = None,
    check: Check = "auto",
    mode: Mode | None = None,
) -> Model:
    """The model in a .keras, .h5 or .onnx file, quantized.

    quantize: the precision of weights and activations; layers: that of the nodes of these names.
    features, classes, targets: names of the input's and output's columns; rate_hz: how often a
    message comes. check: "auto" runs the source framework if it is installed, "require" demands
    it, "skip" does not run it.
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
        check=check,
        mode=mode,
    ).model


def convert_with_report(
    source: str | os.PathLike[str],
    quantize: Precision = "w8a16",
    *,
    layers: Mapping[str, Precision] | None = None,
    features: Sequence[Feature | str] = (),
    classes: Sequence[str] = (),
    targets: Sequence[Feature | str] = (),
    rate_hz: float | None = None,
    check: Check = "auto",
    mode: Mode | None = None,
    progress: Progress = lambda stage: None,
) -> Conversion:
    """As `convert`, with the report of what was checked; `progress` is told each stage."""
    path = Path(source)
    progress(f"reading {path.name}")
    read = _read(path, Options(window=mode.length if isinstance(mode, Window) else None))
    used, notes = in_mode(read, mode)
    read = replace(read, notes=notes)
    described = replace(
        used,
        features=_named(features),
        targets=_named(targets),
        classes=tuple(classes),
        rate_hz=rate_hz,
        provenance=Provenance(
            read.framework, path.name, _sha256(path), f"edge-rnn {edge_rnn.__version__}"
        ),
    )
    validate(described)
    model = quantized(described, quantize, layers)
    report = _checked(read, described, model, quantize, check, progress)
    progress("recording a probe")
    return Conversion(compare.probed(model), report)


_READERS: dict[Format, str] = {
    "keras": "keras.source",
    "keras-h5": "keras.source",
    "onnx": "onnx.source",
}
"""The module that reads a format, imported when a file of it comes."""


def _read(path: Path, options: Options) -> Source:
    form = detect(path)
    reader = import_module(f"edge_rnn_converters.{_READERS[form]}")
    with reading(path.name):
        source: Source = reader.read(path, form, options)
    return source


def _checked(
    read: Source, exact: Model, model: Model, quantize: Precision, check: Check, progress: Progress
) -> Report:
    x = compare.stress(exact)
    progress(f"computing {len(x)} steps in float64")
    truth = compare.truth(exact, x)
    n = len(truth.steps)
    progress("running the source framework")
    ran, error, answered, notes = _run_source(read, exact, x, truth, check)
    progress("running the runtime")
    y = compare.run(exact, x)
    runtime = compare.agree("the float32 runtime", y, truth, answer_steps(exact, x))
    return Report(
        framework=read.framework,
        source_run=ran,
        source_error=error,
        source_steps=answered,
        steps=n,
        runtime_error=runtime,
        quantize=quantize,
        mode=modes.described(model),
        quantized_error=float(np.abs(compare.run(model, x)[:n] - truth.y).max()),
        float32_bytes=_bytes(exact),
        bytes=_bytes(model),
        notes=(*read.notes, *_grows(truth), *notes),
    )


def _grows(truth: compare.Truth) -> list[str]:
    return [] if len(truth.steps) == truth.whole else [_GROWS.format(len(truth.steps))]


def _run_source(
    read: Source, exact: Model, x: F32, truth: compare.Truth, check: Check
) -> tuple[str | None, float | None, int, tuple[str, ...]]:
    """(what ran, its error, the steps it answered for, a note if it did not run).

    A network that looks ahead is compared on windows, any other as a stream that goes on: how that
    is cut into windows is the runtime's matter.
    """
    if check not in ("auto", "require", "skip"):
        raise ModelError(f"check is {check!r}, expected auto, require or skip")
    if check == "skip":
        return None, None, 0, ("the source framework was not run: check is off",)
    if exact.window is not None and not exact.looks_ahead:
        stream = replace(exact, window=None)
        x = compare.stress(stream)
        truth = compare.truth(stream, x)
    try:
        result = compare.by_window(read.run, exact, x) if exact.looks_ahead else read.run(x)
    except CannotRunError as e:
        if check == "require":
            raise UnsupportedError(f"check=require: the source can't be run: {e}") from e
        return None, None, 0, (f"the source framework was not run: {e}",)
    error = compare.agree(result.framework, result.y, truth, result.steps)
    return result.framework, error, int(np.isin(result.steps, truth.steps).sum()), ()


def _named(columns: Sequence[Feature | str]) -> tuple[Feature, ...]:
    return tuple(c if isinstance(c, Feature) else Feature(c) for c in columns)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _bytes(model: Model) -> int:
    """Bytes of the model's tensors."""
    return sum(
        tensor.nbytes if isinstance(tensor, Matrix) else int(tensor.nbytes)
        for node in model.nodes
        for _, _, tensor in tensors(node)
    )
