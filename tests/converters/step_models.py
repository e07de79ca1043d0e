"""Steps of recurrent cells written with primitive operators, to be recognised."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edge_rnn_converters.recurrence.recognise import Step, StepState
from edge_rnn_converters.tensors.graph import Op


@dataclass
class Writer:
    """Writes operators one by one; a value is its name."""

    inputs: int
    states: dict[str, int]
    ops: list[Op] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = tuple(f"v{len(self.ops)}_{i}" for i in range(outputs))
        self.ops.append(Op(kind, f"the {kind}", inputs, names, attributes))
        return names[0]

    def parts(self, value: str, n: int) -> tuple[str, ...]:
        self.op("Split", value, outputs=n, axis=1)
        return self.ops[-1].outputs

    def product(self, x: str, w: np.ndarray) -> str:
        """w x, w (N, K)."""
        return self.op("MatMul", x, self.constant(w.T))

    def add(self, *values: str) -> str:
        total = values[0]
        for value in values[1:]:
            total = self.op("Add", total, value)
        return total

    def mul(self, a: str, b: str) -> str:
        return self.op("Mul", a, b)

    def less(self, value: str) -> str:
        """1 - value."""
        return self.op("Sub", self.constant(1.0), value)

    def sigmoid(self, value: str) -> str:
        return self.op("Sigmoid", value)

    def tanh(self, value: str) -> str:
        return self.op("Tanh", value)

    def step(self, after: dict[str, str], *outputs: str) -> Step:
        states = tuple(StepState(n, (1, width), after[n]) for n, width in self.states.items())
        x = ("x", (1, self.inputs))
        return Step("the loop", tuple(self.ops), self.constants, x, states, outputs)
