"""What is known of a value of a graph while it is executed symbolically.

The stream, the value that has one vector a step, is known by where its time, batch and feature
axes are; everything around it (constants, sizes, initial states) by its very elements. So a
Transpose or Reshape is followed exactly, or refused: nothing is guessed from a shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


class Role(Enum):
    """What an axis of the stream is."""

    TIME = "time"
    BATCH = "batch"
    FEATURE = "features"


@dataclass(frozen=True, slots=True, eq=False)
class Atom:
    """An axis longer than one; `size` None: not known before the graph runs. `whole` is the axis
    that it was cut out of."""

    label: str
    size: int | None
    whole: Atom | None = None

    def __repr__(self) -> str:
        return self.label


Dim: TypeAlias = tuple[Atom, ...]
"""One dimension of an array: the axes merged in it, outer first. () is a dimension of one."""


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """The length of a dimension, as an element of a shape that the graph computes."""

    dim: Dim


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The model's value `value` with its axes.

    `order` has the axes of the value's vector, outer first, those that are features; where nothing
    read an input yet, any axis of it may be one. `last`: only the last step's vector is here.
    `padded` (before, after, number): steps that are still to be put around it.
    """

    value: str
    dims: tuple[Dim, ...]
    order: Dim
    last: bool = False
    padded: tuple[int, int, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A constant array; of dtype object, elements are ints or `Size`s."""

    array: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """An array of any shape whose elements are all `number`."""

    number: float


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """An array of state elements, each by its number: initial ones or a cell's final ones.

    `stream` is the same array as a step's value, where it is one (h, not c).
    """

    ids: NDArray[np.int64]
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """How many steps each sequence has: all that there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """The number of a loop's step."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A list into which each step of a loop puts `row`, a value of that step; None: as yet empty.
    `time` is the dimension of the steps, once the loop is over."""

    row: Stream | None = None
    time: Dim = ()


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """Bookkeeping that was not followed; it is refused where it would matter."""

    origin: str


Value: TypeAlias = Stream | Known | Filled | State | Lengths | Counter | Rows | Opaque


class AxisError(Exception):
    """An axis is read as two things, or can't be told; the text is the reason of a refusal."""


@dataclass(slots=True)
class Axes:
    """What each axis turned out to be, and its size where only its reader tells it.

    `window`: how many steps there are, where the graph leaves it open.
    """

    of: dict[Atom, Role] = field(default_factory=dict)
    sizes: dict[Atom, int] = field(default_factory=dict)
    window: int | None = None

    def role(self, atom: Atom) -> Role | None:
        """What the axis is, None as long as nothing read it."""
        while atom not in self.of and atom.whole is not None:
            atom = atom.whole
        return self.of.get(atom)

    def bind(self, dim: Dim, role: Role) -> None:
        """Read a dimension as `role`: at most one axis, of features any number.

        Raises AxisError where a second reading differs.
        """
        if len(dim) > 1 and (role is not Role.FEATURE or self.has(dim, Role.TIME)):
            raise AxisError(f"{role.value} merged from the axes {list(dim)}")
        for atom in dim:
            if (self.role(atom) or role) is not role:
                found = self.role(atom)
                assert found is not None  # noqa: S101 - just compared
                raise AxisError(f"{atom} is {found.value} and can't be {role.value} too")
            if atom.whole is not None and role is not Role.FEATURE:
                raise AxisError(f"{role.value} cut out of the axis {atom.whole}")
            while atom.whole is not None:
                self.of[atom], atom = role, atom.whole
            self.of[atom] = role

    def has(self, dim: Dim, role: Role) -> bool:
        """Is one of the dimension's axes of that role?"""
        return any(self.role(atom) is role for atom in dim)

    def find(self, dims: Sequence[Dim], role: Role) -> int | None:
        """Which dimension holds the axis of that role."""
        return next((i for i, dim in enumerate(dims) if self.has(dim, role)), None)

    def features(self, dim: Dim) -> Dim:
        """Those of the axes that are features."""
        return tuple(atom for atom in dim if self.role(atom) is Role.FEATURE)

    def size(self, atom: Atom) -> int:
        """How long the axis is. Raises AxisError where that is open."""
        size = self.sizes.get(atom, atom.size)
        if size is None and self.role(atom) is Role.TIME:
            size = self.window
        if size is None:
            how = "Give all sizes in the export, or with --input NAME=1x512"
            raise AxisError(f"how many {atom} are there? {how}")
        return size

    def length(self, dim: Dim) -> int:
        """How long the dimension is. Raises AxisError where that is open."""
        return math.prod(self.size(atom) for atom in dim)

    def drop(self, dim: Dim) -> None:
        """Read a dimension that an operator removes: of one, or the batch, run one at a time."""
        if any(atom.size is not None for atom in dim):
            raise AxisError(f"{list(dim)} has {dim[0].size} elements and can't be dropped")
        self.bind(dim, Role.BATCH)


def axis(label: str, size: int | None) -> Dim:
    """A new dimension; one of size 1 has no axis."""
    return () if size == 1 else (Atom(label, size),)


def with_dims(stream: Stream, dims: tuple[Dim, ...]) -> Stream:
    """The same value with its axes elsewhere."""
    return replace(stream, dims=dims)


def sizes(stream: Stream) -> Known:
    """The stream's shape, ints where they are known."""
    shape = np.empty(len(stream.dims), object)
    for i, dim in enumerate(stream.dims):
        known = [atom.size for atom in dim if atom.size is not None]
        shape[i] = math.prod(known) if len(known) == len(dim) else Size(dim)
    return known_shape(shape)


def known_shape(shape: NDArray[Any]) -> Known:
    """An array of ints and `Size`s, as plain ints if it can be."""
    if any(isinstance(n, Size) for n in shape.flat):
        return Known(shape)
    return Known(shape.astype(np.int64))
