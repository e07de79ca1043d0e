"""What a node is, and what its declarations say.

A node declares the shape of each of its tensors, its state and its output in symbols
(`I` is the width of its input); validation, the model file, parameter counts and the
compiler all read these declarations, so that a new node is declared in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import ModelError

F32: TypeAlias = NDArray[np.float32]
Attribute: TypeAlias = str | int | float | bool

Activations: TypeAlias = Literal["float32", "int16", "int8"]
"""What a node's matrices are multiplied by. Integers have one unit for a whole vector x, m / 127
for int8 and m / 32512 for int16, where m is the largest |x|, or `bound` where that is known."""

GROUP = 32
"""Inputs that share a scale in a 4-bit matrix."""
MAX_DIM = 1 << 20
MAX_ELEMENTS = 1 << 30
MAX_EPSILON = 1e6
_SYMBOL = re.compile(r"(\d*)([A-Z]?)")


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A weight matrix (rows, columns), row-major; a row makes one output.

    `data` is float32, float16, int8 in [-127, 127] with one positive float32 `scale` (rows,) a
    row, or 4-bit (as int8 in [-7, 7]) with one for each GROUP of columns, (rows, groups). A weight
    is its number in `data` times its scale.
    """

    data: NDArray[Any]
    scale: F32 | None = None

    def float64(self) -> NDArray[np.float64]:
        """The weights' values, shape (rows, columns)."""
        wide = self.data.astype(np.float64)
        if self.scale is None:
            return wide
        scale = self.scale.astype(np.float64)
        return wide * (self._spread(scale) if self.four_bit else scale[:, None])

    def _spread(self, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.repeat(scale, GROUP, axis=1)[:, : self.data.shape[1]]

    @property
    def four_bit(self) -> bool:
        """True of weights in groups."""
        return self.scale is not None and self.scale.ndim == 2

    def rows(self, start: int, stop: int) -> Matrix:
        """Rows start to stop as a matrix of its own."""
        scale = None if self.scale is None else self.scale[start:stop]
        return Matrix(self.data[start:stop], scale)

    @property
    def nbytes(self) -> int:
        """Bytes of weights and scales in a file."""
        weights = (
            len(self.data) * -(-self.data.shape[1] // 2) if self.four_bit else self.data.nbytes
        )
        return int(weights + (0 if self.scale is None else self.scale.nbytes))


class Schedule(NamedTuple):
    """The steps of a stream, counted from 0, at which a value is there: first + period j."""

    first: int = 0
    period: int = 1

    def count(self, steps: int) -> int:
        """At how many of a stream's first `steps` steps it is there."""
        return max(0, -(-(steps - self.first) // self.period))

    def due(self, step: int) -> bool:
        """Is it there at this step?"""
        return step >= self.first and (step - self.first) % self.period == 0

    def __str__(self) -> str:
        first, period = self
        return f"steps {first}, {first + period}, {first + 2 * period}, ..."


def tensor(*shape: str) -> Any:
    """A field that holds a float32 vector or a Matrix of this symbolic shape."""
    return field(metadata={"shape": shape})


def optional(*shape: str) -> Any:
    """A tensor that may be None; what that means its node says."""
    return field(default=None, metadata={"shape": shape, "optional": True})


def raw() -> Any:
    """A tensor of bytes, uint8 of any length; its shape decides nothing."""
    return field(metadata={"shape": ()})


def structure() -> Any:
    """A field that the node checks itself."""
    return field(metadata={"structure": True})


def number(low: float, high: float, default: Any = MISSING) -> Any:
    """A field that holds a number from `low` to `high`."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A step of the computation: reads the value `input`, makes the value `name`.

    A node that reads several values names the further ones in a field `others`. Its remaining
    fields are tensors and attributes: choices out of a Literal, or numbers of a range. A state s
    begins at the tensor `initial_s`, at zeros where that is None or there is no such field.
    """

    OP: ClassVar[str]
    OUTPUT: ClassVar[str] = "I"
    STATE: ClassVar[Mapping[str, str]] = {}

    name: str
    input: str

    def sizes(self, *widths: int) -> dict[str, int]:
        """The symbols that attributes and the widths of the values read decide.

        Raises ModelError where these don't fit.
        """
        return {"I": widths[0]}

    def same(self) -> Iterable[tuple[str, str, str]]:
        """(symbol, symbol, why) of the dimensions that must be equal besides what shapes say."""
        return ()

    def schedule(self, read: Schedule) -> Schedule:
        """When its output is there, from when the values read are."""
        return read

    def rows(self, read: int) -> int:
        """How many rows its output has in a window, from how many the values read have."""
        return self.schedule(Schedule()).count(read)


def tensors(node: Node) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """(field, symbolic shape, Matrix or float32 vector) of each tensor that a node has."""
    for f in fields(node):
        if "shape" in f.metadata and not _absent(f, getattr(node, f.name)):
            yield f.name, f.metadata["shape"], getattr(node, f.name)


def _absent(f: Field[Any], tensor: Any) -> bool:
    return tensor is None and f.metadata.get("optional", False)


def reads(node: Node) -> tuple[str, ...]:
    """The names of all values that the node reads."""
    return (node.input, *getattr(node, "others", ()))


def attributes(node: Node) -> dict[str, Attribute]:
    """The node's choices: every field that is neither a tensor nor a name."""
    skip = {"name", "input", "others"}
    return {
        f.name: getattr(node, f.name)
        for f in fields(node)
        if "shape" not in f.metadata and f.name not in skip
    }


def dimensions(node: Node, *widths: int) -> dict[str, int]:
    """The value of each symbol of the node's shapes, from the widths of the values it reads.

    Raises ModelError, naming node and tensor, where the tensors disagree.
    """
    dims = node.sizes(*widths)
    for name, symbols, value in tensors(node):
        if not symbols:
            continue
        if value is None:
            raise ModelError(f"node {node.name!r}: {name} is missing")
        shape = value.data.shape if isinstance(value, Matrix) else value.shape
        if len(shape) != len(symbols) or not all(map(_bind, symbols, shape, [dims] * len(shape))):
            known = ", ".join(f"{k}={v}" for k, v in dims.items())
            raise ModelError(
                f"node {node.name!r}: {name} has shape {tuple(shape)}, "
                f"expected ({', '.join(symbols)}) with {known}"
            )
    for a, b, why in node.same():
        if dims[a] != dims[b]:
            raise ModelError(
                f"node {node.name!r}: {why} {a} must equal {b}, got {a}={dims[a]}, {b}={dims[b]}"
            )
    return dims


def _bind(symbol: str, size: int, dims: dict[str, int]) -> bool:
    """Give the symbol's letter its value, or check it; "4H" is 4 times H, "1" is 1."""
    match = _SYMBOL.fullmatch(symbol)
    assert match is not None, symbol  # noqa: S101 - a node declared wrongly
    factor = int(match[1] or 1)
    if not match[2]:
        return size == factor
    return 0 < size <= MAX_DIM and size == factor * dims.setdefault(match[2], size // factor)
