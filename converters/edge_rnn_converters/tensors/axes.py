"""An array's dimensions in another order, without ones or with more, and regrouped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from edge_rnn_converters.tensors.values import Atom, Axes, AxisError, Dim, Size, Stream


def transpose(dims: Sequence[Dim], perm: Sequence[int]) -> tuple[Dim, ...]:
    """The dimensions in the order `perm`."""
    return tuple(dims[p] for p in perm)


def squeeze(dims: Sequence[Dim], axes: Sequence[int] | None, roles: Axes) -> tuple[Dim, ...]:
    """The dimensions without `axes`. Without a list, what goes would depend on the data."""
    if axes is None:
        if any(atom.size is None for dim in dims for atom in dim):
            raise AxisError("it names no axes, so which ones go depends on the sizes at run time")
        return tuple(dim for dim in dims if dim)
    gone = {axis % len(dims) for axis in axes}
    for axis in gone:
        roles.drop(dims[axis])
    return tuple(dim for i, dim in enumerate(dims) if i not in gone)


def unsqueeze(dims: Sequence[Dim], axes: Sequence[int]) -> tuple[Dim, ...]:
    """The dimensions with ones put in, so that they stand at `axes` of the result."""
    rank = len(dims) + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(dims)
    return tuple(() if i in new else next(rest) for i in range(rank))


def reshape(stream: Stream, shape: Sequence[Any], zero_copies: bool = True) -> Stream:
    """The axes regrouped to `shape`: ints, `Size`s, one -1, 0 for "as before".

    Axes keep their order, so a dimension takes the next axes whose sizes multiply to its own; an
    axis may be cut in two.
    """
    dims = stream.dims
    cuts: Cuts = {}
    targets = [dims[i] if zero_copies and _is(n, 0) else n for i, n in enumerate(shape)]
    free = next((i for i, n in enumerate(targets) if _is(n, -1)), len(targets))
    atoms = [atom for dim in dims for atom in dim]
    head = [_take(atoms, n, cuts, inner=False) for n in targets[:free]]
    atoms.reverse()
    tail = [_take(atoms, n, cuts, inner=True)[::-1] for n in reversed(targets[free + 1 :])][::-1]
    rest = tuple(reversed(atoms))
    if free == len(targets) and rest:
        raise AxisError(f"the axes {list(rest)} have no place in the new shape")
    regrouped = (*head, *([rest] if free < len(targets) else []), *tail)
    return replace(stream, dims=regrouped, order=_cut_up(stream.order, cuts))


Cuts: TypeAlias = dict[Atom, Dim]
"""Which parts, outer first, an axis was cut into."""


def _is(n: Any, value: int) -> bool:
    return not isinstance(n, Size | tuple) and int(n) == value


def _take(atoms: list[Atom], n: Any, cuts: Cuts, *, inner: bool) -> Dim:
    """The next axes that make a dimension of size n, taken off the list; `inner`: it goes from
    the innermost axis outwards."""
    wanted = n.dim if isinstance(n, Size) else n if isinstance(n, tuple) else None
    if wanted is not None:
        taken = tuple(atoms[: len(wanted)])
        if set(taken) != set(wanted):
            raise AxisError(f"the axes {list(wanted)} are not next to each other there")
        del atoms[: len(wanted)]
        return taken
    taken, left = (), int(n)
    while left > 1 and atoms:
        atom = atoms.pop(0)
        if atom.size is None:
            raise AxisError(f"whether {atom} has {n} elements depends on the sizes at run time")
        size = atom.size
        if size > left and size % left == 0:
            atom, rest = _cut(atom, left, cuts, inner=inner)
            atoms.insert(0, rest)
            size = left
        if left % size:
            break
        taken, left = (*taken, atom), left // size
    if left != 1:
        raise AxisError(f"no axes multiply to {n}")
    return taken


def _cut(atom: Atom, size: int, cuts: Cuts, *, inner: bool) -> tuple[Atom, Atom]:
    """The axis as (the part of that size, the rest)."""
    assert atom.size is not None  # noqa: S101 - its caller looked
    part = Atom(f"{size} of {atom}", size, atom)
    rest = Atom(f"{atom.size // size} of {atom}", atom.size // size, atom)
    cuts[atom] = (rest, part) if inner else (part, rest)
    return part, rest


def _cut_up(order: Dim, cuts: Cuts) -> Dim:
    """The axes with those that were cut as their parts."""
    return sum((_cut_up(cuts[a], cuts) if a in cuts else (a,) for a in order), ())
