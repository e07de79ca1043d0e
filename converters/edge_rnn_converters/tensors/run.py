"""Runs a graph of tensors with its own framework, to check a conversion against its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import MismatchError
from edge_rnn.graph import F32, Schedule
from edge_rnn_converters.source import CannotRunError, SourceRun, prefixes
from edge_rnn_converters.tensors.graph import TensorInput
from edge_rnn_converters.tensors.values import Role

Layout: TypeAlias = tuple[Role | None, ...]
"""What each dimension of an array is; None for one of length one."""

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """A framework, with its version, that holds the graph: `call` takes the graph's inputs by
    name and gives its outputs by name. It keeps nothing from call to call."""

    framework: str
    call: Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True, eq=False)
class Port:
    """An input of the graph that is `width` columns of x, its dimensions read as `layout`."""

    input: TensorInput
    layout: Layout
    width: int


@dataclass(frozen=True, slots=True)
class StatePair:
    """A graph input that is a state, the output that is its next value, their shape."""

    input: str
    output: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GraphRunner:
    """Runs the graph that `open` loads, which may raise CannotRunError.

    `inputs` are side by side in x, `outputs`, with their dimensions, side by side in y; `fixed`
    inputs are always the same, `lengths` the number of steps. `steps`: how many the graph
    takes at once, None for any number; `last_only`: it answers for a sequence's last step only;
    `carries`: run by run, its state can be carried on; `schedule`: when a stream's answers are
    there, None for a model that looks ahead.
    """

    open: Callable[[], Engine]
    inputs: tuple[Port, ...]
    outputs: tuple[tuple[str, Layout], ...]
    states: tuple[StatePair, ...]
    fixed: Arrays
    lengths: tuple[TensorInput, ...]
    steps: int | None
    last_only: bool
    carries: bool
    schedule: Schedule | None

    def __call__(self, x: F32) -> SourceRun:
        """x (T, I) -> the source's outputs; states returned are fed back, as a stream's are.

        Raises CannotRunError when the framework is not installed or can't run the graph.
        """
        if self.steps is not None and self.steps > len(x):
            raise CannotRunError(f"its window of {self.steps} steps is longer than the check's")
        engine = self.open()
        try:
            runs = list(self._runs(engine, x))
        except Exception as e:
            # A framework may raise whatever it likes for what a graph does wrong.
            raise CannotRunError(f"{engine.framework} can't run it: {e}") from e
        steps = [self._steps_of(stop, len(y)) for stop, y in runs]
        rows = np.concatenate([y for _, y in runs])
        return SourceRun(engine.framework, np.concatenate(steps), rows)

    def _runs(self, engine: Engine, x: F32) -> Iterator[tuple[int, F32]]:
        """(the step after the last, y) of each run."""
        states = {p.input: np.zeros(p.shape, np.float32) for p in self.states}
        for start, stop in self._spans(len(x)):
            given = engine.call({**self._fed(x[start:stop]), **states, **self.fixed})
            if self.carries:
                states = {p.input: np.asarray(given[p.output]) for p in self.states}
            parts = [_rows(np.asarray(given[name]), layout) for name, layout in self.outputs]
            yield stop, np.concatenate(parts, axis=1)

    def _steps_of(self, stop: int, rows: int) -> NDArray[np.int64]:
        """The steps that so many rows, the latest there are after a run, are answers of."""
        at = self.schedule
        if at is None:
            return np.arange(stop - rows, stop)
        return at.first + at.period * np.arange(at.count(stop) - rows, at.count(stop))

    def _spans(self, T: int) -> list[tuple[int, int]]:
        """Which steps each run takes: one after the other where the state carries on, from the
        start where it does not."""
        n = self.steps
        if self.carries:
            ends = list(range(n, T + 1, n)) if n else prefixes(T)
            return list(zip([0, *ends[:-1]], ends, strict=True))
        if n or not self.last_only:
            return [(0, n or T)]
        return [(0, stop) for stop in prefixes(T) if self.schedule is None or
                self.schedule.count(stop)]  # fmt: skip

    def _fed(self, x: F32) -> dict[str, NDArray[Any]]:
        """x (t, I) cut into the inputs."""
        fed = {i.name: np.full([n or 1 for n in i.shape], len(x), i.dtype) for i in self.lengths}
        start = 0
        for port in self.inputs:
            fed[port.input.name] = _arranged(port, x[:, start : start + port.width])
            start += port.width
        return fed


MOST = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedRunner:
    """Runs a source without its own quantization, and says what that changes.

    Eight bits leave each activation a noise of 1 / (255 sqrt(12)) of its range, 0.1 %: where the
    two differ by more than MOST of the result, it is not that noise. They are compared on what
    the integers of the inputs and of the outputs hold: the least and the greatest number of each.
    """

    plain: GraphRunner
    original: GraphRunner
    inputs: tuple[float, float] = (-np.inf, np.inf)
    outputs: tuple[float, float] = (-np.inf, np.inf)

    def __call__(self, x: F32) -> SourceRun:
        """The run of the graph without it.

        Raises CannotRunError, and MismatchError where the two differ too much.
        """
        held = np.clip(x, *self.inputs)
        run, given = self.plain(x), self.original(held)
        y = np.clip(run.y if np.array_equal(held, x) else self.plain(held).y, *self.outputs)
        error = float(np.sqrt(np.mean((y - given.y) ** 2)))
        usual = float(np.sqrt(np.mean(y**2)))
        if not error <= MOST * usual:
            raise MismatchError(
                f"{given.framework} with the source's own quantization differs from its weights "
                f"in float by {error:.2g} (rms, of {usual:.2g}): convert the float32 model"
            )
        note = (
            f"the source's own quantization moves its result by {error:.2g} (rms, of {usual:.2g})"
        )
        return replace(run, notes=(note,))


def _arranged(port: Port, x: F32) -> NDArray[Any]:
    """x (t, width) with its axes where the graph has them."""
    shape = [n or 1 for n in port.input.shape]
    inner = [n for n, role in zip(shape, port.layout, strict=True) if role is Role.FEATURE]
    if port.layout.count(Role.FEATURE) == 1:
        inner = [x.shape[1]]
    values = x.reshape(len(x), *inner)
    if Role.TIME in port.layout:
        before = port.layout[: port.layout.index(Role.TIME)].count(Role.FEATURE)
        values = np.moveaxis(values, 0, before)
    sizes = iter(values.shape if Role.TIME in port.layout else values.shape[1:])
    kept = [next(sizes) if r in (Role.TIME, Role.FEATURE) else 1 for r in port.layout]
    full = [n if r is Role.BATCH else k for n, k, r in zip(shape, kept, port.layout, strict=True)]
    return np.ascontiguousarray(np.broadcast_to(values.reshape(kept), full), port.input.dtype)


def _rows(y: NDArray[Any], layout: Layout) -> F32:
    """The first of the batch, (t, O)."""
    values = y[tuple(slice(None) if r in (Role.TIME, Role.FEATURE) else 0 for r in layout)]
    if Role.TIME not in layout:
        return np.asarray(values.reshape(1, -1), np.float32)
    before = layout[: layout.index(Role.TIME)].count(Role.FEATURE)
    values = np.moveaxis(values, before, 0)
    return np.asarray(values.reshape(len(values), -1), np.float32)
