"""Which cell a step in normal form is: each one's equation, solved for its weights.

A cell is found by taking its equation apart: the term with the old state names the gate, what is
left over the candidate. The equation is then put together again and must be the same, term for
term. The nodes' docstrings have the equations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_rnn.graph import F32, CoupledLstm, Gru, Lstm, Matrix, MinGru, Node, Rnn, tensors
from edge_rnn_converters.recurrence.equations import (
    ODD,
    Cell,
    Sums,
    activation,
    alone,
    applied,
    as_sums,
    cleaned,
    factors,
    ones,
    other_share,
    same,
    turned_gate,
)
from edge_rnn_converters.recurrence.forms import F64, Applied, Form, FormError, Lane, Product


def match(cell: Cell) -> tuple[Node, tuple[str, ...]]:
    """The node, its weights in float64, and the names of the states that are its h [and c].

    Raises FormError where the equations are those of no cell.
    """
    found = next(_candidates(cell), None)
    if found is None:
        raise FormError("no cell has these equations")
    return found


def _candidates(cell: Cell) -> Iterator[tuple[Node, tuple[str, ...]]]:
    names = list(cell.states)
    if len(names) == 1:
        h, after = cell.states[names[0]]
        for kind in (_gru, _rnn):
            node = kind(cell, h, after)
            if node is not None:
                yield node, (names[0],)
    if len(names) == 2:
        for hidden, carried in (names, names[::-1]):
            node = _lstm(cell, cell.states[hidden], cell.states[carried])
            if node is not None:
                yield node, (hidden, carried)


def _rnn(cell: Cell, h: Lane, after: Form) -> Node | None:
    act, inner = activation(after)
    sums = as_sums(cell, inner, Product.of([h]))
    if sums is None or not sums.u.any():
        return None
    return Rnn("", cell.x, Matrix(sums.w), Matrix(sums.u), _f32(sums.b), act)  # type: ignore[arg-type]


def _gru(cell: Cell, h: Lane, after: Form) -> Node | None:
    """h' = (1 - z) n + z h, or with the gate's other sign z n + (1 - z) h."""
    n = after.n
    for gate in applied(after):
        z, H = Form.atom(n, gate), Form.atom(n, h)
        for keeps in (z, ones(n).minus(z)):
            rest = after.minus(keeps.times(H))
            candidate = other_share(rest, gate, keeps is z)
            if candidate is None or h.key in factors(candidate):
                continue
            form = gate.form if keeps is z else turned_gate(gate)
            node = None if form is None else _gated(cell, h, gate.act, form, candidate)
            if node is not None:
                return node
    return None


def _gated(cell: Cell, h: Lane, act: str, z: Form, candidate: Form) -> Node | None:
    zs = as_sums(cell, z, Product.of([h]))
    kind, inner = activation(candidate)
    if zs is None:
        return None
    for reset in _resets(inner):
        found = _after(cell, h, reset, inner) or _before(cell, h, reset, inner)
        rs = as_sums(cell, reset.form, Product.of([h]))
        if found is None or rs is None or reset.act != act:
            continue
        where, n, rb = found
        w, u = np.concatenate([zs.w, rs.w, n.w]), np.concatenate([zs.u, rs.u, n.u])
        b = np.concatenate([zs.b, rs.b, n.b])
        return Gru("", cell.x, Matrix(w), Matrix(u), _f32(b), _f32(rb), where, act, kind)  # type: ignore[arg-type]
    return _minimal(cell, h, act, zs, candidate)


def _minimal(cell: Cell, h: Lane, act: str, zs: Sums, candidate: Form) -> Node | None:
    """h' = (1 - z) n + z h is minGRU's (1 - z') h + z' n with z' = 1 - z."""
    kind, inner = activation(candidate)
    n = as_sums(cell, inner, Product.of([h]))
    if n is None or n.u.any() or zs.u.any() or act not in ODD:
        return None
    w, b = np.concatenate([-zs.w, n.w]), np.concatenate([-zs.b, n.b])
    return MinGru("", cell.x, Matrix(w), _f32(b), act, kind)  # type: ignore[arg-type]


def _resets(form: Form) -> list[Applied]:
    """The activations that multiply a part of the form, or of what a matrix is multiplied by."""
    atoms = {a.key: a for p in form.products() for a in p.atoms if isinstance(a, Applied)}
    return list(atoms.values())


def _after(cell: Cell, h: Lane, reset: Applied, form: Form) -> tuple[str, Sums, F64] | None:
    """W x + b + r (U h + rb)."""
    free, gated = form.parted(lambda product: product.without(reset) is None)
    inner = gated.without(reset)
    x, u = as_sums(cell, free, Product.of([h])), inner and as_sums(cell, inner, Product.of([h]))
    if x is None or not u or x.u.any() or u.w.any():
        return None
    return "after", replace(x, u=u.u), u.b


def _before(cell: Cell, h: Lane, reset: Applied, form: Form) -> tuple[str, Sums, F64] | None:
    """W x + U (r h) + b."""
    sums = as_sums(cell, form, Product.of([h, reset]))
    return None if sums is None or not sums.u.any() else ("before", sums, np.zeros(form.n))


def _lstm(cell: Cell, hidden: tuple[Lane, Form], carried: tuple[Lane, Form]) -> Node | None:
    (h, h_after), (c, c_after) = hidden, carried
    for gates in _cell_gates(c, c_after):
        for o, act, projection in _output_gates(h_after, c_after):
            node = _assembled(cell, h, c, c_after, gates, o, act)
            if node is not None:
                weights = None if projection is None else Matrix(projection)
                return replace(node, projection=weights)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Gates:
    """act of the gates, i and f before it (None: f = 1 - i), the candidate."""

    act: str
    i: Form
    f: Form | None
    g: Form


def _cell_gates(c: Lane, after: Form) -> Iterator[_Gates]:
    """c' = f c + i g; with f = 1 - i; with i = 1 - f."""
    n, C = after.n, Form.atom(after.n, c)
    for gate in applied(after):
        z = Form.atom(n, gate)
        rest = after.minus(z.times(C))
        for i in applied(rest):
            g = rest.without(i)
            if g is not None and i.act == gate.act and c.key not in factors(g):
                yield _Gates(gate.act, i.form, gate.form, g)
        turned, g = turned_gate(gate), other_share(rest, gate, True)
        if turned is not None and g is not None and c.key not in factors(g):
            yield _Gates(gate.act, turned, None, g)
        g = after.minus(ones(n).minus(z).times(C)).without(gate)
        if g is not None and c.key not in factors(g):
            yield _Gates(gate.act, gate.form, None, g)


def _output_gates(after: Form, c_after: Form) -> Iterator[tuple[Applied, str, F64 | None]]:
    """(o, hidden, P) of h' = o hidden(c'), or of P times that."""
    whole, projection = after, None
    parts = list(after.affine().parts.values())
    if len(after.terms) == 1 and len(parts) == 1 and not after.affine().const.any():
        ((product, projection),) = parts
        whole = Form.atom(projection.shape[1], *product.atoms)
    for o in applied(whole):
        seen = whole.without(o)
        inner = None if seen is None else alone(seen)
        if inner is not None and inner.form.n == c_after.n and same(inner.form, c_after):
            yield o, inner.act, projection
        elif seen is not None and seen.n == c_after.n and same(seen, c_after):
            yield o, "linear", projection


def _assembled(
    cell: Cell, h: Lane, c: Lane, c_after: Form, gates: _Gates, o: Applied, hidden: str
) -> Lstm | None:
    old = Form.atom(c_after.n, c)
    candidate, g_form = activation(gates.g)
    looking = [_look(cell, h, form, old) for form in (gates.i, gates.f) if form is not None]
    sums = [*looking, _look(cell, h, o.form, c_after)]
    g = as_sums(cell, g_form, Product.of([h]))
    if o.act != gates.act or g is None or any(s is None for s in sums):
        return None
    blocks = [s[0] for s in sums if s is not None]
    blocks.insert(len(looking), g)
    peephole = np.concatenate([s[1] for s in sums if s is not None])
    w, u, b = (np.concatenate([getattr(s, a) for s in blocks]) for a in ("w", "u", "b"))
    kind = CoupledLstm if gates.f is None else Lstm
    return kind(
        "", cell.x, Matrix(w), Matrix(u), _f32(b), gates.act, candidate, hidden,  # type: ignore[arg-type]
        peephole=_f32(peephole) if peephole.any() else None,
    )  # fmt: skip


def _look(cell: Cell, h: Lane, form: Form, c: Form) -> tuple[Sums, F64] | None:
    """(sums, p) of W x + U h + b + p c, where c may be a form itself."""
    key = next(iter(c.terms))
    there = form.terms[key][1] if key in form.terms else None
    p = np.zeros(form.n)
    if there is not None and not there.parts and c.n == form.n:
        p = there.const / c.terms[key][1].const if np.all(c.terms[key][1].const) else p
    rest = form.minus(c.scaled(p)) if p.any() else form
    sums = as_sums(cell, cleaned(rest), Product.of([h]))
    return None if sums is None else (sums, p)


def _f32(a: F64) -> F32:
    return a  # type: ignore[return-value] # rounded once the cell is proven


def rounded(node: Node) -> Node:
    """The node with its weights in float32."""
    weights: dict[str, Any] = {
        name: Matrix(np.ascontiguousarray(t.data, np.float32))
        if isinstance(t, Matrix)
        else np.ascontiguousarray(t, np.float32)
        for name, _, t in tensors(node)
    }
    return replace(node, **weights)
