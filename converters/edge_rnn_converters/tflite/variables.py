"""Resource variables: what a file keeps from one run to the next is its stream's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn_converters.refused import UNKNOWN
from edge_rnn_converters.source import refuse
from edge_rnn_converters.tensors.graph import needed
from edge_rnn_converters.tflite.file import Operator
from edge_rnn_converters.tflite.translate import Translation, operator

_DOC = "as the state of the stream"


@dataclass(frozen=True, slots=True)
class Kept:
    """A state that the file keeps: its value before a run and after it, its shape."""

    before: str
    after: str
    shape: tuple[int, ...]


@operator("VAR_HANDLE", _DOC)
def _handle(t: Translation, o: Operator) -> None:
    t.handles[o.outputs[0]] = _shared(o)


def _shared(o: Operator) -> str:
    name = o.options.get("sharedName") or b""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


@operator("READ_VARIABLE", _DOC)
def _read(t: Translation, o: Operator) -> None:
    """What was assigned before it in the graph, else what is there before the run."""
    variable = t.handles[o.inputs[0]]
    if variable not in t.assigned:
        t.kept.setdefault(variable, t.names.unique(f"variable {variable}"))
    source = t.assigned.get(variable, t.kept.get(variable, ""))
    t.op(o, "Identity", source, to=[t.name(o.outputs[0])])


@operator("ASSIGN_VARIABLE", _DOC)
def _assign(t: Translation, o: Operator) -> None:
    t.assigned[t.handles[o.inputs[0]]] = t.name(o.inputs[1])


@operator("CALL_ONCE", "zeros assigned to variables")
def _call_once(t: Translation, o: Operator) -> None:
    index = int(o.options["initSubgraphIndex"])
    if not 0 < index < len(t.file.graphs):
        raise t.refuse(o, "graph", "is no graph of the file", "convert it again")
    inner = Translation(t.file, t.file.graphs[index])
    for op in inner.graph.operators:
        if op.kind not in ("VAR_HANDLE", "ASSIGN_VARIABLE"):
            raise t.refuse(o, f"{op.kind} in it", *UNKNOWN)
        (_handle if op.kind == "VAR_HANDLE" else _assign)(inner, op)
    t.initial.update(
        {v: inner.constants[n] for v, n in inner.assigned.items() if n in inner.constants}
    )


def close(t: Translation, results: tuple[str, ...]) -> list[Kept]:
    """The states that the results depend on, from run to run.

    A variable that is read and never assigned is a constant. Raises UnsupportedError for a state
    that does not start from zeros.
    """
    wanted, kept = results, {}
    for _ in range(len(t.kept) + 1):
        read = {name for op in needed(tuple(t.operators), wanted) for name in op.inputs}
        kept = {v: name for v, name in t.kept.items() if name in read}
        wanted = (*results, *(t.assigned[v] for v in kept if v in t.assigned))
    for variable, name in kept.items():
        if variable not in t.assigned:
            t.constants[name] = _initial(t, variable)
    states = [v for v in kept if v in t.assigned]
    return [Kept(kept[v], t.assigned[v], _zeros(t, v).shape) for v in states] + _tensors(t)


def _tensors(t: Translation) -> list[Kept]:
    return [Kept(before, after, shape) for before, (after, shape) in t.variables.items()]


def _initial(t: Translation, variable: str) -> NDArray[Any]:
    if variable not in t.initial:
        why = "gets no value before the first run"
        raise refuse(f"variable {variable!r}", "value", why, "convert the Keras model itself")
    return t.initial[variable]


def _zeros(t: Translation, variable: str) -> NDArray[Any]:
    value = _initial(t, variable)
    if np.any(value):
        why = "does not start from zeros, as a new stream does"
        raise refuse(f"variable {variable!r}", "value", why, "train with a zero initial state")
    return value
