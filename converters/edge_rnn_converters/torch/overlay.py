"""Recordings of the same operators, laid over each other.

A number that is the same in all of them is a number; one that differs is `Open`, known by how it
follows the sizes of the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edge_rnn_converters.source import Names, refuse
from edge_rnn_converters.torch.program import Carried, Extent, Open, Program, Step, Tensor
from edge_rnn_converters.torch.record import Call, Round, Value, values


class DifferentError(Exception):
    """Two recordings are not of the same operators."""


def lay(rounds: Sequence[Round], names: Sequence[str], labels: dict[int, str]) -> Program:
    """One program of all rounds; `names` are of the inputs, `labels` of parameters by their ids.

    Raises DifferentError where the rounds do not run the same operators on the same numbers.
    """
    return _Overlay(rounds, labels).program(names)


@dataclass(slots=True)
class _Overlay:
    """Recordings of the same operators, laid over each other; the first one gives the numbers."""

    rounds: Sequence[Round]
    labels: dict[int, str]
    made: dict[Any, Tensor] = field(default_factory=dict)
    before: dict[Any, Tensor] = field(default_factory=dict)
    constants: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    taken: Names = field(default_factory=Names)

    def program(self, names: Sequence[str]) -> Program:
        columns = [self._same([r.inputs[i] for r in self.rounds], name)
                   for i, name in enumerate(names)]  # fmt: skip
        if len({len(r.calls) for r in self.rounds}) > 1:
            raise DifferentError("the number of operators")
        steps = [self._step([r.calls[i] for r in self.rounds])
                 for i in range(len(self.rounds[0].calls))]  # fmt: skip
        outputs = [self._value([r.outputs[i] for r in self.rounds])
                   for i in range(len(self.rounds[0].outputs))]  # fmt: skip
        return Program(tuple(columns), tuple(steps), tuple(outputs), self._carried())

    def _step(self, calls: Sequence[Call]) -> Step:
        first = calls[0]
        if len({(c.target, len(c.outputs)) for c in calls}) > 1:
            raise DifferentError(f"operator {first.target}")
        arguments = {name: self._argument([c.arguments[name] for c in calls], first)
                     for name in first.arguments}  # fmt: skip
        label = self._label(first)
        outputs = [self._same([c.outputs[i] for c in calls], label)
                   for i in range(len(first.outputs))]  # fmt: skip
        return Step(first.target, label, arguments, tuple(outputs))

    def _argument(self, seen: Sequence[Any], call: Call) -> Any:
        first = seen[0]
        if len({type(a) for a in seen}) > 1:
            raise DifferentError(f"operator {call.target}")
        if isinstance(first, Value):
            return self._value(seen)
        if isinstance(first, list):
            if len({len(a) for a in seen}) > 1:
                raise DifferentError(f"operator {call.target}")
            return [self._argument(items, call) for items in zip(*seen, strict=True)]
        if all(a == first for a in seen):
            return first
        if type(first) is int:
            return Open(tuple(seen))
        raise DifferentError(f"operator {call.target}")

    def _value(self, seen: Sequence[Value]) -> Tensor:
        """The tensor that was read, in each of the rounds."""
        first = seen[0]
        ages = {(v.varies, v.key, r.number - v.round if v.varies else 0)
                for v, r in zip(seen, self.rounds, strict=True)}  # fmt: skip
        if len(ages) > 1:
            raise DifferentError("where an operator takes its input from")
        if not first.varies:
            return self._constant(seen)
        age = self.rounds[0].number - first.round
        if age > 1:
            why = "a call reads what another than the one before it left"
            raise refuse("model", "state", why, "keep one state, written at each call")
        if age == 1:
            if first.key not in self.before:
                self.before[first.key] = self._made(seen, "state")
            return self.before[first.key]
        return self.made[first.key]

    def _same(self, seen: Sequence[Value], name: str) -> Tensor:
        """A tensor that the rounds make."""
        if len({(v.varies, v.key, v.tensor.dtype, v.tensor.dim()) for v in seen}) > 1:
            raise DifferentError(f"what {name!r} makes")
        made = self.made[seen[0].key] = self._made(seen, name)
        return made

    def _made(self, seen: Sequence[Value], name: str) -> Tensor:
        shape = tuple(_extent(sizes) for sizes in zip(*(v.tensor.shape for v in seen), strict=True))
        return Tensor(self.taken.unique(name), shape, _dtype(seen[0].tensor))

    def _constant(self, seen: Sequence[Value]) -> Tensor:
        """Equal in all rounds, or of sizes that differ and elements that are all one number."""
        import torch

        first = seen[0].tensor
        key = tuple(id(v.tensor) for v in seen)
        if key in self.constants:
            return self.constants[key]
        made = self._made(seen, self.labels.get(id(first), "constant"))
        if all(torch.equal(v.tensor, first) for v in seen):
            array = first.detach().contiguous().numpy()
        elif len(made.shape) and _is_one_number([v.tensor for v in seen]):
            array = first.detach().flatten()[0].numpy()
        else:
            raise DifferentError("a tensor that no operator made")
        self.constants[key] = made = replace(made, array=array)
        return made

    def _label(self, call: Call) -> str:
        """A name for what the call makes: that of the module whose weights it reads."""
        own = (self.labels.get(id(v.tensor), "") for v in values(call.arguments) if not v.varies)
        module = next((name.rpartition(".")[0] for name in own if name), "")
        return module or call.target.split(".")[1]

    def _carried(self) -> tuple[Carried, ...]:
        return tuple(Carried(t, self.made[key], key) for key, t in self.before.items())


def _extent(sizes: Sequence[int]) -> Extent:
    return sizes[0] if len(set(sizes)) == 1 else Open(tuple(sizes))


def _is_one_number(tensors: Sequence[Any]) -> bool:
    """Tensors of different shapes whose elements are all the same."""
    shapes = {tuple(t.shape) for t in tensors}
    numbers = {float(n) for t in tensors if t.numel() for n in (t.min(), t.max())}
    return len(shapes) > 1 and len(numbers) == 1


def _dtype(tensor: Any) -> np.dtype[Any]:
    """numpy's type of the tensor's elements. Raises UnsupportedError where it has none."""
    name = str(tensor.dtype).removeprefix("torch.")
    try:
        return np.dtype(name)
    except TypeError as e:
        why = "is not a type that edge-rnn reads"
        raise refuse("model", f"tensor of {name}", why, "convert the model in float32") from e
