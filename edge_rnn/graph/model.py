"""The model: nodes over named values, how wide these are and at which steps they are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_rnn.certificate import Certificate
from edge_rnn.errors import ModelError
from edge_rnn.graph.foreign import Foreign
from edge_rnn.graph.frames import FrameConv
from edge_rnn.graph.layers import Embedding
from edge_rnn.graph.node import F32, Matrix, Node, Schedule, dimensions, reads, tensors
from edge_rnn.graph.norms import Softmax
from edge_rnn.graph.windows import AHEAD, Window

MAX_STEP = 1 << 40
"""The latest first step and the longest period of a value."""


@dataclass(frozen=True, slots=True)
class Input:
    """A model input: `width` features of a message."""

    name: str
    width: int


@dataclass(frozen=True, slots=True)
class Feature:
    """The name and unit of one column of a model's input or output."""

    name: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model came from: framework, source file name, its SHA-256, who converted it; `exact`
    is the `digest` of the model before any number format, None where that is not known."""

    framework: str
    source: str
    sha256: str
    converter: str
    exact: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A recorded run: `input` (T, I) from a fresh state gives `output` (T, O), bit for bit.

    `digest` is the SHA-256, in hex, of the output's little-endian float32 bytes.
    """

    input: F32
    output: F32
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A network: x is the inputs side by side (I columns), y the outputs (O columns).

    `window`: it is used window by window; None: a stream carries its state on. `mask`: a message
    all of whose features equal it is as if it had not come, but that a window counts it.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    features: tuple[Feature, ...] = ()
    targets: tuple[Feature, ...] = ()
    classes: tuple[str, ...] = ()
    rate_hz: float | None = None
    provenance: Provenance | None = None
    probe: Probe | None = None
    certificate: Certificate | None = None
    window: Window | None = None
    mask: float | None = None

    @property
    def input_width(self) -> int:
        """I, the columns of x."""
        return sum(i.width for i in self.inputs)

    @property
    def output_width(self) -> int:
        """O, the columns of y."""
        widths = value_widths(self)
        return sum(widths[name] for name in self.outputs)

    @property
    def schedule(self) -> Schedule:
        """The steps at which a stream has an output, (0, 1) being every step.

        A step is a message, of a continuous stream only one that is not masked.
        """
        if self.window is None:
            return output_schedule(self)
        if self.looks_ahead:
            return Schedule(self.window.length - 1, self.window.hop)
        return self.window.answers(output_schedule(self))

    @property
    def looks_ahead(self) -> bool:
        """True when it can only be evaluated on a whole window."""
        return any(map(looks_ahead, self.nodes))

    @property
    def foreign(self) -> Foreign | None:
        """The node that is the whole model where another engine runs it."""
        first = self.nodes[0]
        return first if isinstance(first, Foreign) else None

    @property
    def output_is_probability(self) -> bool:
        """True when y is one softmax over the classes."""
        last = {n.name: n for n in self.nodes}.get(self.outputs[0])
        return len(self.outputs) == 1 and isinstance(last, Softmax)


def looks_ahead(node: Node) -> bool:
    """Does the node need several messages at once?"""
    return isinstance(node, AHEAD) or (isinstance(node, Foreign) and node.messages > 1)


def value_widths(model: Model) -> dict[str, int]:
    """The width of every value: inputs and nodes by name. Raises ModelError as `validate`."""
    widths = {i.name: i.width for i in model.inputs}
    for node in model.nodes:
        for name in reads(node):
            if name not in widths:
                raise ModelError(_unknown_input(model, node, name))
        widths[node.name] = value_dimensions(node, widths)[node.OUTPUT]
    return widths


def value_dimensions(node: Node, widths: Mapping[str, int]) -> dict[str, int]:
    """`dimensions` of a node, from the widths of all values."""
    return dimensions(node, *(widths[name] for name in reads(node)))


def _unknown_input(model: Model, node: Node, name: str) -> str:
    text = f"node {node.name!r} reads {name!r}, "
    if any(n.name == name for n in model.nodes):
        return text + "which comes after it: nodes go in order, and a cycle has none"
    return text + f"which nothing makes; inputs: {', '.join(i.name for i in model.inputs)}"


def schedules(model: Model) -> dict[str, Schedule]:
    """When each value is there, of a stream or of each window: inputs and nodes by name.

    Raises ModelError, naming both, where a node reads values that are there at different steps,
    where a value comes too late to count, and where a node looks ahead.
    """
    found = {i.name: Schedule() for i in model.inputs}
    for node in model.nodes:
        if looks_ahead(node):
            raise ModelError(f"node {node.name!r}: {node.OP} looks ahead: the model needs a window")
        at = node.schedule(_met(f"node {node.name!r} reads", reads(node), found, _STEPS))
        if max(at) > MAX_STEP:
            raise ModelError(f"node {node.name!r}: {at} is beyond step {MAX_STEP}")
        found[node.name] = at
    return found


def output_schedule(model: Model) -> Schedule:
    """When the outputs are there, of a stream or of each window. Raises ModelError as above."""
    return _met("the model's outputs are", model.outputs, schedules(model), _STEPS)


def lengths(model: Model, rows: int) -> dict[str, int]:
    """How many rows each value has in a window of `rows` messages: inputs and nodes by name.

    Raises ModelError, naming both, where values that meet have not as many, and where a value has
    none.
    """
    found = {i.name: rows for i in model.inputs}
    for node in model.nodes:
        n = node.rows(_met(f"node {node.name!r} reads", reads(node), found, _ROWS))
        if not n:
            raise ModelError(f"node {node.name!r}: a window of {rows} is too short for a row of it")
        found[node.name] = n
    _met("the model's outputs are", model.outputs, found, _ROWS)
    return found


_T = TypeVar("_T")
_STEPS = "there at {}", "the same steps"
_ROWS = "of {} rows a window", "as many rows"


def _met(what: str, names: Sequence[str], found: Mapping[str, _T], words: tuple[str, str]) -> _T:
    """What is found of these values, the same of all."""
    first, (has, needs) = found[names[0]], words
    for name in names[1:]:
        if found[name] != first:
            raise ModelError(
                f"{what} {names[0]!r}, {has.format(first)}, and {name!r}, "
                f"{has.format(found[name])}: values can only meet where they have {needs}"
            )
    return first


def masked(model: Model, x: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of x (T, I) are masked."""
    if model.mask is None:
        return np.zeros(len(x), np.bool_)
    equal: NDArray[np.bool_] = np.all(np.asarray(x, np.float32) == np.float32(model.mask), axis=1)
    return equal


def answer_steps(model: Model, x: NDArray[Any]) -> NDArray[np.int64]:
    """The steps at which a new stream answers to its messages x (T, I): those of its schedule but
    for what is masked."""
    seen, (first, period) = ~masked(model, x), model.schedule
    if model.window is None:
        return np.flatnonzero(seen)[first::period]
    due = np.arange(first, len(x), period)
    begin = due if model.window.every else np.maximum(due + 1 - model.window.length, 0)
    count = np.concatenate([[0], np.cumsum(seen)])
    return due[count[due + 1] > count[begin]]


def multiply_adds(node: Node, widths: Mapping[str, int]) -> int:
    """Multiply-adds of one step of the node's matrix products, from the widths of all values."""
    if isinstance(node, Embedding):
        return 0
    times = widths[node.name] // len(node.b) if isinstance(node, FrameConv) else 1
    return times * sum(int(t.data.size) for _, _, t in tensors(node) if isinstance(t, Matrix))
