"""One step of a recurrent network in a normal form, in which what is equal looks equal.

A vector of n numbers is a sum of terms, each an affine vector times, element by element, a product
of atoms. An atom is an input or a state, or an activation of a vector. So matrix products, biases,
slices and joins fall together in whichever order a framework had them, and differences are exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

F64: TypeAlias = NDArray[np.float64]
Lanes: TypeAlias = NDArray[np.int64]


MAX_WEIGHT = 4096
"""Atoms in a vector, counted through all that they are activations of."""


MAX_TERMS = 64


class FormError(ValueError):
    """A step computes what no cell here does; the text is the reason of a refusal."""


@dataclass(frozen=True, eq=False)
class Lane:
    """Elements `index` of the input or state `source`, which has `size` of them."""

    source: str
    size: int
    index: Lanes

    @cached_property
    def key(self) -> bytes:
        """Equal for equal atoms."""
        return _digest(b"lane", self.source.encode(), self.index.tobytes())

    @property
    def weight(self) -> int:
        """How many atoms it takes to write it down."""
        return 1

    def take(self, index: Lanes) -> Lane:
        """Some of its elements."""
        return Lane(self.source, self.size, self.index[index])

    @property
    def whole(self) -> Lane:
        """All elements of its source."""
        return Lane(self.source, self.size, np.arange(self.size))


@dataclass(frozen=True, eq=False)
class Applied:
    """An activation, by our name, of every element of a vector."""

    act: str
    form: Form

    @cached_property
    def key(self) -> bytes:
        """Equal for equal atoms."""
        return _digest(b"act", self.act.encode(), self.form.key)

    @property
    def weight(self) -> int:
        """How many atoms it takes to write it down."""
        return 1 + self.form.weight

    def take(self, index: Lanes) -> Applied:
        """Some of its elements."""
        return Applied(self.act, self.form.take(index))


Atom: TypeAlias = Lane | Applied


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Atoms multiplied element by element; of none, ones."""

    atoms: tuple[Atom, ...] = ()
    key: bytes = b""

    @classmethod
    def of(cls, atoms: Iterable[Atom]) -> Product:
        """The product, the same for any order of the atoms."""
        keyed = sorted((atom.key, n, atom) for n, atom in enumerate(atoms))
        return cls(tuple(a for _, _, a in keyed), b"".join(key for key, _, _ in keyed))

    def take(self, index: Lanes) -> Product:
        """Some of its elements."""
        return Product.of(atom.take(index) for atom in self.atoms)

    def without(self, atom: Atom) -> Product | None:
        """The product of all other atoms, None where this one is not in it."""
        keys = [a.key for a in self.atoms]
        if atom.key not in keys:
            return None
        at = keys.index(atom.key)
        return Product.of(self.atoms[:at] + self.atoms[at + 1 :])


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """const + the sum over `parts` of matrix @ vector, each vector a product of atoms."""

    const: F64
    parts: Mapping[bytes, tuple[Product, F64]] = field(default_factory=dict)

    def plus(self, other: Affine) -> Affine:
        """The sum."""
        parts = dict(self.parts)
        for key, (vector, matrix) in other.parts.items():
            parts[key] = (vector, parts[key][1] + matrix if key in parts else matrix)
        return Affine(self.const + other.const, parts)

    def times(self, scale: F64) -> Affine:
        """Each row times a number."""
        parts = {k: (v, m * scale[:, None]) for k, (v, m) in self.parts.items()}
        return Affine(self.const * scale, parts)

    def take(self, index: Lanes) -> Affine:
        """Some of the rows."""
        parts = {k: (v, m[index]) for k, (v, m) in self.parts.items()}
        return Affine(self.const[index], parts)

    @property
    def zero(self) -> bool:
        """Is it zero whatever the atoms are?"""
        return not self.const.any() and not any(m.any() for _, m in self.parts.values())


@dataclass(frozen=True, eq=False)
class Form:
    """A vector of n numbers: the sum of its terms, affine vector times product of atoms."""

    n: int
    terms: Mapping[bytes, tuple[Product, Affine]]

    @classmethod
    def const(cls, values: F64) -> Form:
        """A vector of numbers."""
        return cls(len(values), _kept({b"": (Product(), Affine(values))}))

    @classmethod
    def atom(cls, n: int, *atoms: Atom) -> Form:
        """A product of atoms."""
        product = Product.of(atoms)
        return cls(n, {product.key: (product, Affine(np.ones(n)))})

    @cached_property
    def key(self) -> bytes:
        """Equal for equal vectors."""
        parts = []
        for key, (_, affine) in sorted(self.terms.items()):
            parts += [key, _numbers(affine.const)]
            for vector, (_, matrix) in sorted(affine.parts.items()):
                parts += [vector, _numbers(matrix)]
        return _digest(b"form", *parts)

    @cached_property
    def weight(self) -> int:
        """How many atoms it takes to write it down. Raises FormError above MAX_WEIGHT."""
        total = sum(1 + atom.weight for product in self.products() for atom in product.atoms)
        if total > MAX_WEIGHT:
            raise FormError("it nests more operators than any cell does")
        return total

    def products(self) -> Iterator[Product]:
        """Every product of atoms in it, of its terms and of what matrices are multiplied by."""
        for product, affine in self.terms.values():
            yield product
            yield from (vector for vector, _ in affine.parts.values())

    def affine(self, product: Product = Product()) -> Affine:
        """What this product of atoms is multiplied by."""
        return self.terms.get(product.key, (product, Affine(np.zeros(self.n))))[1]

    def plus(self, other: Form) -> Form:
        """The sum."""
        terms = dict(self.terms)
        for key, (product, affine) in other.terms.items():
            terms[key] = (product, terms[key][1].plus(affine) if key in terms else affine)
        return Form(self.n, _kept(terms))

    def scaled(self, scale: F64) -> Form:
        """Each element times a number."""
        return Form(self.n, _kept({k: (p, a.times(scale)) for k, (p, a) in self.terms.items()}))

    def minus(self, other: Form) -> Form:
        """The difference."""
        return self.plus(other.scaled(np.full(other.n, -1.0)))

    def times(self, other: Form) -> Form:
        """The product, element by element. Raises FormError where two matrix products meet."""
        if len(self.terms) * len(other.terms) > MAX_TERMS:
            raise FormError("it multiplies longer sums than any cell does")
        total = Form(self.n, {})
        for p, a in self.terms.values():
            for q, b in other.terms.values():
                if a.parts and b.parts:
                    raise FormError("it multiplies one matrix product by another")
                affine = a.times(b.const) if a.parts else b.times(a.const)
                product = Product.of(p.atoms + q.atoms)
                total = total.plus(Form(self.n, {product.key: (product, affine)}))
        return total

    def take(self, index: Lanes) -> Form:
        """Some of its elements."""
        total = Form(len(index), {})
        for product, affine in self.terms.values():
            taken = product.take(index)
            total = total.plus(Form(len(index), {taken.key: (taken, affine.take(index))}))
        return total

    def product(self, w: F64) -> Form:
        """w @ self, w (m, n)."""
        total = Form(len(w), {})
        for product, affine in self.terms.values():
            total = total.plus(
                Form(len(w), _kept({b"": (Product(), _applied(w, product, affine))}))
            )
        return total

    def without(self, atom: Atom) -> Form | None:
        """self = atom * the result, None where a term lacks the atom."""
        terms = {}
        for product, affine in self.terms.values():
            rest = product.without(atom)
            if rest is None:
                return None
            terms[rest.key] = (rest, affine)
        return Form(self.n, terms)

    def parted(self, keep: Callable[[Product], bool]) -> tuple[Form, Form]:
        """The terms whose product `keep` accepts, and the others."""
        kept = {k: t for k, t in self.terms.items() if keep(t[0])}
        return Form(self.n, kept), Form(
            self.n, {k: t for k, t in self.terms.items() if k not in kept}
        )


def _applied(w: F64, product: Product, affine: Affine) -> Affine:
    """w @ (affine * product) as an affine vector of its own."""
    if not product.atoms:
        parts = {k: (v, w @ m) for k, (v, m) in affine.parts.items()}
        return Affine(w @ affine.const, parts)
    if affine.parts:
        raise FormError("it multiplies a gated matrix product by a matrix again")
    vector, matrix = _spread(product, w * affine.const)
    return Affine(np.zeros(len(w)), {vector.key: (vector, matrix)})


def _spread(vector: Product, matrix: F64) -> tuple[Product, F64]:
    """Elements of an input or a state as all of it, with columns of zeros for the others."""
    match vector.atoms:
        case (Lane() as lane,):
            wide = np.zeros((len(matrix), lane.size))
            np.add.at(wide.T, lane.index, matrix.T)
            return Product.of([lane.whole]), wide
    return vector, matrix


def as_products(form: Form, sources: set[str]) -> Form:
    """Terms that are elements of one of these sources times numbers, as matrix products."""
    total = Form(form.n, {})
    for product, affine in form.terms.values():
        match product.atoms:
            case (Lane(source=source),) if source in sources and not affine.parts:
                vector, matrix = _spread(product, np.diag(affine.const))
                affine = Affine(np.zeros(form.n), {vector.key: (vector, matrix)})
                product = Product()
        total = total.plus(Form(form.n, {product.key: (product, affine)}))
    return total


def sources(form: Form) -> set[str]:
    """The inputs and states that the vector depends on."""
    return {lane.source for lane in lanes(form)}


def lanes(form: Form) -> Iterator[Lane]:
    """Every input or state in the vector, however deep."""
    for product in form.products():
        for atom in product.atoms:
            if isinstance(atom, Lane):
                yield atom
            else:
                yield from lanes(atom.form)


def _kept(terms: Mapping[bytes, tuple[Product, Affine]]) -> dict[bytes, tuple[Product, Affine]]:
    """The terms that are not zero."""
    return {k: (p, a) for k, (p, a) in terms.items() if not a.zero}


def _numbers(a: F64) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(a + 0.0).tobytes(), digest_size=16).digest()


def _digest(*parts: bytes) -> bytes:
    def update(h: hashlib.blake2b, part: bytes) -> hashlib.blake2b:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
        return h

    return reduce(update, parts, hashlib.blake2b(digest_size=16)).digest()
