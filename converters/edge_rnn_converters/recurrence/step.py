"""Runs the operators of one step, on numbers or on forms.

An array of forms is an array of numbers, one for each element: operators that move elements are
then NumPy's own on both, and exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn import reference
from edge_rnn.graph import Act
from edge_rnn_converters import gates
from edge_rnn_converters.recurrence.forms import F64, Applied, Form, FormError, Lane
from edge_rnn_converters.recurrence.moves import MOVES, Array
from edge_rnn_converters.tensors.graph import Op

MAX_ELEMENTS = 1 << 22
"""Numbers in an array of a step, or in a sequence that it reads."""


@dataclass(frozen=True, slots=True, eq=False)
class Symbols:
    """An array whose elements are of forms, each by its number in a `Space`."""

    ids: NDArray[np.int64]


Value: TypeAlias = "Array | Symbols"


@dataclass(slots=True)
class Space:
    """The elements of all forms made so far, numbered."""

    forms: list[Form] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    end: int = 0

    def add(self, form: Form) -> NDArray[np.int64]:
        """The numbers of a new form's elements, (n,)."""
        _ = form.weight  # refuses one that is too large
        self.forms.append(form)
        self.starts.append(self.end)
        self.end += form.n
        return np.arange(self.end - form.n, self.end)

    def lane(self, name: str, shape: tuple[int, ...]) -> Symbols:
        """An input or a state of this shape."""
        n = math.prod(shape)
        if not 0 < n <= MAX_ELEMENTS:
            raise FormError(f"{name!r} has {n} elements")
        return Symbols(self.add(Form.atom(n, Lane(name, n, np.arange(n)))).reshape(shape))

    def symbols(self, value: Value) -> Symbols:
        """The value as symbols; an array of numbers becomes a form."""
        if isinstance(value, Symbols):
            return value
        a = np.asarray(value, np.float64)
        return Symbols(self.add(Form.const(a.ravel())).reshape(a.shape))

    def runs(self, ids: NDArray[np.int64]) -> list[tuple[int, int]]:
        """(start, stop) of the stretches of ids (n,) that are elements of one form each."""
        owner = np.searchsorted(self.starts, ids, "right")
        cuts = np.flatnonzero(np.diff(owner)) + 1
        edges = [0, *cuts.tolist(), len(ids)]
        return list(pairwise(edges))

    def form(self, ids: NDArray[np.int64]) -> Form:
        """The form of one such stretch."""
        k = int(np.searchsorted(self.starts, ids[0], "right")) - 1
        lanes, form = ids - self.starts[k], self.forms[k]
        whole = len(lanes) == form.n and np.array_equal(lanes, np.arange(form.n))
        return form if whole else form.take(lanes)

    def pieces(self, *values: NDArray[np.int64]) -> list[tuple[Form, ...]]:
        """The arrays (n,) cut wherever one of them goes on to another form."""
        edges = sorted({edge for ids in values for run in self.runs(ids) for edge in run})
        return [tuple(self.form(ids[a:b]) for ids in values) for a, b in pairwise(edges)]


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Operators of one step with the constants that they read."""

    operators: tuple[Op, ...]
    constants: Mapping[str, Array]

    def run(self, space: Space, values: Mapping[str, Value]) -> dict[str, Value]:
        """Every value by name, from those given.

        Raises UnsupportedError naming an operator that is not one of a cell.
        """
        constants = {name: _wide(a) for name, a in self.constants.items()}
        known: dict[str, Value] = {**constants, **values}
        for op in self.operators:
            if op.outputs[0] in values:
                continue
            missing = [name for name in op.inputs if name and name not in known]
            if missing:
                why = f"{missing[0]!r} is computed of more than a step and the states before it"
                raise op.refuse("inputs", why, "export with a batch of one, and no open batch")
            args = [known[name] if name else None for name in op.inputs]
            try:
                with np.errstate(all="ignore"):
                    results = _run(space, op, args)
            except FormError as e:
                raise op.refuse("operator", str(e), WAY_OUT) from e
            known.update(zip(op.outputs, results, strict=False))
        return known


def _wide(a: Array) -> Array:
    return a.astype(np.float64) if a.dtype.kind == "f" else a


WAY_OUT = "build the model with the framework's own RNN, LSTM or GRU layers"


def _run(space: Space, op: Op, args: Sequence[Value | None]) -> Sequence[Value]:
    if op.kind in MOVES:
        return _moved(space, op, args)
    symbolic = any(isinstance(a, Symbols) for a in args)
    if op.kind in _SUMS:
        return [_SUMS[op.kind](space, op, *args) if symbolic else _numbers(op, args)]
    if op.kind in ("MatMul", "Gemm"):
        return [_product(space, op, args)]
    if op.kind in _INTEGERS and not symbolic:
        return [np.asarray(_INTEGERS[op.kind](*args))]
    if op.kind == "ConstantOfShape" and not symbolic:
        return [np.full(np.asarray(args[0]), np.asarray(op.attributes.get("value", 0.0)).flat[0])]
    act = _act(op, args)
    if act is not None:
        return [_activated(space, act, args[0])]
    raise op.refuse("operator", "is in the way: no recurrent cell known here has it", WAY_OUT)


_INTEGERS: dict[str, Callable[..., Any]] = {
    "Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater, "Equal": np.equal,
    "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or,
    "Not": np.logical_not, "Where": np.where, "Min": np.minimum, "Max": np.maximum,
}  # fmt: skip
_NUMPY: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Neg": np.negative,
}  # fmt: skip


def _numbers(op: Op, args: Sequence[Any]) -> Array:
    if op.kind != "Div":
        return np.asarray(_NUMPY[op.kind](*args))
    whole = np.asarray(args[0]).dtype.kind in "iu"
    return np.asarray(args[0] // args[1] if whole else args[0] / args[1])


def _binary(combine: Callable[[Form, Form], Form]) -> Callable[..., Value]:
    def run(space: Space, op: Op, a: Value, b: Value) -> Value:
        left, right = space.symbols(a).ids, space.symbols(b).ids
        if math.prod(np.broadcast_shapes(left.shape, right.shape)) > MAX_ELEMENTS:
            raise FormError("it makes more numbers than any cell does")
        both = np.broadcast_arrays(left, right)
        pieces = space.pieces(*(ids.ravel() for ids in both))
        ids = [space.add(combine(*pair)) for pair in pieces]
        return Symbols(np.concatenate(ids).reshape(both[0].shape))

    return run


def _negated(space: Space, op: Op, a: Value) -> Value:
    return _binary(Form.minus)(space, op, np.zeros(()), a)


def _divided(space: Space, op: Op, a: Value, b: Value) -> Value:
    if isinstance(b, Symbols) or not np.all(b):
        raise FormError("it divides by the input, the state or zero")
    return _binary(Form.times)(space, op, a, 1 / np.asarray(b, np.float64))


_SUMS: dict[str, Callable[..., Value]] = {
    "Add": _binary(Form.plus), "Sub": _binary(Form.minus), "Mul": _binary(Form.times),
    "Neg": _negated, "Div": _divided,
}  # fmt: skip


def _product(space: Space, op: Op, args: Sequence[Value | None]) -> Value:
    """MatMul and Gemm of a vector by a constant, from either side."""
    a, b = (
        _turned(v, op.integer(t, 0)) for v, t in zip(args[:2], ("transA", "transB"), strict=True)
    )
    left = not isinstance(a, Symbols)
    if left and not isinstance(b, Symbols):
        y: Value = np.matmul(a, b) * op.number("alpha", 1)
    else:
        vector, w = (b, a) if left else (a, b)
        if isinstance(w, Symbols) or not isinstance(vector, Symbols):
            raise FormError("it multiplies two values that both depend on the input or the state")
        y = _by_constant(space, vector, w * op.number("alpha", 1), left)
    if len(args) < 3 or args[2] is None:
        return y
    c, beta = args[2], np.array(op.number("beta", 1))
    if not isinstance(y, Symbols) and not isinstance(c, Symbols):
        return np.asarray(y + beta * c)
    return _binary(Form.plus)(space, op, y, _binary(Form.times)(space, op, c, beta))


def _turned(value: Value | None, transposed: int) -> Any:
    if not transposed:
        return value
    return Symbols(value.ids.T) if isinstance(value, Symbols) else np.asarray(value).T


def _by_constant(space: Space, vector: Symbols, w: Array, left: bool) -> Symbols:
    """w @ vector, a column, where the constant is on the left; else vector @ w, a row."""
    plain = np.asarray(w, np.float64).reshape(w.shape[-2:])
    matrix: F64 = plain if left else plain.T
    ids = vector.ids.ravel()
    if len(ids) != matrix.shape[1]:
        raise FormError(f"it multiplies {len(ids)} numbers by a matrix of {matrix.shape[1]}")
    total = Form(len(matrix), {})
    for a, b in space.runs(ids):
        total = total.plus(space.form(ids[a:b]).product(matrix[:, a:b]))
    shape: tuple[int, ...] = vector.ids.shape
    kept = (*shape[:-2], len(matrix), shape[-1]) if left else (*shape[:-1], len(matrix))
    return Symbols(space.add(total).reshape(kept))


def _act(op: Op, args: Sequence[Value | None]) -> Act | None:
    """Our name of the activation that this operator is."""
    if op.kind == "Clip":
        low, high = (
            None if len(args) <= i or args[i] is None else float(np.asarray(args[i]))
            for i in (1, 2)
        )
        return {(0.0, 6.0): "relu6", (-1.0, 1.0): "hard_tanh", (0.0, None): "relu"}.get((low, high))  # type: ignore[return-value, arg-type]
    default = gates.ONNX_PARAMETERS.get(op.kind.lower(), (None, None))
    alpha, beta = (op.number(n, d or 0) for n, d in zip(("alpha", "beta"), default, strict=True))
    return gates.onnx_act(op.kind, alpha, beta)


def _activated(space: Space, act: Act, value: Value | None) -> Value:
    if not isinstance(value, Symbols):
        return reference.activate(act, np.asarray(value, np.float64))
    forms = [form for (form,) in space.pieces(value.ids.ravel())]
    ids = [space.add(Form.atom(form.n, Applied(act, form))) for form in forms]
    return Symbols(np.concatenate(ids).reshape(value.ids.shape))


def _moved(space: Space, op: Op, args: Sequence[Value | None]) -> Sequence[Value]:
    """NumPy's move, of numbers or of the numbers of elements."""
    if op.kind == "Cast" and np.dtype(op.attributes["to"]).kind != "f":
        return [_integers(args[0], np.dtype(op.attributes["to"]))]
    moving = args if op.kind == "Concat" else args[:1]
    if not any(isinstance(a, Symbols) for a in moving):
        return [np.asarray(a) for a in MOVES[op.kind](op, *args)]
    if any(isinstance(a, Symbols) for a in args[len(moving) :]):
        raise FormError("where it takes elements from depends on the input or the state")
    ids = [space.symbols(a).ids for a in moving if a is not None]
    results = MOVES[op.kind](op, *ids, *args[len(moving) :])
    if op.kind == "Shape":
        return list(results)
    return [Symbols(np.asarray(ids)) for ids in results]


def moved_inputs(op: Op) -> tuple[str, ...]:
    """Those whose elements the operator moves or computes with; not where it moves them to."""
    return op.inputs[:1] if op.kind in MOVES and op.kind != "Concat" else op.inputs


def _integers(value: Value | None, dtype: np.dtype[Any]) -> Array:
    if isinstance(value, Symbols):
        raise FormError("it makes integers of the input or the state")
    return np.asarray(value).astype(dtype)
