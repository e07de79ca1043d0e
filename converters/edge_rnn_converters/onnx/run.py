"""Runs an ONNX model with ONNX Runtime, to check a conversion against its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import F32
from edge_rnn_converters.onnx.file import GraphInput
from edge_rnn_converters.onnx.values import Role
from edge_rnn_converters.source import CannotRunError, SourceRun, prefixes

Layout: TypeAlias = tuple[Role | None, ...]
"""What each dimension of an array is; None for one of length one."""


@dataclass(frozen=True, slots=True)
class StatePair:
    """A graph input that is a state, the output that is its next value, their shape."""

    input: str
    output: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class OnnxRunner:
    """Runs the graph of `blob`: its input's and output's dimensions, and its states.

    `steps`: how many the graph takes at once, None for any number; `last_only`: it answers for a
    sequence's last step only; `carries`: run by run, its state can be carried on.
    """

    blob: bytes
    input: GraphInput
    input_layout: Layout
    output: str
    output_layout: Layout
    states: tuple[StatePair, ...]
    steps: int | None
    last_only: bool
    carries: bool

    def __call__(self, x: F32) -> SourceRun:
        """x (T, I) -> the source's outputs; states returned are fed back, as a stream's are.

        Raises CannotRunError when ONNX Runtime is not installed or can't run the graph.
        """
        if self.steps is not None and self.steps > len(x):
            raise CannotRunError(f"its window of {self.steps} steps is longer than the check's")
        version, session = self._open()
        try:
            runs = list(self._runs(session, x))
        except Exception as e:
            # ONNX Runtime has no base class of its own for what a graph may do wrong.
            raise CannotRunError(f"onnxruntime {version} can't run it: {e}") from e
        steps = [np.arange(stop - len(y), stop) for stop, y in runs]
        rows = np.concatenate([y for _, y in runs])
        return SourceRun(f"onnxruntime {version}", np.concatenate(steps), rows)

    def _runs(self, session: Any, x: F32) -> Iterator[tuple[int, F32]]:
        """(the step after the last, y) of each run."""
        names = [self.output, *(pair.output for pair in self.states)]
        zeros = {p.input: np.zeros(p.shape, np.float32) for p in self.states}
        states = zeros
        for start, stop in self._spans(len(x)):
            feed = {self.input.name: self._arranged(x[start:stop]), **states}
            y, *after = session.run(names, feed)
            if self.carries:
                states = {p.input: a for p, a in zip(self.states, after, strict=True)}
            yield stop, self._steps_of(np.asarray(y))

    def _spans(self, T: int) -> list[tuple[int, int]]:
        """Which steps each run takes: one after the other where the state carries on, from the
        start where it does not."""
        n = self.steps
        if self.carries:
            ends = list(range(n, T + 1, n)) if n else prefixes(T)
            return list(zip([0, *ends[:-1]], ends, strict=True))
        if n or not self.last_only:
            return [(0, n or T)]
        return [(0, stop) for stop in prefixes(T)]

    def _arranged(self, x: F32) -> NDArray[Any]:
        """x (t, I) with its axes where the graph has them."""
        size = {Role.TIME: len(x), Role.FEATURE: x.shape[1]}
        order = [role for role in self.input_layout if role in size]
        values = x.T if order == [Role.FEATURE, Role.TIME] else x
        values = values.reshape([size.get(role, 1) for role in self.input_layout])  # type: ignore[arg-type]
        full = [
            (n or 1) if role is Role.BATCH else values.shape[i]
            for i, (role, n) in enumerate(zip(self.input_layout, self.input.shape, strict=True))
        ]
        return np.ascontiguousarray(np.broadcast_to(values, full), self.input.dtype)

    def _steps_of(self, y: NDArray[Any]) -> F32:
        """The first of the batch, (t, O)."""
        kept = [role for role in self.output_layout if role in (Role.TIME, Role.FEATURE)]
        wanted = (Role.TIME, Role.FEATURE)
        values = y[tuple(slice(None) if r in wanted else 0 for r in self.output_layout)]
        if kept == [Role.FEATURE, Role.TIME]:
            values = values.T
        if len(kept) < 2:
            values = values.reshape((-1, 1) if kept == [Role.TIME] else (1, -1))
        return np.asarray(values, np.float32)

    def _open(self) -> tuple[str, Any]:
        try:
            import onnxruntime
        except ImportError as e:
            raise CannotRunError("onnxruntime is not installed: pip install onnxruntime") from e
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            return onnxruntime.__version__, onnxruntime.InferenceSession(
                self.blob, options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:
            raise CannotRunError(f"onnxruntime {onnxruntime.__version__} can't load it: {e}") from e
