"""A description made from the arrays: what can be told from their names and shapes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edge_rnn.errors import ModelError
from edge_rnn_converters.gates import Framework
from edge_rnn_converters.weights.arrays import Arrays
from edge_rnn_converters.weights.names import Group, groups, kind, named
from edge_rnn_converters.weights.schema import LAYERS

_TOP = """\
# The network that the arrays in {file} are of. Its layers are here in the order of the
# arrays: put them in the order in which they compute, and add those that have no arrays, as
#     [[layer]]
#     type = "relu"        # or softmax, l2_norm, max_pool, ...
# and, where the first layer's arrays don't tell, above the layers how many numbers a message has:
#     input = 6
"""
_HINTS = {
    "conv1d": '# activation = "relu"\n# frame = true           # inside one message, not over time',
    "linear": '# activation = "relu"',
    "rnn": 'activation = "tanh"      # or "relu"? the arrays don\'t tell',
}


@dataclass(frozen=True, slots=True)
class Guess:
    """A description as TOML; `sure`: no other network has these arrays."""

    text: str
    sure: bool


def guess(arrays: Arrays, layout: Framework, told: Mapping[str, Any]) -> Guess:
    """The layers of these arrays in their order; `told` is what a config.json says.

    Sure is one recurrent layer of PyTorch, with an embedding before it or without: any other
    layer has an activation after it, or an order, that arrays don't tell.
    """
    found = groups(arrays.values, layout)
    kinds = [kind(g, arrays.values, layout) for g in found]
    lines = [_TOP.format(file=arrays.file), *_told(told), f'layout = "{layout}"']
    unknown = [
        name for g, k in zip(found, kinds, strict=True) if k is None for name in g.roles.values()
    ]
    if unknown:
        lines.append(f"ignore = {_value(unknown)}    # of no layer that is known")
    for group, what in zip(found, kinds, strict=True):
        if what is not None:
            lines += ["", *_layer(group, what, arrays, layout)]
    sure = layout == "pytorch" and kinds in (["lstm"], ["gru"], ["embedding", "lstm"],
                                             ["embedding", "gru"])  # fmt: skip
    return Guess("\n".join([*lines, ""]), sure and _long_names(found[-1]))


def _long_names(group: Group) -> bool:
    """Are they PyTorch's own? Who shortens them may have changed the gates' order too."""
    return all("weight_" in name or "bias_" in name for name in group.roles.values())


def _told(told: Mapping[str, Any]) -> Iterator[str]:
    facts = {k: v for k, v in told.items() if isinstance(v, str | int | float) and len(str(v)) < 60}
    if facts:
        yield "# config.json says: " + ", ".join(f"{k} {v}" for k, v in facts.items())


def _layer(group: Group, what: str, arrays: Arrays, layout: Framework) -> Iterator[str]:
    yield "[[layer]]"
    yield f"type = {_value(what)}"
    for name in group.roles.values():
        yield f"#   {name} {arrays.values[name].shape}"
    if group.prefix:
        yield f"weights = {_value(group.prefix)}"
    else:
        yield f"weights = {_table(named(group.roles, what, layout))}"
    if hint := _HINTS.get(what):
        yield hint


def network(line: str, arrays: Arrays, layout: Framework) -> str:
    """The description that a line means, as "conv1d stride=2, relu, lstm, linear": a layer takes
    the arrays of its type, or those that it names; `input=6` stands between commas too.

    Raises ModelError where a type has no arrays, or several that it doesn't choose from.
    """
    items = [item.split() for item in line.split(",")]
    head = [words for words in items if words and "=" in words[0]]
    lines = [_pair(pair) for words in head for pair in words]
    told = tomllib.loads("\n".join(lines))
    arrays, layout = arrays.under(told.get("prefix")), told.get("layout", layout)
    for words in items:
        if words and "=" not in words[0]:
            lines += ["[[layer]]", f"type = {_value(words[0])}", *map(_pair, words[1:])]
            lines += _taken(words, arrays, layout)
    return "\n".join([*lines, ""])


def _taken(words: list[str], arrays: Arrays, layout: Framework) -> Iterator[str]:
    """The line that names the arrays of a layer which has some and doesn't name them itself."""
    what, *keys = words
    if what not in LAYERS or "weights" not in LAYERS[what].__dataclass_fields__:
        return
    if any(key.startswith("weights=") for key in keys):
        return
    found = groups(arrays.values, layout)
    kinds = [kind(g, arrays.values, layout) for g in found]
    fit = [g for g, k in zip(found, kinds, strict=True) if k in _ALIKE.get(what, (what,))]
    if len(fit) != 1:
        there = ", ".join(f"{g.prefix} ({k or '?'})" for g, k in zip(found, kinds, strict=True))
        raise ModelError(
            f"{arrays.file}: {len(fit)} layers have arrays that look like {what}; say which, as in "
            f"'{what} weights=NAME': {there}"
        )
    yield f"weights = {_table(named(fit[0].roles, what, layout))}"


_ALIKE = {"layer_norm": ("layer_norm",), "prelu": (None,), "rms_norm": (None,), "embedding":
          ("embedding", None)}  # fmt: skip
"""The layers whose arrays look like nothing in particular."""


def _pair(pair: str) -> str:
    key, _, value = pair.partition("=")
    try:
        tomllib.loads(f"v = {value}")
    except tomllib.TOMLDecodeError:
        value = _value(value)
    return f"{key} = {value}"


def _value(value: str | Iterable[str]) -> str:
    if not isinstance(value, str):
        return f"[{', '.join(map(_value, value))}]"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _table(names: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{role} = {_value(name)}" for role, name in names.items()) + " }"
