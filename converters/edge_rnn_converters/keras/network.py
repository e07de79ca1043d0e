"""The network that a Keras graph becomes: its nodes so far, and what its values mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from edge_rnn.errors import ModelError
from edge_rnn.graph import AHEAD, Conv1d, Matrix, Node, Pad, Reverse, Schedule, reads
from edge_rnn_converters.keras.graph import Layer
from edge_rnn_converters.refused import GIVE_WINDOW, LOOKS_AHEAD
from edge_rnn_converters.source import Names

MAX_TAPS = 1 << 24
"""Numbers of the largest weights that we make ourselves."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the Keras model, as the rows of the input or node `name`, one a step.

    `shape` is a row's: () an index, (features,), (positions, channels). `steps` rows make a window
    (None: any number). `ended`: the tensor is the last row alone, as after return_sequences=False.
    `before`: rows of zeros stand in front of those of `name`. `flat`: the tensor is so many rows
    side by side, as after Flatten. `masked`: some steps are to be skipped.
    """

    name: str
    shape: tuple[int, ...]
    steps: int | None = None
    ended: bool = False
    before: int = 0
    flat: int = 0
    masked: bool = False

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return prod(self.shape)

    def features(self, name: str, width: int) -> Value:
        """The same steps with rows of so many features."""
        shape = (*self.shape[:-1], width)
        return replace(self, name=name, shape=shape)

    def window(self, name: str, width: int, kernel: int, stride: int) -> Value:
        """What a window of `kernel` rows makes of these, one row every `stride`.

        The rows in front are counted in, and gone.
        """
        rows = None if self.steps is None else self.steps + self.before - kernel
        steps = None if rows is None else rows // stride + 1
        return replace(self, name=name, shape=(width,), steps=steps, before=0)


@dataclass(slots=True, eq=False)
class Network:
    """Nodes in order, the steps at which each has a value, the layers that see several steps, each
    with what it reads, whether one of them needed to know the steps of a window, and what all
    features of a step equal that is to be skipped."""

    names: Names = field(default_factory=Names)
    nodes: list[Node] = field(default_factory=list)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    remembering: list[tuple[Layer, Value]] = field(default_factory=list)
    windowed: bool = False
    mask: float | None = None

    def put(self, kind: type[Node], wanted: str, source: str, *fields: Any, **more: Any) -> str:
        """Append a node that reads `source`; its name, which is the wanted one if that is free."""
        return self.add(kind(self.names.unique(wanted), source, *fields, **more))

    def add(self, node: Node) -> str:
        """Append a node; its name."""
        self.nodes.append(node)
        self.schedules[node.name] = node.schedule(self.schedules[reads(node)[0]])
        return node.name

    @property
    def looks_ahead(self) -> bool:
        """Is there a node that needs a whole window?"""
        return any(isinstance(node, AHEAD) for node in self.nodes)

    def masked(self, layer: Layer, x: Value, value: float) -> Value:
        """The model's input with the steps skipped all of whose features equal `value`.

        Raises UnsupportedError where x is not the input, or another layer masks another value.
        """
        if any(node.name == x.name for node in self.nodes):
            raise layer.refuse("mask", "it masks what other layers made", "mask the model's input")
        if self.mask not in (None, value):
            raise layer.refuse("mask", f"another layer masks {self.mask}", "mask one value")
        self.mask = value
        return replace(x, masked=True)

    def reversed(self, layer: Layer, why: str, x: Value) -> Value:
        """The window's rows in the other order. Raises UnsupportedError where none is known."""
        self.whole(layer, why, x)
        x = self.settled(layer, x)
        return replace(x, name=self.put(Reverse, f"{layer.name}.reverse", x.name))

    def padded(
        self, layer: Layer, why: str, x: Value, before: int, after: int, value: float = 0.0
    ) -> Value:
        """The window with rows in front and behind. Raises UnsupportedError as `reversed`."""
        steps = self.whole(layer, why, x)
        name = self.put(Pad, f"{layer.name}.pad", x.name, before, after, value)
        return replace(x, name=name, steps=steps + before + after, before=0)

    def settled(self, layer: Layer, x: Value) -> Value:
        """The value with its rows in front in it."""
        if not x.before:
            return x
        return self.padded(layer, f"reads {x.before} padded steps", x, x.before, 0)

    def whole(self, layer: Layer, why: str, x: Value) -> int:
        """The steps of a window, which `why` needs. Raises UnsupportedError if none are known."""
        if x.steps is None:
            raise layer.refuse(why, LOOKS_AHEAD, GIVE_WINDOW)
        self.windowed = True
        return x.steps

    def cropped(self, name: str, x: Value, before: int, after: int) -> Value:
        """Rows fewer in front and behind: a convolution that sees one row of its window."""
        window = before + after + 1
        if x.width * window > MAX_TAPS:
            raise ModelError(f"{name!r}: {window} steps of {x.width} features are too many to cut")
        taps = np.zeros((x.width, window), np.float32)
        taps[:, before] = 1
        bias = np.zeros(x.width, np.float32)
        made = self.put(
            Conv1d, name, x.name, Matrix(taps), bias, window, 1, 1, x.width, "valid"
        )  # fmt: skip
        return x.window(made, x.width, window, 1)

    def aligned(self, layer: Layer, values: Sequence[Value]) -> list[Value]:
        """Values that are to meet. Of a window's last rows those that come with other rows are cut.

        Raises UnsupportedError where they are not there at the same steps.
        """
        if all(x.ended for x in values) and not self._meet(values):
            values = [x if x.steps in (None, 1) else self.cropped(layer.name, x, x.steps - 1, 0)
                      for x in values]  # fmt: skip
        if not self._meet(values):
            why = "are not there at the same steps"
            raise layer.refuse("inputs", why, "give all the same strides and padding")
        return list(values)

    def _meet(self, values: Sequence[Value]) -> bool:
        rows = {x.steps for x in values}
        schedules = {self.schedules[x.name] for x in values}
        return len(rows - {None}) <= 1 and (len(schedules) == 1 or self.looks_ahead)
