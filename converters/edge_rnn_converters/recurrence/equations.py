"""Taking the equation of a cell's step apart: gates, what they share, sums of the input and h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_rnn_converters.recurrence.forms import (
    F64,
    Applied,
    Form,
    Lane,
    Product,
    as_products,
)

ODD = ("sigmoid", "hard_sigmoid_keras2", "hard_sigmoid_relu6")
"""Activations with 1 - act(x) = act(-x)."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """The variables of a step: its input `x`, of width I, and its states' elements and next forms.

    A cell has one state, h, or two: h and c, the one that the other follows from.
    """

    x: str
    I: int
    states: Mapping[str, tuple[Lane, Form]]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """w x + u h + b, in float64; what is not there is zero."""

    w: F64
    u: F64
    b: F64


def as_sums(cell: Cell, form: Form, h: Product) -> Sums | None:
    """The form as W x + U h + b; `h` is what U is multiplied by."""
    form = as_products(form, {cell.x, *(lane.source for lane, _ in cell.states.values())})
    affine, n = form.affine(), form.n
    x = Product.of([Lane(cell.x, cell.I, np.arange(cell.I))])
    width = len(h.atoms[0].index) if isinstance(h.atoms[0], Lane) else h.atoms[0].form.n
    zero = {x.key: np.zeros((n, cell.I)), h.key: np.zeros((n, width))}
    if set(form.terms) - {b""} or set(affine.parts) - set(zero):
        return None
    found = {key: affine.parts[key][1] if key in affine.parts else zero[key] for key in zero}
    return Sums(found[x.key], found[h.key], affine.const)


def activation(form: Form) -> tuple[str, Form]:
    """(act, v) where the form is act(v), else itself of the linear one."""
    atom = alone(form)
    return (atom.act, atom.form) if atom is not None else ("linear", form)


def alone(form: Form) -> Applied | None:
    """The activation that the form is."""
    if len(form.terms) != 1:
        return None
    ((product, affine),) = form.terms.values()
    match product.atoms:
        case (Applied() as atom,) if not affine.parts and np.all(affine.const == 1):
            return atom
    return None


def applied(form: Form) -> list[Applied]:
    """The activations that are factors of the form's terms, each once."""
    found = {a.key: a for p, _ in form.terms.values() for a in p.atoms if isinstance(a, Applied)}
    return list(found.values())


def ones(n: int) -> Form:
    """n times 1."""
    return Form.const(np.ones(n))


def other_share(rest: Form, gate: Applied, one_minus: bool) -> Form | None:
    """n of rest = (1 - gate) n, or of rest = gate n."""
    if not one_minus:
        return rest.without(gate)
    free, _ = rest.parted(lambda product: product.without(gate) is None)
    z = Form.atom(rest.n, gate)
    return free if same(ones(rest.n).minus(z).times(free), rest) else None


def factors(form: Form) -> set[bytes]:
    """Keys of all atoms that are factors of the form's terms."""
    return {atom.key for product, _ in form.terms.values() for atom in product.atoms}


def turned_gate(gate: Applied) -> Form | None:
    """v with gate = 1 - act(v)."""
    return gate.form.scaled(np.full(gate.form.n, -1.0)) if gate.act in ODD else None


def same(a: Form, b: Form) -> bool:
    """Equal up to the roundings of the float64 sums that made them."""
    gap = a.minus(b)
    for _, affine in gap.terms.values():
        arrays = [affine.const, *(m for _, m in affine.parts.values())]
        if any(np.abs(m).max(initial=0) > 1e-9 for m in arrays):
            return False
    return True


def cleaned(form: Form) -> Form:
    """Without terms that are what rounding left of a difference."""
    kept = {
        key: (product, affine)
        for key, (product, affine) in form.terms.items()
        if key == b"" or affine.parts or np.abs(affine.const).max(initial=0) > 1e-12
    }
    return Form(form.n, kept)
