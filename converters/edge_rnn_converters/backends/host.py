"""From a model file to a `Model` that its own engine runs: its tensors' roles found, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import edge_rnn
from edge_rnn import hosted
from edge_rnn.errors import MismatchError, UnsupportedError
from edge_rnn.graph import (
    F32,
    Backend,
    Feature,
    Foreign,
    Input,
    Model,
    Provenance,
    Window,
)
from edge_rnn.hosted import Interpreter
from edge_rnn.session import Session
from edge_rnn.validation import validate
from edge_rnn_converters import compare
from edge_rnn_converters.backends.describe import described
from edge_rnn_converters.guard import has_read
from edge_rnn_converters.modes import Mode
from edge_rnn_converters.source import MAX_BYTES, Progress, refuse

ANSWERS = (64, compare.WINDOWS)
"""What the check compares of each of two streams: answers to messages, or to windows."""


@dataclass(frozen=True, slots=True, eq=False)
class Hosting:
    """A model that its own engine runs; `engine` is that with its version, `steps` how many
    answers were the same, bit for bit, as those of the engine alone."""

    model: Model
    engine: str
    steps: int


def host(
    source: str | Path,
    backend: Backend,
    *,
    states: Mapping[str, str] | None = None,
    inputs: Mapping[str, tuple[int, ...] | float] | None = None,
    features: Sequence[Feature | str] = (),
    classes: Sequence[str] = (),
    rate_hz: float | None = None,
    mode: Mode | None = None,
    progress: Progress = lambda stage: None,
) -> Hosting:
    """The model in an ONNX file (backend "onnxruntime") or a TFLite file ("litert"), unconverted.

    states: by an input's name the output that is its next value, where names and shapes don't
    tell. inputs: by name, the shape of an input that the file leaves open, or the number that an
    input always is. mode: the `Window` of a file that takes several messages at once; None is
    tumbling windows of as many.

    The result is checked: two streams that take turns in one session, against the engine run
    alone. Raises UnsupportedError naming the tensors for what can't be run so, ModelError for a
    damaged file, MissingExtraError when the engine is not installed.
    """
    path, told = Path(source), inputs or {}
    progress(f"reading {path.name}")
    if path.stat().st_size > MAX_BYTES:
        raise UnsupportedError(f"{path.name}: larger than {MAX_BYTES} bytes")
    blob = path.read_bytes()
    length = mode.length if isinstance(mode, Window) else 1
    node, engine = described(blob, backend, states or {}, told, length)
    window = _window(node, mode)
    width = node.x.size // node.messages
    model = Model(
        inputs=(Input(node.input, width),),
        nodes=(node,),
        outputs=(node.name,),
        features=tuple(f if isinstance(f, Feature) else Feature(f) for f in features),
        classes=tuple(classes),
        rate_hz=rate_hz,
        provenance=Provenance(backend, path.name, node.sha256, f"edge-rnn {edge_rnn.__version__}"),
        window=window,
    )
    validate(model)
    has_read()
    progress(f"running {engine}")
    steps = _checked(model, node)
    progress("recording a probe")
    return Hosting(compare.probed(model), engine, steps)


def _window(node: Foreign, mode: Mode | None) -> Window | None:
    n = node.messages
    if n == 1 and isinstance(mode, Window):
        why = "it takes one message at once, and another engine's states can't be staggered"
        raise refuse("the model", str(mode), why, "leave --mode out, or convert it")
    if n > 1 and (mode == "continuous" or (isinstance(mode, Window) and mode.length != n)):
        way = f"--mode tumbling --window {n}, or --mode sliding --window {n} --hop K"
        raise refuse("the model", str(mode), f"it takes {n} messages at once", way)
    if isinstance(mode, Window):
        return mode
    return Window(n, n) if n > 1 else None


def _checked(model: Model, node: Foreign) -> int:
    """Two streams by turns in a session, against the engine alone: how many answers were the same.

    Raises MismatchError where one is not, and UnsupportedError where the engine does not answer
    the same twice.
    """
    opened = hosted.interpreter(node.engine, node.blob.tobytes(), node.fed)
    n = model.schedule.first + 1 + (ANSWERS[node.messages > 1] - 1) * model.schedule.period
    xs = [compare.plausible(model, n, seed) for seed in (1, 2)]
    with hosted.theirs(node.engine, "run"):
        alone, other, again = (_alone(opened, model, node, x) for x in (*xs, xs[0]))
    if not np.array_equal(again, alone, equal_nan=True):
        raise refuse(
            "the model", "state", "it does not answer the same twice: it keeps a state inside, "
            "which streams would share, or draws random numbers", "convert it, without --backend",
        )  # fmt: skip
    y = Session(model, capacity=2).step(["a", "b"] * n, np.stack(xs, axis=1).reshape(2 * n, -1))
    there = [step for step in range(n) if model.schedule.due(step)]
    for i, expected in enumerate((alone, other)):
        if not np.array_equal(y[i::2][there], expected, equal_nan=True):
            raise MismatchError(f"{node.engine} answers a session's streams otherwise than one")
    return 2 * len(there)


def _alone(opened: Interpreter, model: Model, node: Foreign, x: F32) -> F32:
    """One stream's answers (n, O), run plainly."""
    feed: dict[str, F32] = {s.before: np.zeros(s.shape, np.float32) for s in node.states}
    feed |= {f.tensor: np.full(f.shape, f.value, np.float32) for f in node.fixed}
    answers = []
    for step in (s for s in range(len(x)) if model.schedule.due(s)):
        feed[node.x.tensor] = x[step + 1 - node.messages : step + 1].reshape(node.x.shape)
        if node.messages > 1:
            opened.reset()
        found = dict(zip(opened.outputs, opened(feed, opened.outputs), strict=True))
        feed |= {s.before: found[s.after] for s in node.states}
        answers.append(found[node.y.tensor].reshape(-1)[-node.width :])
    return np.array(answers, np.float32)
