"""What the model is for: its decisions, and how well it meets labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.certificate import Score, Task
from edge_rnn.errors import InputError
from edge_rnn.graph import F32, LogSoftmax, Model, Softmax
from edge_rnn.reference import F64
from edge_rnn_converters.certificate import metrics
from edge_rnn_converters.certificate.metrics import I64

REFERENCE, QUANTIZED, NAIVE = "float64 reference", "quantized", "naive"


def decision(model: Model) -> str | None:
    """`largest`: the class of the largest output; `half`: is the only one above 0.5? None: a model
    that does not decide."""
    width = model.output_width
    last = {n.name: n for n in model.nodes}.get(model.outputs[0])
    if width > 1 and (model.classes or (len(model.outputs) == 1
                                        and isinstance(last, Softmax | LogSoftmax))):  # fmt: skip
        return "largest"
    return "half" if width == 1 and "sigmoid" in str(getattr(last, "act", "")) else None


def score(
    model: Model, labels: NDArray[Any] | None, steps: I64, truth: F64, quantized: F32
) -> Task | None:
    """The scores over the rows that have a label, None without labels.

    labels (n, k) are those of the stream's first n steps; answers are there at `steps`. Raises
    InputError for labels that don't fit the model.
    """
    if labels is None:
        return None
    there = steps < len(labels)
    wanted = labels[steps[there]]
    answers = {REFERENCE: truth[there], QUANTIZED: quantized[: len(steps)][there]}
    if not len(wanted):
        raise InputError(f"{len(labels)} labels, and the model's first answer is at {steps[0]}")
    kind = decision(model)
    found = _numbers(wanted, answers) if kind is None else _classes(model, kind, wanted, answers)
    return Task(len(wanted), tuple(found))


def _classes(model: Model, kind: str, labels: NDArray[Any], answers: dict[str, Any]) -> list[Score]:
    names = _names(model, kind)
    if labels.shape[1] != 1:
        raise InputError(f"{labels.shape[1]} columns of labels, a classifier has one")
    truth = _indices(model, labels[:, 0], names)
    called = {n: metrics.decisions(np.asarray(y, np.float64), kind) for n, y in answers.items()}
    called[NAIVE] = np.full(len(truth), np.bincount(truth).argmax())
    return [metrics.classification(n, c, truth, names) for n, c in called.items()]


def _names(model: Model, kind: str) -> tuple[str, ...]:
    if kind == "half":
        return ("not " + model.classes[0], model.classes[0]) if model.classes else ("0", "1")
    return model.classes or tuple(str(i) for i in range(model.output_width))


def _indices(model: Model, labels: NDArray[Any], names: tuple[str, ...]) -> I64:
    """Which class a label is: by its name, or by its number from 0."""
    known = {name: i for i, name in enumerate(names)}
    numbers = {str(i): i for i in range(len(names))}
    found = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels.tolist()):
        text = str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
        index = known.get(text, numbers.get(text))
        if index is None:
            hint = "" if model.classes else "; --classes of convert names them"
            raise InputError(
                f"row {row}: label {text[:40]!r}, expected one of {', '.join(names)}{hint}"
            )
        found[row] = index
    return found


def _numbers(labels: NDArray[Any], answers: dict[str, Any]) -> list[Score]:
    width = answers[REFERENCE].shape[1]
    if labels.shape[1] != width:
        raise InputError(f"{labels.shape[1]} columns of labels, the model answers with {width}")
    try:
        truth = labels.astype(np.float64)
    except ValueError as e:
        raise InputError(f"labels: {e}") from e
    if not np.isfinite(truth).all():
        raise InputError(f"row {np.argwhere(~np.isfinite(truth))[0][0]}: a label is not finite")
    found = [metrics.regression(n, np.asarray(y, np.float64), truth) for n, y in answers.items()]
    if len(truth) > 1:
        found.append(metrics.regression(NAIVE, truth[:-1], truth[1:]))
    return found
