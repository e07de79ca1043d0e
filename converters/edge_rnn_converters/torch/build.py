"""Builds a graph of tensors in ONNX's vocabulary out of a program's operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from edge_rnn_converters.source import Names
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.torch.program import Extent, Open, Step, Tensor


@dataclass(slots=True)
class Builder:
    """The operators so far; a tensor of the program is known by the value that stands for it;
    `parts` are of values put together along their first axis, each part one long there; `loops`
    the recurrent weights, by name, of loops that are written out, step after step."""

    loops: frozenset[str] = frozenset()

    constants: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    operators: list[Op] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    label: str = ""

    def constant(self, array: ArrayLike, dtype: Any = None) -> str:
        """A new constant."""
        name = self.names.unique(f"{self.label}_constant")
        self.constants[name] = np.asarray(array, dtype)
        return name

    def indices(self, *numbers: int) -> str:
        """A constant of int64, one axis."""
        return self.constant(numbers, np.int64)

    def value(self, tensor: Tensor | None) -> str:
        """The name of the tensor's value, "" for none."""
        if tensor is None:
            return ""
        if tensor.array is not None and tensor.name not in self.values:
            self.values[tensor.name] = self.names.unique(tensor.name)
            self.constants[self.values[tensor.name]] = tensor.array
        return self.values[tensor.name]

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The one output of a new operator."""
        return self.several(kind, 1, *inputs, **attributes)[0]

    def several(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """The outputs of a new operator."""
        made = [self.names.unique(f"{self.label}_{kind}") for _ in range(outputs)]
        self.operators.append(Op(kind, self.label, inputs, tuple(made), attributes))
        return made

    def maker(self, value: str) -> Op | None:
        """The operator that makes the value."""
        return next((o for o in reversed(self.operators) if value in o.outputs), None)

    def shape(self, op: Step, sizes: Sequence[Extent], like: Tensor) -> str:
        """A shape as a value; numbers that depend on the inputs' sizes are those of `like`."""
        opened = [n for n in sizes if isinstance(n, Open)]
        if len(opened) < 2:
            return self.indices(*(-1 if isinstance(n, Open) else n for n in sizes))
        whole = self("Shape", self.value(like))
        parts = []
        for n in sizes:
            if isinstance(n, Open) and n not in like.shape:
                why = "is computed from the sizes in a way not followed"
                raise op.refuse(f"shape {list(sizes)}", why, "reshape to sizes of the tensor")
            at = self.indices(like.shape.index(n)) if isinstance(n, Open) else None
            parts.append(self("Gather", whole, at) if at else self.indices(n))  # type: ignore[arg-type]
        return self("Concat", *parts, axis=0)


Handler: TypeAlias = Callable[[Builder, Step], str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class KnownOperator:
    """How an ATen operator is translated, and what the manual says of it."""

    translate: Handler
    doc: str


@dataclass(frozen=True, slots=True)
class AtenOperators:
    """ATen operators by name with overload; calling it registers a handler for some."""

    known: dict[str, KnownOperator] = field(default_factory=dict)

    def __call__(self, targets: str, doc: str = "") -> Callable[[Handler], Handler]:
        """Register the decorated handler; a name without overload is its `default`."""

        def register(handler: Handler) -> Handler:
            for target in targets.split():
                full = f"aten.{target}" if "." in target else f"aten.{target}.default"
                self.known[full] = KnownOperator(handler, doc)
            return handler

        return register


def axis(op: Step, tensor: Tensor, argument: str = "dim") -> int:
    """An argument that is an axis of the tensor, counted from 0."""
    return int(op.arguments[argument]) % max(1, len(tensor.shape))


def index(op: Step, number: Extent, size: Extent) -> int:
    """A place along an axis; one that follows the axis's length is counted from its end."""
    if isinstance(number, Open):
        lengths = size.seen if isinstance(size, Open) else (size,) * len(number.seen)
        ends = {a - b for a, b in zip(number.seen, lengths, strict=True)}
        if len(ends) != 1 or (end := ends.pop()) > 0:
            why = "is computed from the sizes in a way not followed"
            raise op.refuse("index", why, "count from the axis's start or end")
        return end if end else MANY
    return int(number)


MANY = 1 << 62
"""As an end, it stands for the last place."""
