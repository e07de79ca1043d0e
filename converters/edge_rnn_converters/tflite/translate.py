"""A TFLite graph's operators as those of ONNX: the same numbers, TFLite's conventions resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.refused import TFLITE_REFUSED, UNKNOWN
from edge_rnn_converters.source import Names, refuse
from edge_rnn_converters.tensors.graph import Op, Sizes
from edge_rnn_converters.tflite.file import Operator, SubGraph, Tensor, TfliteFile, values

END = (1 << 31) - 1
"""An end beyond every axis."""

_FUSED = {1: "Relu", 2: "Clip", 3: "Clip", 4: "Tanh"}
_CLIPS = {2: (-1.0, 1.0), 3: (0.0, 6.0)}


@dataclass(slots=True)
class Translation:
    """One graph of a file on its way: operators so far, constants by name.

    What the file keeps from run to run: `variables`, tensors, by the value before a run the value
    after it and its shape; and resources: `handles` are their names by the tensor that stands for
    one, `initial` their first values, `kept` the value of one before a run, `assigned` after it.
    """

    file: TfliteFile
    graph: SubGraph
    names: Names = field(default_factory=Names)
    operators: list[Op] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    variables: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    handles: dict[int, str] = field(default_factory=dict)
    initial: dict[str, NDArray[Any]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    assigned: dict[str, str] = field(default_factory=dict)
    _values: dict[int, str] = field(default_factory=dict)

    def name(self, number: int) -> str:
        """The value of a tensor; "" for one left out. A constant is entered when it is named."""
        if number < 0:
            return ""
        if number not in self._values:
            tensor = self.graph.tensors[number]
            self._values[number] = self.names.unique(tensor.name or f"tensor {number}")
            found = values(tensor)
            if found is not None:
                self.constants[self._values[number]] = found
        return self._values[number]

    def shapes(self) -> dict[str, Sizes]:
        """The shapes of the values that are named and have fixed ones."""
        found = {name: self.tensor(number).shape for number, name in self._values.items()}
        return {name: sizes for name, sizes in found.items() if all(sizes)}

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A new constant."""
        name = self.names.unique("constant")
        self.constants[name] = np.asarray(value, dtype)
        return name

    def known(self, o: Operator, index: int, what: str) -> NDArray[Any]:
        """An operator's input as a constant. Raises UnsupportedError where it is none."""
        number = o.inputs[index] if index < len(o.inputs) else -1
        if number < 0 or (value := self.constants.get(self.name(number))) is None:
            raise self.refuse(o, what, "is not a constant", "convert it with its value in the file")
        return value

    def tensor(self, number: int) -> Tensor:
        """A tensor by its number."""
        return self.graph.tensors[number]

    def label(self, o: Operator) -> str:
        """What a user may know the operator by: the tensor that it makes."""
        return self.tensor(o.outputs[0]).name if o.outputs else ""

    def refuse(self, o: Operator, attribute: str, why: str, way_out: str) -> UnsupportedError:
        """The refusal of an operator for what `attribute` holds."""
        return refuse(f"{o.kind} {self.label(o)!r}", attribute, why, way_out)

    def op(
        self,
        o: Operator,
        kind: str,
        *inputs: str,
        to: Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Add an operator; it makes new values, or those named by `to`. Returns the first."""
        outputs = tuple(to) if to is not None else (self.names.unique(f"{self.label(o)} {kind}"),)
        self.operators.append(Op(kind, self.label(o), inputs, outputs, attributes))
        return outputs[0]

    def result(self, o: Operator, kind: str, *inputs: str, **attributes: Any) -> None:
        """Add the operator that makes o's result, but for the activation fused into o."""
        fused = int(o.options.get("fusedActivationFunction", 0))
        y = self.name(o.outputs[0])
        if not fused:
            self.op(o, kind, *inputs, to=[y], **attributes)
            return
        if fused not in _FUSED:
            raise self.refuse(o, f"fused activation {fused}", *UNKNOWN)
        value = self.op(o, kind, *inputs, **attributes)
        bounds = [self.constant(b, np.float32) for b in _CLIPS.get(fused, ())]
        self.op(o, _FUSED[fused], value, *bounds, to=[y])


Handler: TypeAlias = Callable[[Translation, Operator], None]


@dataclass(frozen=True, slots=True)
class KnownOperator:
    """An operator that converts: how, and what the manual says of it."""

    run: Handler
    doc: str


KNOWN: dict[str, KnownOperator] = {}
"""Every operator that is translated."""


def operator(kinds: str, doc: str = "") -> Callable[[Handler], Handler]:
    """Register the decorated handler for these operators."""

    def register(run: Handler) -> Handler:
        KNOWN.update({kind: KnownOperator(run, doc) for kind in kinds.split()})
        return run

    return register


def translate(t: Translation) -> Translation:
    """The translation with all operators of its graph.

    Raises UnsupportedError naming an operator that has no translation.
    """
    for o in t.graph.operators:
        known = KNOWN.get(o.kind)
        if known is None:
            raise t.refuse(o, "operator", *TFLITE_REFUSED.get(o.kind, UNKNOWN))
        known.run(t, o)
    return t
