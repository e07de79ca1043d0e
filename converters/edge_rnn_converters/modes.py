"""How a converted model is used: as a stream that goes on, or window by window."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal, TypeAlias

from edge_rnn.graph import AHEAD, Model, Window
from edge_rnn_converters.source import LAST_ONLY, WINDOW, Source, refuse

Mode: TypeAlias = Literal["continuous"] | Window

_WAY_OUT = (
    "give it windows with --mode tumbling --window N, or --mode sliding --window N --hop K; in "
    "Python mode=Window(N, K)"
)
_OWN = (
    "{!r} looks ahead, so the model answers when a window is whole: {}, as the source is made for; "
    "--mode sliding --window {} --hop K answers every K messages"
)
_OTHER = "the source is made for windows of {} steps, this model for {}"


def in_mode(source: Source, mode: Mode | None) -> tuple[Model, tuple[str, ...]]:
    """The source's model with the window of the mode, and the source's notes that hold then.

    None is continuous; for a model that looks ahead it is the source's own window, tumbling.

    Raises UnsupportedError, naming the node that looks ahead, where that has no window.
    """
    model, own = source.model, source.regime.window
    ahead = next((n for n in model.nodes if isinstance(n, AHEAD)), None)
    if mode is None and ahead is not None and own is not None:
        window = Window(own, own)
        return replace(model, window=window), (
            *_lasting(source), _OWN.format(ahead.name, window, own)
        )  # fmt: skip
    if isinstance(mode, Window):
        other = own is not None and own > 1 and own != mode.length
        notes = [_OTHER.format(own, mode.length)] if other else []
        return replace(model, window=mode), (*_lasting(source), *notes)
    if ahead is not None:
        why = "looks ahead: it needs messages that a stream does not have yet"
        raise refuse(f"layer {ahead.name!r}", ahead.OP, why, _WAY_OUT)
    return model, source.notes


def _lasting(source: Source) -> tuple[str, ...]:
    """The notes that are not about streams without windows."""
    patterns = [re.escape(note).replace(r"\{\}", ".*") for note in (LAST_ONLY, WINDOW)]
    return tuple(n for n in source.notes if not any(re.fullmatch(p, n, re.S) for p in patterns))


def described(model: Model) -> str:
    """The mode of a converted model, for a report."""
    return "continuous" if model.window is None else str(model.window)
