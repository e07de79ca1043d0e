"""A graph of tensors in the vocabulary of ONNX, whatever framework it comes from.

A framework's reader translates its own operators into `Op`s of ONNX's names and meanings
(https://onnx.ai/onnx/operators), which `tensors.execute` then runs symbolically.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

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


Sizes: TypeAlias = tuple[int | None, ...]
"""Dimensions, None where the size is open."""


@dataclass(frozen=True, slots=True)
class TensorInput:
    """A graph's input: its element type and dimensions; of a state that does not begin at zeros,
    the numbers that it begins at."""

    name: str
    dtype: np.dtype[Any]
    shape: Sizes
    first: NDArray[Any] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class TensorGraph:
    """Operators in order over named values; every name is made once, before it is read.

    `framework` is the text of what made it; `opset` the ONNX operator set whose defaults and
    forms the operators have; `shapes` are those that are known.
    """

    framework: str
    inputs: tuple[TensorInput, ...]
    outputs: tuple[str, ...]
    constants: dict[str, NDArray[Any]]
    operators: tuple[Op, ...]
    opset: int = 21
    shapes: dict[str, Sizes] = field(default_factory=dict)

    def same(self, name: str, other: str) -> bool:
        """Is the value the other one, as it is?"""
        maker = {op.outputs[0]: op for op in self.operators if op.kind == "Identity"}
        while name in maker:
            name = maker[name].inputs[0]
        return name == other


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


STATES, LENGTHS = (5, 6), (4,)
"""Where a cell reads its initial states, and how many steps there are."""
_FOLLOWED = ("Identity", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Slice", "Gather", "Split",
             "Concat", "Cast", "Expand", "Add")  # fmt: skip
CELLS = ("RNN", "LSTM", "GRU", "edge_rnn.Cell")


def reaching(graph: TensorGraph, slots: Sequence[int]) -> set[str]:
    """The graph inputs that reach these inputs of a cell through moves of their elements."""
    operators = list(flat(graph))
    maker = {name: op for op in operators for name in op.outputs}
    todo = [op.inputs[k] for op in operators if op.kind in CELLS
            for k in slots if k < len(op.inputs)]  # fmt: skip
    handed = dict(pair for op in operators for pair in handed_in(op))
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if name in handed:
            todo.append(handed[name])
        op = maker.get(name)
        if op is not None and op.kind == "If":
            branches = (op.attributes["then_branch"], op.attributes["else_branch"])
            todo += [branch.outputs[op.outputs.index(name)] for branch in branches]
        elif op is not None and op.kind in _FOLLOWED:
            todo += op.inputs if op.kind in ("Concat", "Add") else op.inputs[:1]
    return found.intersection(i.name for i in graph.inputs)


def flat(graph: TensorGraph) -> Iterator[Op]:
    """The operators, those of graphs inside included."""
    for op in graph.operators:
        yield op
        for inner in op.attributes.values():
            if isinstance(inner, TensorGraph):
                yield from flat(inner)


def handed_in(op: Op) -> Iterator[tuple[str, str]]:
    """The inputs of a loop's body, each with the value that the loop is given for it."""
    if op.kind in ("Scan", "Loop"):
        body: TensorGraph = op.attributes["body"]
        yield from zip((i.name for i in body.inputs), op.inputs, strict=False)


def carried(op: Op, body: TensorGraph) -> list[tuple[TensorInput, str]]:
    """What a `Scan` or `Loop` hands from step to step: the body's input, and its output."""
    if op.kind == "Loop":
        return list(zip(body.inputs[2:], body.outputs[1:], strict=False))
    states = len(op.inputs) - op.integer("num_scan_inputs", 0)
    return list(zip(body.inputs[:states], body.outputs, strict=False))
