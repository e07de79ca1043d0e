"""One layer of a description with the arrays that it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from edge_rnn.errors import ConfigError
from edge_rnn.graph import F32, Node
from edge_rnn_converters.gates import Framework
from edge_rnn_converters.weights import names
from edge_rnn_converters.weights.arrays import Arrays, shown
from edge_rnn_converters.weights.schema import Description, Layer

_KERAS_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_KERAS_ROLES: dict[str, dict[str, str]] = {
    "layer_norm": _KERAS_NORM,
    "batch_norm": _KERAS_NORM,
    "rms_norm": {"weight": "scale"},
    "prelu": {"weight": "alpha"},
    "embedding": {"weight": "embeddings"},
}
"""What Keras calls an array that PyTorch calls so."""

_EPSILON = {
    ("pytorch", "rms_norm"): float(np.finfo(np.float32).eps),
    ("keras", "rms_norm"): 1e-6,
    ("keras", "layer_norm"): 1e-3,
    ("keras", "batch_norm"): 1e-3,
}
"""A framework's epsilon where its user gave none; 1e-5 for all others."""


@dataclass(frozen=True, slots=True)
class At:
    """Where a layer stands: it reads the value `source` of `width`, its last node is `name`.

    `channels` at each position where the value is a frame, else 0.
    """

    source: str
    width: int
    name: str
    channels: int = 0

    @property
    def positions(self) -> int:
        """Of a frame; 1 of what is none."""
        return self.width // self.channels if self.channels else 1


Built: TypeAlias = tuple[list[Node], int]
"""A layer's nodes, and the channels of the frame that they make, 0 if it is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The layer of number `index` (from 0): its keys, its arrays by role, their names.

    `label` is how its nodes are called; `used`, the names of the arrays that were asked for.
    """

    description: Description
    index: int
    layout: Framework
    arrays: Mapping[str, F32]
    names: Mapping[str, str]
    label: str
    used: set[str] = field(default_factory=set)

    @property
    def keys(self) -> Layer:
        """What the description says of it."""
        return self.description.layers[self.index]

    def error(self, key: str, problem: str) -> ConfigError:
        """An error about one of its keys."""
        return self.description.error(self.index, key, problem)

    @property
    def kind(self) -> str:
        """Its type."""
        return kind_of(self.keys)

    def weight(self, axes: int) -> F32:
        """The weights of a product with PyTorch's order of axes: (rows, columns[, taps])."""
        role, keras = ("kernel", True) if self.layout == "keras" else ("weight", False)
        w = self.array(role, *[None] * axes)
        return np.ascontiguousarray(w.T) if keras else w

    def vector(self, role: str, size: int, absent: float) -> F32:
        """A vector that PyTorch calls so, or `absent` everywhere where there is none."""
        role = self._role(role)
        return self.array(role, size) if role in self.arrays else np.full(size, absent, np.float32)

    def given(self, role: str, *shape: int | None) -> F32:
        """The array that PyTorch calls so. Raises ConfigError."""
        return self.array(self._role(role), *shape)

    def _role(self, role: str) -> str:
        return _KERAS_ROLES.get(self.kind, {}).get(role, role) if self.layout == "keras" else role

    def epsilon(self, given: float | None) -> float:
        """What was given, or the framework's."""
        return _EPSILON.get((self.layout, self.kind), 1e-5) if given is None else given

    def array(self, role: str, *shape: int | None) -> F32:
        """One of its arrays, of this shape, where None is any number. Raises ConfigError."""
        if role not in self.arrays:
            there = ", ".join(self.names.values()) or "none"
            raise self.error("weights", f"no array is its {role}; those of its name are {there}")
        a = self.arrays[role]
        self.used.add(self.names[role])
        if len(a.shape) != len(shape) or any(
            n is not None and n != m for n, m in zip(shape, a.shape, strict=True)
        ):
            wanted = ", ".join("?" if n is None else str(n) for n in shape)
            raise self.error(
                "weights", f"{self.names[role]} has shape {a.shape}, expected ({wanted})"
            )
        return np.ascontiguousarray(a)


def kind_of(layer: Layer) -> str:
    """Its type in a description."""
    return str(getattr(layer, "TYPE", None) or getattr(layer, "act", ""))


def place(description: Description, index: int, layout: Framework, arrays: Arrays) -> Place:
    """The layer with its arrays. Raises ConfigError that lists the arrays there are."""
    layer = description.layers[index]
    kind, wanted = kind_of(layer), getattr(layer, "weights", None)
    label = wanted if isinstance(wanted, str) and wanted else kind
    roles: Mapping[str, str] = {}
    if isinstance(wanted, dict):
        roles = _levels(wanted)
    elif wanted is not None:
        roles = names.named(_group(description, index, wanted, layout, arrays).roles, kind, layout)
    for name in roles.values():
        if name not in arrays.values:
            raise description.error(index, "weights", f"no array {name!r}; {shown(arrays.values)}")
        if arrays.values[name].dtype != np.float32 and "num_batches" not in name:
            dtype = arrays.values[name].dtype
            raise description.error(index, "weights", f"{name} holds {dtype}, expected fractions")
    found = {role: arrays.values[name] for role, name in roles.items()}
    return Place(description, index, layout, found, roles, label)


def _levels(given: Mapping[str, str]) -> dict[str, str]:
    """Roles of a cell with one layer have its number, 0, too."""
    return {_CELL.sub(r"\1_l0\2", role): name for role, name in given.items()}


_CELL = re.compile("^(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(_reverse)?$")


def _group(
    description: Description, index: int, wanted: str, layout: Framework, arrays: Arrays
) -> names.Group:
    """The arrays under a prefix, or under the one prefix that begins so."""
    every = names.groups(arrays.values, layout)
    exact = [g for g in every if g.prefix == wanted]
    longer = [g for g in every if g.prefix.startswith((f"{wanted}/", f"{wanted}."))]
    found = exact or longer
    if len(found) == 1:
        return found[0]
    problem = f"the arrays of {len(found)} layers begin with {wanted!r}" if found else (
        f"no array's name begins with {wanted!r}"
    )  # fmt: skip
    raise description.error(index, "weights", f"{problem}; {shown(arrays.values)}")
