"""A graph under symbolic execution: its operators read, the nodes made so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import ModelError
from edge_rnn.graph import Node
from edge_rnn_converters.source import Names
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.values import (
    AxisError,
    Dim,
    Known,
    Role,
    Roles,
    State,
    Stream,
    Value,
    axis,
)


@dataclass(frozen=True, slots=True, eq=False)
class CellState:
    """One state vector of a cell: the ids of its elements before (None: zeros) and after a run."""

    op: Op
    slot: str
    initial: NDArray[np.int64] | None
    final: NDArray[np.int64]


@dataclass(slots=True)
class Trace:
    """Everything found so far.

    `inputs` are the graph's, `indices` those of integers, which only an embedding may read; state
    elements numbered below `entered` are of graph inputs; `softmax_axis` is Softmax's default,
    which depends on the operator set.
    """

    values: dict[str, Value] = field(default_factory=dict)
    roles: Roles = field(default_factory=Roles)
    names: Names = field(default_factory=Names)
    widths: dict[str, int] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    indices: set[str] = field(default_factory=set)
    nodes: list[Node] = field(default_factory=list)
    cells: list[CellState] = field(default_factory=list)
    ids: int = 0
    entered: int = 0
    softmax_axis: int = -1

    def new_ids(self, shape: Sequence[int]) -> NDArray[np.int64]:
        """Numbers for new state elements, no two alike."""
        n = int(np.prod(shape))
        self.ids += n
        return np.arange(self.ids - n, self.ids).reshape(shape)

    def arguments(self, op: Op) -> list[Value | None]:
        """The values the operator reads. Raises ModelError for one that nothing makes."""
        for name in op.inputs:
            if name and name not in self.values:
                raise ModelError(f"{op} reads {name!r}, which nothing before it makes")
        return [self.values[name] if name else None for name in op.inputs]

    def features(self, stream: Stream, position: int, size: int | None = None) -> int:
        """Read a dimension as the features and return how many; `size` is what the reader has.

        Raises AxisError when it is something else or of another size.
        """
        dim = stream.dims[position]
        self.roles.bind(dim, Role.FEATURE)
        declared = dim[0].size if dim else 1
        width = self.widths.get(stream.value, declared if declared is not None else size)
        if width is None:
            raise AxisError(f"how many {dim[0]} are there? Give the number in the export")
        if size not in (None, width) or declared not in (None, width):
            raise AxisError(f"{size or declared} features for {stream.value!r}, which has {width}")
        self.widths[stream.value] = width
        return width

    def width(self, stream: Stream) -> int:
        """How many features the stream has; of an input not yet read, its last dimension's."""
        found = self.roles.find(stream.dims, Role.FEATURE)
        if found is None and stream.value in self.widths:
            return self.widths[stream.value]
        return self.features(stream, len(stream.dims) - 1 if found is None else found)

    def emit(self, op: Op, stream: Stream, make: Callable[[str], Node], width: int) -> str:
        """Add the node that `make` makes of its name; it reads the stream."""
        node = make(self.names.unique(op.name or f"{op.kind}_{op.outputs[0]}"))
        if stream.value in self.indices and node.OP != "embedding":
            raise op.refuse("input", "integers are read by an embedding only", "use float inputs")
        self.nodes.append(node)
        self.widths[node.name] = width
        return node.name

    def feature_axis(self, value: str) -> Dim:
        """The feature dimension of a new value."""
        dim = axis(f"{value} features", self.widths[value])
        self.roles.bind(dim, Role.FEATURE)
        return dim


Handler: TypeAlias = Callable[[Trace, Op, list[Value | None]], list[Value]]


@dataclass(frozen=True, slots=True)
class KnownOp:
    """An operator that converts: how, and what the manual says of it."""

    run: Handler
    doc: str


@dataclass(frozen=True, slots=True)
class Operators:
    """Operators of ONNX's own domain, by name; calling it registers a handler for some."""

    known: dict[str, KnownOp] = field(default_factory=dict)

    def __call__(self, kinds: str, doc: str) -> Callable[[Handler], Handler]:
        """Register the decorated handler for these operators."""

        def register(run: Handler) -> Handler:
            self.known.update({kind: KnownOp(run, doc) for kind in kinds.split()})
            return run

        return register


def as_stream(op: Op, value: Value | None, what: str) -> Stream:
    """The value as the stream. Raises UnsupportedError when it is something else."""
    if isinstance(value, State) and value.stream is not None:
        value = value.stream
    if not isinstance(value, Stream):
        raise op.refuse(what, "is not computed from the model's input", "export a plain chain")
    return value


def constant(op: Op, value: Value | None, what: str) -> NDArray[Any]:
    """The value as a constant. Raises UnsupportedError when it is not one."""
    if not isinstance(value, Known) or value.array.dtype == object:
        raise op.refuse(what, "is not a constant", "export with its value in the file")
    return value.array


def weights(op: Op, value: Value | None, what: str) -> NDArray[np.float32]:
    """A constant of float32. Raises UnsupportedError for other types."""
    array = constant(op, value, what)
    if array.dtype != np.float32:
        raise op.refuse(f"{what} of {array.dtype}", "expected float32", "export in float32")
    return array
