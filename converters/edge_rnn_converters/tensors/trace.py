"""A graph under symbolic execution: its operators read, the nodes made so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import ModelError
from edge_rnn.graph import Node, Pad
from edge_rnn.graph import reads as node_reads
from edge_rnn_converters.refused import ONNX_REFUSED, UNKNOWN
from edge_rnn_converters.source import Names, reading
from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tensors.values import (
    Atom,
    Axes,
    AxisError,
    Dim,
    Known,
    Opaque,
    Role,
    State,
    Stream,
    Value,
)


@dataclass(frozen=True, slots=True, eq=False)
class CellState:
    """One state vector of the cell `node`: the ids of its elements before a run (None: it begins
    where the node says) and after it."""

    op: Op
    node: str
    slot: str
    initial: NDArray[np.int64] | None
    final: NDArray[np.int64]


Handler: TypeAlias = Callable[["Trace", Op, list[Value | None]], list[Value]]


@dataclass(frozen=True, slots=True)
class KnownOp:
    """An operator that converts: how, and what the manual says of it."""

    run: Handler
    doc: str


@dataclass(slots=True)
class Trace:
    """Everything found so far.

    `inputs` are the values that are the model's, with their widths as soon as they are read;
    `indices` those of integers, which only an embedding may read; state elements numbered below
    `entered` are of graph inputs, those in `entering` of a loop's before a turn; `steps` are the
    dimensions that a loop takes row by row; `framed`: what a convolution without a known step axis
    runs along lies inside one message; `delays`: nodes that the source keeps as a state.
    `softmax_axis` is Softmax's default, which depends on the operator set.
    """

    operators: Mapping[str, KnownOp]
    values: dict[str, Value] = field(default_factory=dict)
    axes: Axes = field(default_factory=Axes)
    names: Names = field(default_factory=Names)
    widths: dict[str, int] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    indices: set[str] = field(default_factory=set)
    nodes: dict[str, Node] = field(default_factory=dict)
    cells: list[CellState] = field(default_factory=list)
    cropped: dict[str, Callable[[int], Stream]] = field(default_factory=dict)
    floors: dict[str, tuple[str, float]] = field(default_factory=dict)
    inverses: dict[str, Stream] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    delays: set[str] = field(default_factory=set)
    ids: int = 0
    entered: int = 0
    entering: set[int] = field(default_factory=set)
    steps: list[Dim] = field(default_factory=list)
    done: int = 0
    framed: bool = False
    softmax_axis: int = -1

    def new_ids(self, shape: Sequence[int]) -> NDArray[np.int64]:
        """Numbers for new state elements, no two alike."""
        n = int(np.prod(shape))
        self.ids += n
        return np.arange(self.ids - n, self.ids).reshape(shape)

    def run(self, operators: Sequence[Op]) -> None:
        """Execute operators in order. Raises UnsupportedError, ModelError naming the one."""
        for op in operators:
            args = [self.value(op, name) if name else None for name in op.inputs]
            try:
                with reading(str(op)):
                    results = self._results(op, args)
            except AxisError as e:
                way_out = "export with plain (batch, steps, features) axes"
                raise op.refuse("axes", str(e), way_out) from e
            self.values.update(zip(op.outputs, results, strict=False))
            self.done += 1

    def _results(self, op: Op, args: list[Value | None]) -> list[Value]:
        if op.kind in self.operators:
            return self.operators[op.kind].run(self, op, args)
        if any(isinstance(a, Stream | State) for a in args):
            raise op.refuse("operator", *ONNX_REFUSED.get(op.kind, UNKNOWN))
        return [Opaque(name) for name in op.outputs]

    def value(self, op: Op, name: str) -> Value:
        """The value that the operator reads. Raises ModelError for one that nothing makes."""
        if name not in self.values:
            raise ModelError(f"{op} reads {name!r}, which nothing before it makes")
        return self.values[name]

    def features(self, stream: Stream, *positions: int, size: int | None = None) -> int:
        """Read dimensions as features and return how many; `size` is what the reader has.

        Raises AxisError when it is something else or of another size.
        """
        for i in positions:
            self.axes.bind(stream.dims[i], Role.FEATURE)
        dims = [stream.dims[i] for i in positions]
        if size is not None and len(dims) == 1 and len(dims[0]) == 1 and dims[0][0].size is None:
            self.axes.sizes.setdefault(dims[0][0], size)
        found = math.prod(self.axes.length(dim) for dim in dims)
        if size not in (None, found):
            raise AxisError(f"{size} features for {stream.value!r}, which has {found}")
        return found

    def order(self, stream: Stream) -> Dim:
        """The axes of the value's vector. Of an input that nothing has read, its last dimension."""
        order = self.axes.features(stream.order)
        if not order and stream.value in self.inputs and stream.value not in self.widths:
            self.axes.bind(stream.dims[-1] if stream.dims else (), Role.FEATURE)
            order = self.axes.features(stream.order)
        width = self.axes.length(order)
        if self.widths.setdefault(stream.value, width) != width:
            had = self.widths[stream.value]
            raise AxisError(f"{list(order)} are features, but {had} were read before")
        return order

    def width(self, stream: Stream) -> int:
        """How many features the stream has."""
        return self.axes.length(self.order(stream))

    def meet(self, a: Dim, b: Dim) -> None:
        """Two values' dimensions lie side by side: what one is, the other is too."""
        if len(a) != 1 or len(b) != 1 or a == b:
            return
        for one, other in ((a, b), (b, a)):
            role = self.axes.role(other[0])
            if role is not None:
                self.axes.bind(one, role)

    def emit(self, op: Op, reads: str, make: Callable[[str], Node], width: int) -> str:
        """Add the node that `make` makes of its name and return that; it reads the value."""
        node = make(self.names.unique(op.name or f"{op.kind}_{op.outputs[0]}"))
        if not self.inverses.keys().isdisjoint(node_reads(node)):
            why = "it reads one over a value, and this is no norm that is known"
            raise op.refuse("inputs", why, "export a model of layers that convert")
        if reads in self.indices and node.OP != "embedding":
            raise op.refuse("input", "integers are read by an embedding only", "use float inputs")
        self.nodes[node.name] = node
        self.widths[node.name] = width
        return node.name

    def row(self, s: Stream, axis: int) -> Stream:
        """The value of one step, inside a loop over the steps, its dimension `axis`."""
        i = axis % len(s.dims)
        self.axes.bind(s.dims[i], Role.TIME)
        self.steps.append(s.dims[i])
        return replace(s, dims=(*s.dims[:i], *s.dims[i + 1 :]))

    def axis(self, label: str, size: int | None, role: Role = Role.FEATURE) -> Dim:
        """A new dimension of that role; one of size 1 has no axis."""
        dim = () if size == 1 else (Atom(label, size),)
        self.axes.bind(dim, role)
        return dim


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


def as_stream(trace: Trace, op: Op, value: Value | None, what: str) -> Stream:
    """The value as the stream. Raises UnsupportedError when it is something else."""
    if isinstance(value, State) and value.stream is not None:
        value = value.stream
    if not isinstance(value, Stream):
        raise op.refuse(what, "is not computed from the model's input", "export a plain chain")
    if value.padded is None:
        return value
    before, after, number = value.padded
    width = trace.width(value)
    name = trace.emit(
        op, value.value, lambda name: Pad(name, value.value, before, after, number), width
    )
    return replace(value, value=name, order=trace.order(value), padded=None)


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
