"""Layer normalization as Keras 3 writes it out, in the order in which it is recognised.

x m + (c - mean m), where m is one over the deviation times the gain, is (x - mean) / deviation
times the gain plus c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_rnn_converters.tensors.graph import Op
from edge_rnn_converters.tflite.translate import Translation


def in_order(t: Translation) -> tuple[Op, ...]:
    """The translation's operators, those of such norms in the other order."""
    makers = {name: op for op in t.operators for name in op.outputs}
    centred = {op.inputs: op.outputs[0] for op in t.operators if op.kind == "Sub"}
    return tuple(new for op in t.operators for new in _factored(t, op, makers, centred) or (op,))


def _factored(
    t: Translation, op: Op, makers: Mapping[str, Op], centred: Mapping[tuple[str, ...], str]
) -> list[Op]:
    """What makes the same as the sum `op`, [] where that is no such norm's last step."""
    if op.kind != "Add":
        return []
    for scaled, rest in (op.inputs, op.inputs[::-1]):
        for bias, mean, factor in _shifts(t, rest, makers):
            inverse, gain = _gained(t, factor, makers)
            x = _other(makers.get(scaled), factor)
            if inverse and (x, mean) in centred:
                return _steps(t, op, [centred[x, mean], inverse, gain, bias])
    return []


def _steps(t: Translation, op: Op, values: list[str]) -> list[Op]:
    centred, inverse, gain, bias = values
    normal, gained = (t.names.unique(f"{op.outputs[0]} {part}") for part in ("normal", "gained"))
    last = Op("Add", op.name, (gained, bias), op.outputs, {})
    return [
        Op("Mul", op.name, (centred, inverse), (normal,), {}),
        Op("Mul", op.name, (normal, gain), (gained,) if bias else op.outputs, {}),
        *([last] if bias else []),
    ]


def _shifts(t: Translation, name: str, makers: Mapping[str, Op]) -> Iterator[tuple[str, ...]]:
    """(bias, mean, factor) where the value is bias - mean factor; "" for no bias."""
    op = makers.get(name)
    if op is None:
        return
    if op.kind == "Sub" and op.inputs[0] in t.constants:
        yield from ((op.inputs[0], *pair) for pair in _factors(op.inputs[1], makers))
    sums = (op.inputs, op.inputs[::-1]) if op.kind == "Add" else ()
    for bias, product in [("", name), *(pair for pair in sums if pair[0] in t.constants)]:
        for minus, factor in _factors(product, makers):
            negated = makers.get(minus)
            if negated is not None and negated.kind == "Neg":
                yield bias, negated.inputs[0], factor


def _factors(name: str, makers: Mapping[str, Op]) -> list[tuple[str, ...]]:
    """A product's factors, either first."""
    op = makers.get(name)
    return [op.inputs, op.inputs[::-1]] if op is not None and op.kind == "Mul" else []


def _gained(t: Translation, factor: str, makers: Mapping[str, Op]) -> tuple[str, ...]:
    """(what is not constant, the constant) that the factor is the product of."""
    found = (pair for pair in _factors(factor, makers) if pair[1] in t.constants)
    return next(found, ("", ""))


def _other(op: Op | None, factor: str) -> str:
    """What the product multiplies by the factor."""
    if op is None or op.kind != "Mul" or factor not in op.inputs:
        return ""
    return op.inputs[1] if op.inputs[0] == factor else op.inputs[0]
