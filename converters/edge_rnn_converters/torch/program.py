"""What a callable computes: operators in order over tensors whose sizes may be open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.source import refuse


@dataclass(frozen=True, slots=True)
class Open:
    """A whole number that depends on the sizes of the inputs: what it was in each recording."""

    seen: tuple[int, ...]


Extent: TypeAlias = int | Open


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor of the program. `array` is there for a constant, without axes where the constant is
    one number in an open shape."""

    name: str
    shape: tuple[Extent, ...]
    dtype: np.dtype[Any]
    array: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operator: arguments by name, `Tensor`s and `Open` numbers in them."""

    target: str
    label: str
    arguments: dict[str, Any]
    outputs: tuple[Tensor, ...]

    def refuse(self, attribute: str, why: str, way_out: str) -> UnsupportedError:
        """The refusal of this operator for what `attribute` holds."""
        return refuse(f"{self.target} {self.label!r}", attribute, why, way_out)


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """A tensor that a call leaves to the next one: as it is read and as it is written, at `key` of
    the recording. `delay`: for each element how many calls ago it was given, and its place in the
    input, where that is all it is; `first`: what it is before the first call, None for zeros."""

    before: Tensor
    after: Tensor
    key: tuple[Any, ...]
    delay: tuple[tuple[int, int], ...] | None = None
    first: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Operators in order, each tensor made once before it is read."""

    inputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Tensor, ...]
    carried: tuple[Carried, ...]
