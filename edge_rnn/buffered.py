"""Models that look ahead: a ring of each stream's last messages, evaluated when a window is whole.

Between the nodes that look ahead the network is causal: such a part is compiled as any model is,
and run over all rows of all windows that are due at once, a window being a stream of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_rnn.graph import (
    F32,
    Embedding,
    Foreign,
    Input,
    Model,
    Node,
    Pad,
    Reverse,
    Schedule,
    bounds,
    lengths,
    looks_ahead,
    masked,
    reads,
    schedules,
    state_width,
    value_widths,
)
from edge_rnn.hosted import HostedWindows
from edge_rnn.kernels import record
from edge_rnn.program import compile_part
from edge_rnn.state import StateStore
from edge_rnn.stepper import Compiled, Marks

_ROOM = 1 << 23
"""Numbers that the values of windows evaluated together may have."""

Values = dict[str, F32]
"""Values by name, of several windows: (rows, windows, width)."""


class Buffered:
    """An `Engine` for a valid model that looks ahead.

    max_batch: windows evaluated together, or fewer where they are large.
    """

    def __init__(self, model: Model, max_batch: int) -> None:
        assert model.window is not None  # noqa: S101 - a valid model
        self._model, self._length = model, model.window.length
        self._due = model.schedule
        self.input_width, self.output_width = model.input_width, model.output_width
        self.state_width = state_width(model)
        self.state_words = np.arange(self.state_width)
        self.vocabularies = _vocabularies(model)
        rows, widths = lengths(model, self._length), value_widths(model)
        numbers = sum(n * widths[name] for name, n in rows.items())
        self._most = max(1, min(max_batch, _ROOM // numbers))
        limits = bounds(model)
        self._steps = [self._step(s, limits) for s in split(model, self._length)]

    def _step(self, step: Node | Model, limits: dict[str, float]) -> Node | Part | HostedWindows:
        if isinstance(step, Foreign):
            return HostedWindows(step)
        return Part(step, limits, self._most) if isinstance(step, Model) else step

    def run(
        self, states: F32, slots: NDArray[np.int64], steps: NDArray[np.int64], x: F32, out: F32,
        emitted: Marks,
    ) -> None:  # fmt: skip
        """See `Engine`."""
        first, period = self._due
        due = (steps >= first) & ((steps - first) % period == 0)
        out[:], emitted[:] = np.nan, False
        for rows in self._batches(due):
            places = rows.start + np.flatnonzero(due[rows])
            windows = np.empty((len(places), self._length, self.input_width), np.float32)
            record(states, slots[rows], steps[rows], x[rows], due[rows], windows)
            if len(places):
                out[places], emitted[places] = self._answers(windows)

    def _batches(self, due: NDArray[np.bool_]) -> Iterator[slice]:
        """The rows in parts with no more windows than are evaluated together."""
        ends = [*(np.flatnonzero(due)[self._most - 1 :: self._most] + 1).tolist(), len(due)]
        for start, stop in zip([0, *ends[:-1]], ends, strict=True):
            yield slice(start, stop)

    def _answers(self, windows: F32) -> tuple[F32, NDArray[np.bool_]]:
        """Windows (W, n, I) -> (y (W, O), which of them have an answer)."""
        if self._model.mask is None:
            return self._evaluate(windows), np.ones(len(windows), np.bool_)
        seen = ~masked(self._model, windows.reshape(-1, self.input_width))
        seen = seen.reshape(windows.shape[:2])
        rows = seen.sum(axis=1)
        y = np.full((len(windows), self.output_width), np.nan, np.float32)
        for n in np.unique(rows[rows > 0]):
            these = rows == n
            x = windows[these][seen[these]].reshape(-1, n, self.input_width)
            y[these] = self._evaluate(x)
        return y, rows > 0

    def _evaluate(self, windows: F32) -> F32:
        """Windows (W, n, I) -> their last outputs (W, O)."""
        x = windows.transpose(1, 0, 2)
        values: Values = {}
        column = 0
        for i in self._model.inputs:
            values[i.name] = x[:, :, column : column + i.width]
            column += i.width
        for step in self._steps:
            if isinstance(step, Part | HostedWindows):
                step.run(values)
            else:
                values[step.name] = _moved(step, values[step.input])
        last: F32 = np.concatenate([values[name][-1] for name in self._model.outputs], axis=1)
        return last


def _vocabularies(model: Model) -> NDArray[np.int64]:
    columns, column = {}, 0
    for i in model.inputs:
        columns[i.name] = column
        column += i.width
    sizes = [(columns[n.input], len(n.table.data)) for n in model.nodes if isinstance(n, Embedding)]
    return np.array(sizes, np.int64).reshape(-1, 2)


def _moved(node: Node, x: F32) -> F32:
    """A node that looks ahead, over rows (n, W, width)."""
    if isinstance(node, Reverse):
        return x[::-1]
    assert isinstance(node, Pad)  # noqa: S101 - there is no other
    around = ((node.before, node.after), (0, 0), (0, 0))
    return np.pad(x, around, constant_values=np.float32(node.value))


class Part:
    """A causal part of a model, for up to `most` windows; it adds its outputs to the values."""

    def __init__(self, model: Model, limits: dict[str, float], most: int) -> None:
        self._model = model
        program = compile_part(model, {i.name: limits[i.name] for i in model.inputs})
        self._store = StateStore(
            program.state_width, program.state_words, most, None, None, program.initial
        )
        self._slots = self._store.handles([str(i) for i in range(most)], 0.0)
        self._stepper = Compiled(program, self._store, most)
        at, widths = schedules(model), value_widths(model)
        self._at = {name: (at[name], widths[name]) for name in model.outputs}

    def run(self, values: Values) -> None:
        """Step the windows, as streams, from their first row to their last."""
        x = np.concatenate([values[i.name] for i in self._model.inputs], axis=2)
        n, W = x.shape[:2]
        finite = np.isfinite(x).all(axis=(0, 2))
        x[:, ~finite] = 0  # the runner takes none but finite numbers
        y = np.empty((n * W, sum(width for _, width in self._at.values())), np.float32)
        self._store.clear_first(W)
        self._stepper.step(np.tile(self._slots[:W], n), x.reshape(n * W, -1), y)
        y = y.reshape(n, W, -1)
        y[:, ~finite] = np.nan
        column = 0
        for name, ((first, period), width) in self._at.items():
            values[name] = y[first::period, :, column : column + width]
            column += width


@dataclass(slots=True)
class _Home:
    """Where a value is made: by the part (stage, rows that its inputs have), at steps of those."""

    part: tuple[int, int]
    at: Schedule = Schedule()


@dataclass(slots=True)
class _Stage:
    """What can be run once all earlier stages were: first the moves, then the parts by their
    inputs' rows."""

    moves: list[Node] = field(default_factory=list)
    parts: dict[int, list[Node]] = field(default_factory=dict)


def split(model: Model, length: int) -> list[Node | Model]:
    """The model as a sequence of nodes that look ahead and causal models, each reading what those
    before it make by the names of the values."""
    rows = lengths(model, length)
    homes = {i.name: _Home((0, length)) for i in model.inputs}
    stages: dict[int, _Stage] = {}
    for node in model.nodes:
        read = [homes[name] for name in reads(node)]
        if looks_ahead(node):
            home = _Home((1 + read[0].part[0], rows[node.name]))
            stages.setdefault(home.part[0], _Stage()).moves.append(node)
        else:
            home = _home(read, rows[node.input])
            stage = stages.setdefault(home.part[0], _Stage())
            stage.parts.setdefault(home.part[1], []).append(node)
            home = _Home(home.part, node.schedule(home.at))
        homes[node.name] = home
    order: list[Node | Model] = []
    for _, stage in sorted(stages.items(), key=lambda item: item[0]):
        parts = (_part(model, nodes) for nodes in stage.parts.values())
        order += [*stage.moves, *parts]
    return order


def _home(read: list[_Home], rows: int) -> _Home:
    """Where a causal node can be computed: with the values that it reads if they are there at the
    same steps of the same part, else in a part that sees them, all of `rows` rows, as inputs."""
    if all(home == read[0] for home in read):
        return read[0]
    stage = max(home.part[0] for home in read)
    inside = any(home.part[0] == stage and home.at != Schedule() for home in read)
    return _Home((stage + inside, rows))


def _part(model: Model, nodes: list[Node]) -> Model:
    """These nodes as a model of the values that they read and others need."""
    widths, made = value_widths(model), {n.name for n in nodes}
    outside = [name for n in model.nodes if n.name not in made for name in reads(n)]
    needed = dict.fromkeys(name for name in [*outside, *model.outputs] if name in made)
    inputs = dict.fromkeys(name for n in nodes for name in reads(n) if name not in made)
    return Model(tuple(Input(name, widths[name]) for name in inputs), tuple(nodes), tuple(needed))
