"""A graph of tensors in the vocabulary of ONNX, whatever framework it comes from.

A framework's reader translates its own operators into `Op`s of ONNX's names and meanings
(https://onnx.ai/onnx/operators), which `tensors.execute` then runs symbolically.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.source import refuse


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operator: `inputs` are names of values, "" for one left out; `name` may be "".

    Attributes are as ONNX has them, text as str, tensors as arrays, types as numpy's.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        called = repr(self.name) if self.name else f"that makes {self.outputs[0]!r}"
        return f"{self.kind} {called}"

    def refuse(self, attribute: str, why: str, way_out: str) -> UnsupportedError:
        """The refusal of this operator for what `attribute` holds."""
        return refuse(str(self), attribute, why, way_out)

    def number(self, attribute: str, default: float) -> float:
        """A number attribute."""
        return float(self.attributes.get(attribute, default))

    def integer(self, attribute: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(attribute, default))


@dataclass(frozen=True, slots=True)
class TensorInput:
    """A graph's input: its element type and dimensions, None where the size is open."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TensorGraph:
    """Operators in order over named values; every name is made once, before it is read.

    `framework` is the text of what made it; `opset` the ONNX operator set whose defaults and
    forms the operators have.
    """

    framework: str
    inputs: tuple[TensorInput, ...]
    outputs: tuple[str, ...]
    constants: dict[str, NDArray[Any]]
    operators: tuple[Op, ...]
    opset: int = 21


def needed(operators: tuple[Op, ...], outputs: tuple[str, ...]) -> tuple[Op, ...]:
    """The operators that the outputs depend on, in order."""
    wanted, kept = set(outputs), []
    for op in reversed(operators):
        if wanted.intersection(op.outputs):
            wanted.update(_read(op))
            kept.append(op)
    return tuple(kept[::-1])


def _read(op: Op) -> set[str]:
    """All names that the operator reads, in graphs of its own too."""
    graphs = [g for g in op.attributes.values() if isinstance(g, TensorGraph)]
    inside = (name for g in graphs for inner in g.operators for name in _read(inner))
    return {*op.inputs, *inside, *(name for g in graphs for name in g.outputs)}
