"""A program of ATen operators as a graph of tensors in ONNX's vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from edge_rnn_converters.recurrence.rows import LEAST
from edge_rnn_converters.refused import TORCH_REFUSED, UNKNOWN
from edge_rnn_converters.source import reading
from edge_rnn_converters.tensors.delays import DELAY
from edge_rnn_converters.tensors.graph import Op, Sizes, TensorGraph, TensorInput
from edge_rnn_converters.torch import cells, layers, moves
from edge_rnn_converters.torch.build import Builder
from edge_rnn_converters.torch.program import Carried, Program, Step, Tensor

OPERATORS = cells.operator.known | layers.operator.known | moves.operator.known
"""Every ATen operator that converts."""

WHOLE = frozenset(OPERATORS) | frozenset(TORCH_REFUSED)
"""Operators that are not taken apart: those that are known, whether or not they convert."""


def translate(program: Program, framework: str) -> TensorGraph:
    """The graph; its outputs are the states' next values, then "output_0", ... in order.

    Raises UnsupportedError naming the operator and argument that can't be run faithfully.
    """
    g = Builder(_loops(program))
    states = [c for c in program.carried if c.delay is None]
    entering = (*program.inputs, *(c.before for c in states))
    for tensor in entering:
        g.values[tensor.name] = g.names.unique(tensor.name)
    for c in program.carried:
        if c.delay is not None:
            g.values[c.before.name] = _delayed(g, c, program.inputs[0])
    for step in _needed(program):
        g.label = step.label
        for tensor, value in zip(step.outputs, _translated(g, step), strict=True):
            g.values[tensor.name] = value
    results = [(f"{c.before.name}_next", c.after) for c in states]
    results += [(f"output_{i}", t) for i, t in enumerate(program.outputs)]
    ends = [Op("Identity", name, (g.value(tensor),), (name,)) for name, tensor in results]
    tensors = (*entering, *(t for step in program.steps for t in step.outputs))
    shapes = {g.values[t.name]: _sizes(t) for t in tensors if t.name in g.values}
    return TensorGraph(
        framework=framework,
        inputs=(*map(_input, program.inputs), *(_input(c.before, c.first) for c in states)),
        outputs=tuple(name for name, _ in results),
        constants=g.constants,
        operators=(*g.operators, *ends),
        shapes=shapes | {name: _sizes(tensor) for name, tensor in results},
    )


def _loops(program: Program) -> frozenset[str]:
    """The recurrent weights that the cells of several steps read."""
    read = Counter(s.arguments["w_hh"].name for s in program.steps if "w_hh" in s.arguments)
    return frozenset(name for name, times in read.items() if times >= LEAST)


def _delayed(g: Builder, carried: Carried, source: Tensor) -> str:
    """A state that is numbers of earlier inputs."""
    g.label = carried.before.name
    steps, places = zip(*(carried.delay or ()), strict=True)
    late = g(DELAY, g.value(source), steps=steps, places=places)
    sizes = [n for n in carried.before.shape if isinstance(n, int)]
    return g("Reshape", late, g.indices(*sizes))


def _translated(g: Builder, step: Step) -> list[str]:
    if step.target not in OPERATORS:
        _, name, overload = step.target.split(".")
        why = TORCH_REFUSED.get(name) or TORCH_REFUSED.get(f"{name}.{overload}") or UNKNOWN
        raise step.refuse("operator", *why)
    with reading(f"{step.target} {step.label!r}"):
        made = OPERATORS[step.target].translate(g, step)
    found = [made] if isinstance(made, str) else list(made)
    return found + [""] * (len(step.outputs) - len(found))


def _input(tensor: Tensor, first: NDArray[Any] | None = None) -> TensorInput:
    return TensorInput(tensor.name, tensor.dtype, _sizes(tensor), first)


def _sizes(tensor: Tensor) -> Sizes:
    return tuple(n if isinstance(n, int) else None for n in tensor.shape)


def _needed(program: Program) -> list[Step]:
    """The steps that the outputs and the states depend on, in order."""
    states = (c.after for c in program.carried if c.delay is None)
    wanted = {t.name for t in (*program.outputs, *states)}
    kept = []
    for step in reversed(program.steps):
        if any(t.name in wanted for t in step.outputs):
            wanted.update(t.name for t in _tensors(step.arguments))
            kept.append(step)
    return kept[::-1]


def _tensors(arguments: Any) -> Iterator[Tensor]:
    if isinstance(arguments, Tensor):
        yield arguments
    elif isinstance(arguments, dict | list):
        for item in arguments.values() if isinstance(arguments, dict) else arguments:
            yield from _tensors(item)
