"""A whole model in the form of another engine, which runs it: bytes that we carry as they are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import ModelError
from edge_rnn.graph.node import MAX_DIM, Node, raw, structure

Backend: TypeAlias = Literal["litert", "onnxruntime"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)


MAX_AXES, MAX_NUMBERS = 8, 1 << 24
"""Of a tensor that an engine is fed or asked for."""


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that the engine is fed or asked for, by the engine's name of it."""

    tensor: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class Carried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state: the tensor that it is fed to, and the one that is its next value; zeros at first."""

    before: str
    after: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class Fixed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that is fed the same number every time, such as a sampling rate."""

    tensor: str
    shape: tuple[int, ...]
    value: float


@dataclass(frozen=True, slots=True, eq=False)
class Foreign(Node):
    """A model file that its own engine runs, one call for each message.

    `messages` are fed at once; with more than one the model has a window of as many, and no state.
    y is the last `width` numbers of the tensor `y`. `sha256` is that of `blob`, in hex: an engine
    written in C is given no bytes but those that were checked at the conversion.
    """

    OP: ClassVar[str] = "foreign"
    OUTPUT: ClassVar[str] = "N"
    STATE: ClassVar[Mapping[str, str]] = {"state": "S"}

    engine: Backend
    messages: int
    width: int
    sha256: str = structure()
    blob: NDArray[np.uint8] = raw()
    x: Port = structure()
    y: Port = structure()
    states: tuple[Carried, ...] = structure()
    fixed: tuple[Fixed, ...] = structure()

    def sizes(self, *widths: int) -> dict[str, int]:
        """The width of its output, and the numbers of all its states."""
        (I,) = widths
        self.check()
        if self.x.size != self.messages * I:
            raise ModelError(
                f"node {self.name!r}: {self.x.tensor!r} has {self.x.size} numbers, expected "
                f"{self.messages} times {I}"
            )
        return {"I": I, "N": self.width, "S": sum(s.size for s in self.states)}

    @property
    def fed(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that the engine is fed, by name."""
        shapes = {self.x.tensor: self.x.shape}
        shapes |= {s.before: s.shape for s in self.states}
        return shapes | {f.tensor: f.shape for f in self.fixed}

    def check(self) -> None:
        """Raises ModelError where its tensors can't be what they should."""
        fault = self._fault()
        if fault:
            raise ModelError(f"node {self.name!r}: {fault}")

    def rows(self, read: int) -> int:
        """One row for the messages that are fed at once."""
        return read // self.messages

    def _fault(self) -> str:
        shapes = [self.y.shape, *self.fed.values()]
        if not all(map(_small, shapes)):
            return f"shapes of up to {MAX_AXES} axes and {MAX_NUMBERS} numbers expected: {shapes}"
        fed = [self.x.tensor, *(s.before for s in self.states), *(f.tensor for f in self.fixed)]
        fetched = [self.y.tensor, *(s.after for s in self.states)]
        if len(set(fed)) < len(fed) or len(set(fetched)) < len(fetched):
            return f"a tensor stands twice among {fed} or {fetched}"
        if not 0 < self.messages <= MAX_DIM or not 0 < self.width <= self.y.size:
            return f"{self.messages} messages at once, {self.width} of {self.y.size} numbers"
        if self.messages > 1 and self.states:
            return "it takes several messages at once, so it can carry no state"
        if not all(math.isfinite(f.value) for f in self.fixed):
            return "a fixed tensor is not a finite number"
        return ""


def _small(shape: tuple[int, ...]) -> bool:
    ranked = len(shape) <= MAX_AXES and min(shape, default=1) > 0
    return ranked and math.prod(shape) <= MAX_NUMBERS


def check_bytes(node: Foreign) -> None:
    """Raises ModelError where the bytes are not those of the digest."""
    blob: Any = node.blob
    if blob.dtype != np.uint8 or blob.ndim != 1 or not blob.size:
        raise ModelError(f"node {node.name!r}: blob {blob.dtype} {blob.shape}, expected bytes")
    if hashlib.sha256(blob.tobytes()).hexdigest() != node.sha256:
        raise ModelError(f"node {node.name!r}: the blob's SHA-256 is not {node.sha256[:16]}...: "
                         "the file was altered")  # fmt: skip
