"""How a model is used, window by window, and the nodes that need a whole window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edge_rnn.graph.node import MAX_DIM, Node, Schedule, number


@dataclass(frozen=True, slots=True)
class Window:
    """The model sees windows of `length` messages, each from the initial state, and a new one
    begins every `hop` messages: tumbling where hop is length, else sliding (hop < length).

    It answers when a window is whole, with the window's last output; with `every`, which needs
    tumbling windows, at each step of the window.
    """

    length: int
    hop: int
    every: bool = False

    def __str__(self) -> str:
        answers = ", with an answer at each step" if self.every else ""
        if self.hop == self.length:
            return f"tumbling windows of {self.length} messages{answers}"
        return f"sliding windows of {self.length} messages, one every {self.hop}"

    @property
    def phases(self) -> int:
        """How many windows a stream is in at once, at most."""
        return -(-self.length // self.hop)

    def answers(self, rows: Schedule) -> Schedule:
        """When a stream answers, from the steps of a window at which the outputs are there."""
        if self.every:
            return rows
        return Schedule(rows.first + rows.period * (rows.count(self.length) - 1), self.hop)


@dataclass(frozen=True, slots=True, eq=False)
class Reverse(Node):
    """y_t = x_(n - 1 - t): the rows of a window of n in the other order."""

    OP: ClassVar[str] = "reverse"

    def rows(self, read: int) -> int:
        """As many as it reads."""
        return read


@dataclass(frozen=True, slots=True, eq=False)
class Pad(Node):
    """The rows of a window with `before` rows of `value` in front and `after` rows behind."""

    OP: ClassVar[str] = "pad"

    before: int = number(0, MAX_DIM)
    after: int = number(0, MAX_DIM)
    value: float = number(-3.4028234663852886e38, 3.4028234663852886e38, 0.0)

    def rows(self, read: int) -> int:
        """Those that it reads and its own."""
        return self.before + read + self.after


AHEAD = (Reverse, Pad)
"""The nodes that a stream can't step: a model with one is evaluated when a window is whole."""
