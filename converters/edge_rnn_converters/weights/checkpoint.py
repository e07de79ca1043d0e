"""PyTorch checkpoints, loaded as data alone: torch.load(weights_only=True), never otherwise."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_rnn.errors import MissingExtraError, UnsupportedError
from edge_rnn.graph import MAX_ELEMENTS
from edge_rnn_converters.source import MAX_BYTES

_SAVE = "save the weights alone, with torch.save(model.state_dict(), 'weights.pt')"


class _Number:
    """Stands for a NumPy number in a checkpoint, a best loss say, and for its dtype: none is asked
    for, so NumPy, which takes a pickle's word for the size of things, is not let make them."""

    def __init__(self, *given: object) -> None:
        """Whatever it is made of."""

    def __setstate__(self, state: object) -> None:
        """Nothing is kept."""


_NUMPY = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


def checkpoint(path: Path) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """The tensors of a checkpoint by their dotted place in it, and the places of its state_dicts.

    An optimizer's tensors, which stand under numbers, are left out. Raises UnsupportedError for
    a pickle of more than tensors and plain data, MissingExtraError without PyTorch.
    """
    try:
        import torch
    except ModuleNotFoundError as e:
        raise MissingExtraError("torch", extra="torch", need="to read PyTorch checkpoints") from e
    _check_size(path)
    try:
        numbers = torch.serialization.safe_globals([(_Number, name) for name in _NUMPY])
        with warnings.catch_warnings(), numbers:
            warnings.simplefilter("ignore")  # of the storage types of old files
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AssertionError) as e:
        found = re.search(r"GLOBAL (\S+)", str(e))
        what = f"{found[1]}, which" if found else "more than weights, or is damaged: it"
        raise UnsupportedError(
            f"{path.name}: is a pickle of {what} could run code and is not loaded; {_SAVE}"
        ) from e
    states = dict(_states(tree, "", set(), torch.Tensor))
    if not states:
        raise UnsupportedError(f"{path.name}: holds no state_dict (named tensors); {_SAVE}")
    tensors = {place + name: t for place, state in states.items() for name, t in state.items()}
    if sum(t.numel() for t in tensors.values()) > MAX_ELEMENTS // 4:
        raise UnsupportedError(f"{path.name}: more than the {MAX_BYTES} bytes that are read")
    return {name: _array(name, t) for name, t in tensors.items()}, tuple(states)


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as z:
            size = sum(i.file_size for i in z.infolist())
    if size > MAX_BYTES:
        raise UnsupportedError(f"{path.name}: {size} bytes, at most {MAX_BYTES} are read; {_SAVE}")


def _states(
    tree: object, place: str, seen: set[int], tensor: type[Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, its tensors) of each dictionary that holds matrices; what stands in the file twice
    is found once, so that references can't make it grow."""
    if not isinstance(tree, Mapping) or id(tree) in seen:
        return
    seen.add(id(tree))
    named = {k: v for k, v in tree.items() if isinstance(k, str)}
    state = {k: v for k, v in named.items() if isinstance(v, tensor)}
    if any(t.ndim > 1 for t in state.values()):
        yield place, state
    for name, inner in named.items():
        yield from _states(inner, f"{place}{name}.", seen, tensor)


def _array(name: str, tensor: Any) -> NDArray[Any]:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "quantized already" if tensor.is_quantized else "not a plain tensor"
        raise UnsupportedError(f"array {name!r}: is {kind}; save the trained float32 model")
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() == 1):
        raise UnsupportedError(f"array {name!r}: dtype {tensor.dtype}; save it in float32")
    wide = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
    array: NDArray[Any] = wide.detach().numpy()
    return array
