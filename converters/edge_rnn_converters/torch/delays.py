"""States that are only numbers of earlier inputs: followed element by element through moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from edge_rnn_converters.torch import moves
from edge_rnn_converters.torch.record import Round, Value, replay, values

Delay: TypeAlias = tuple[tuple[int, int], ...]
"""For each element: how many calls ago it was given, and its place in the input."""

_MOVES = frozenset(moves.operator.known) - {
    "aten.pad.default", "aten.constant_pad_nd.default", "aten.reflection_pad1d.default",
    "aten.replication_pad1d.default",
}  # fmt: skip
_Key: TypeAlias = tuple[Any, ...]


def delays(round: Round, carried: Sequence[Value]) -> dict[_Key | None, Delay]:
    """Those of the carried values that are delays of the one input, by their keys."""
    import torch

    if len(round.inputs) != 1:
        return {}
    given = round.inputs[0]
    codes = {given.key: torch.arange(given.tensor.numel()).reshape(given.tensor.shape)}
    origin: list[tuple[_Key | None, int]] = [(None, i) for i in range(given.tensor.numel())]
    before = {}
    for v in carried:
        n = v.tensor.numel()
        before[v.key] = (len(origin) + torch.arange(n)).reshape(v.tensor.shape)
        origin += [(v.key, i) for i in range(n)]
    after = {v.key: _followed(round, v.key, codes, before) for v in carried}
    found: dict[_Key | None, Delay] = {}
    for key, places in after.items():
        steps = None if places is None else [_resolved(p, origin, after) for p in places]
        if steps is not None and all(steps):
            found[key] = tuple(s for s in steps if s)
    return found


def _followed(
    round: Round, key: _Key | None, codes: dict[Any, Any], before: dict[Any, Any]
) -> list[int] | None:
    """Which element each element of the value at `key` is; None if it is computed."""
    wanted, needed = {key}, []
    for call in reversed(round.calls):
        if any(v.key in wanted for v in call.outputs):
            if call.target not in _MOVES:
                return None
            reads = [v for v in values(call.arguments) if v.varies]
            if not all(v.varies for v in values(call.arguments)):
                return None
            wanted.update(v.key for v in reads if v.round == round.number)
            needed.append(call)
    now = dict(codes)
    for call in reversed(needed):
        arguments = {k: a for k, a in call.arguments.items() if k not in ("dtype", "device")}
        made = replay(
            call, lambda v: (now if v.round == round.number else before)[v.key], arguments
        )
        now.update({v.key: t for v, t in zip(call.outputs, made, strict=True)})
    return [int(n) for n in now[key].flatten()] if key in now else None


def _resolved(
    place: int, origin: Sequence[tuple[_Key | None, int]], after: dict[Any, Any]
) -> tuple[int, int] | None:
    """(calls ago, place in the input), through as many calls as the element was kept."""
    for ago in range(1, len(origin) + 2):
        key, i = origin[place]
        if key is None:
            return ago, i
        if after[key] is None:
            return None
        place = after[key][i]
    return None
