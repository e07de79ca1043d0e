"""A SavedModel's graph, functions and signatures: read in pure Python, nothing of it executed.

See tensorflow/core/protobuf/{saved_model,meta_graph,saved_object_graph}.proto and
tensorflow/core/framework/{graph,function,node_def,attr_value}.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn_converters import wire
from edge_rnn_converters.bundle import Object, objects

FILE = "saved_model.pb"
_MAX_FILE = 256 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """An operation; `functions` are those that its attributes name, `raw` its bytes."""

    name: str
    op: str
    inputs: tuple[str, ...]
    functions: tuple[str, ...]
    raw: memoryview


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the library: its nodes, and its bytes."""

    nodes: tuple[Node, ...]
    raw: memoryview


@dataclass(frozen=True, slots=True)
class Tensor:
    """An argument or result of a signature: its `key` there, the node that it is in the graph and
    which of that node's results, TensorFlow's number for its type, its sizes, None where one is
    open, or where all are."""

    key: str
    node: str
    index: int
    dtype: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a SavedModel can be asked for, by name."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class SavedGraph:
    """The first graph of a SavedModel: nodes and functions by name, the objects that hang at each
    other, and the numbers of those that a function has bound to its last arguments."""

    version: str
    nodes: dict[str, Node]
    functions: dict[str, Function]
    signatures: dict[str, Signature]
    objects: tuple[Object, ...]
    bound: dict[str, tuple[int, ...]]
    versions: tuple[memoryview, ...]


def load(folder: Path) -> SavedGraph:
    """The graph in a folder. Raises ModelError for a damaged file or none, UnsupportedError where
    it is too large, and ValueError where protocol buffers are damaged."""
    path = folder / FILE
    if path.stat().st_size > _MAX_FILE:
        raise UnsupportedError(f"{FILE}: more than the {_MAX_FILE} bytes that are read")
    meta = next(wire.messages(memoryview(path.read_bytes()), 2), None)
    if meta is None:
        raise ModelError(f"{FILE}: holds no graph")
    graph, saved = _whole(meta, 2), _whole(meta, 7)
    library = _whole(graph, 2)
    return SavedGraph(
        wire.text(_whole(meta, 1), 5),
        {node.name: node for node in _nodes(graph, 1)},
        dict(_function(raw) for raw in wire.messages(library, 1)),
        {key: _signature(value) for key, value in _entries(meta, 5)},
        objects(saved),
        {key: tuple(wire.wholes(value, 2)) for key, value in _entries(saved, 2)},
        tuple(wire.messages(graph, 4)),
    )


def assembled(saved: SavedGraph, nodes: Iterable[Node], functions: Iterable[str]) -> bytes:
    """A GraphDef of these nodes and functions and of nothing else."""
    library = b"".join(wire.message(1, saved.functions[name].raw) for name in functions)
    graph = b"".join(wire.message(1, node.raw) for node in nodes)
    versions = b"".join(wire.message(4, version) for version in saved.versions)
    return b"".join([graph, wire.message(2, library), versions])


def _whole(data: memoryview, number: int) -> memoryview:
    """A field's message: protocol buffers merge the parts of one that comes several times."""
    parts = list(wire.messages(data, number))
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _entries(data: memoryview, number: int) -> Iterator[tuple[str, memoryview]]:
    """The keys and values of a map of messages."""
    for entry in wire.messages(data, number):
        yield wire.text(entry, 1), _whole(entry, 2)


def _nodes(data: memoryview, number: int) -> Iterator[Node]:
    for raw in wire.messages(data, number):
        inputs = tuple(str(name, "utf-8") for name in wire.messages(raw, 3))
        functions = (name for _, value in _entries(raw, 5) for name in _named(value))
        yield Node(wire.text(raw, 1), wire.text(raw, 2), inputs, tuple(functions), raw)


def _function(raw: memoryview) -> tuple[str, Function]:
    return wire.text(_whole(raw, 1), 1), Function(tuple(_nodes(raw, 3)), raw)


def _named(value: memoryview) -> Iterator[str]:
    """The functions that an attribute's value names, those inside of their attributes too."""
    inside = (func for many in wire.messages(value, 1) for func in wire.messages(many, 9))
    for func in (*wire.messages(value, 10), *inside):
        yield wire.text(func, 1)
        for _, attribute in _entries(func, 2):
            yield from _named(attribute)


def _signature(data: memoryview) -> Signature:
    inputs, outputs = (
        tuple(_tensor(key, value) for key, value in _entries(data, number)) for number in (1, 2)
    )
    return Signature(inputs, outputs)


def _tensor(key: str, data: memoryview) -> Tensor:
    node, _, index = wire.text(data, 1).partition(":")
    shape = _whole(data, 3)
    sizes = (wire.signed(wire.whole(dim, 1)) for dim in wire.messages(shape, 2))
    known = tuple(None if n < 0 else n for n in sizes)
    return Tensor(key, node, int(index or 0), wire.whole(data, 2),
                  None if wire.whole(shape, 3) else known)  # fmt: skip
