"""The values of a signature's variables, read from the checkpoint without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from edge_rnn.errors import ModelError
from edge_rnn.graph import F32
from edge_rnn_converters import bundle
from edge_rnn_converters.bundle import GRAPH, Object
from edge_rnn_converters.tensorflow.allowed import Reached
from edge_rnn_converters.tensorflow.graphdef import SavedGraph


def values(folder: Path, saved: SavedGraph, reached: Reached) -> dict[str, F32]:
    """Each variable's numbers, by the node that hands it to the signature's function.

    Raises ModelError where the checkpoint is damaged or lacks one, UnsupportedError for one that is
    not of numbers that are read.
    """
    if not reached.variables:
        return {}
    tensors = bundle.load(folder / "variables" / "variables")
    kept = bundle.objects(tensors.text(GRAPH))
    places = _places(saved.objects, kept)
    return {
        name: tensors.array(_key(name, kept, places.get(number)))
        for name, number in reached.variables.items()
    }


def _key(name: str, kept: tuple[Object, ...], place: int | None) -> str:
    if place is None or not kept[place].tensor:
        raise ModelError(f"variable {name!r}: the checkpoint in variables does not hold it")
    return kept[place].tensor


def _places(saved: tuple[Object, ...], kept: tuple[Object, ...]) -> dict[int, int]:
    """Which of the checkpoint's objects each object is: what hangs by the same names."""
    found: dict[int, int] = {}
    left = [(0, 0)]
    while left:
        ours, theirs = left.pop()
        if ours in found:
            continue
        found[ours] = theirs
        there = dict(kept[theirs].children)
        left += [(n, there[name]) for name, n in saved[ours].children if name in there]
    return found
