"""Which arrays belong to one layer: by their names, and by their shapes which layer that is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edge_rnn_converters.gates import Framework

_END = r"(?:^|[./_])(?:{})$"
_ROLES: dict[Framework, re.Pattern[str]] = {
    "pytorch": re.compile(
        _END.format(
            r"(?P<short>w|b|weight|bias)_(?P<of>ih|hh|hr)(?:_l(?P<level>\d+))?(?P<back>_reverse)?|"
            r"(?P<plain>weight|bias|w|b|running_mean|running_var|num_batches_tracked)"
        )
    ),
    "keras": re.compile(
        _END.format(
            r"vars/(?P<number>\d)|"
            r"(?P<plain>recurrent_kernel|kernel|bias|gamma|beta|moving_mean|moving_variance|"
            r"embeddings|alpha|scale)(?::0)?"
        )
    ),
    "onnx": re.compile(_END.format(r"(?P<plain>W|R|B|weight|bias)")),
}
_LONG = {"w": "weight", "b": "bias"}
ORDERED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("rnn", "lstm", "gru"), ("kernel", "recurrent_kernel", "bias")),
    **dict.fromkeys(("linear", "conv1d"), ("kernel", "bias")),
    "embedding": ("embeddings",),
    "prelu": ("alpha",),
    "layer_norm": ("gamma", "beta"),
    "rms_norm": ("scale",),
    "batch_norm": ("gamma", "beta", "moving_mean", "moving_variance"),
}
"""Keras 3 numbers a layer's arrays in this order."""


@dataclass(frozen=True, slots=True)
class Group:
    """Arrays whose names begin alike: role -> name. A role is what PyTorch, Keras or ONNX calls
    the array (`weight_ih_l0`, `kernel`, `W`); that of an array with no such name is ''."""

    prefix: str
    roles: Mapping[str, str]


def groups(names: Mapping[str, Any], layout: Framework) -> list[Group]:
    """All arrays, in the file's order."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        match = _ROLES[layout].search(name)
        prefix, role = (name[: match.start()], _role(match)) if match else (name, "")
        found.setdefault(prefix, {})[role] = name
    return [Group(prefix, roles) for prefix, roles in found.items()]


def _role(match: re.Match[str]) -> str:
    part = match.groupdict()
    if part.get("of"):
        level, back = part["level"] or "0", part["back"] or ""
        return f"{_LONG.get(part['short'], part['short'])}_{part['of']}_l{level}{back}"
    if part.get("number"):
        return str(part["number"])
    return _LONG.get(part["plain"], part["plain"])


def named(roles: Mapping[str, str], kind: str, layout: Framework) -> dict[str, str]:
    """Roles of a layer of this kind: numbers get their names, and an array alone its only one."""
    order = ORDERED.get(kind, ()) if layout == "keras" else ()
    alone = order[0] if order else "weight"
    return {
        order[int(role)] if role.isdigit() and int(role) < len(order) else role or alone: name
        for role, name in roles.items()
    }


def kind(group: Group, values: Mapping[str, NDArray[Any]], layout: Framework) -> str | None:
    """The type of layer that arrays of these names and shapes are of, None where unsure."""
    at = {role: values[name] for role, name in group.roles.items()}
    if layout == "keras":
        return _keras_kind(at)
    if layout == "onnx" and "R" in at:
        return _cell(at["R"].shape[-2], at["R"].shape[-1]) if at["R"].ndim == 3 else None
    if "weight_hh_l0" in at:
        projection = at.get("weight_hr_l0")
        hidden = at["weight_hh_l0"] if projection is None else projection
        return _cell(at["weight_hh_l0"].shape[0], hidden.shape[-1])
    w = at.get("weight", at.get(""))
    if w is None:
        return None
    if w.ndim == 1:
        norm = "batch_norm" if "running_mean" in at else "layer_norm" if "bias" in at else None
        return norm if len(w) > 1 else None
    if w.ndim == 2 and "bias" not in at:
        return "embedding" if "emb" in group.prefix.lower() else None
    return {2: "linear", 3: "conv1d"}.get(w.ndim)


def _keras_kind(at: Mapping[str, NDArray[Any]]) -> str | None:
    u = at.get("recurrent_kernel", at.get("1"))
    w = at.get("kernel", at.get("0"))
    if u is not None and u.ndim == 2:
        return _cell(u.shape[1], u.shape[0])
    if "embeddings" in at:
        return "embedding"
    if "gamma" in at or (w is not None and w.ndim == 1):
        return "batch_norm" if {"moving_mean", "3"} & at.keys() else "layer_norm"
    return None if w is None else {2: "linear", 3: "conv1d"}.get(w.ndim)


def _cell(rows: int, hidden: int) -> str | None:
    """By how many gates there are: rows of the recurrent weights to a hidden unit."""
    return {hidden: "rnn", 3 * hidden: "gru", 4 * hidden: "lstm"}.get(rows)
