"""TorchScript archives: what may not be in them, and how they are loaded.

An archive's pickles are read by PyTorch's own unpickler, in C++, which makes tensors, containers
and the archive's TorchScript classes and calls no Python. Its code is TorchScript, run by PyTorch's
own interpreter, in which a few operators reach outside of the model: those are refused, in the text
before it is loaded (a class may run code then) and in the graphs before they are called.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.source import MAX_BYTES, refuse

_OUTSIDE = (
    "aten::save",
    "aten::from_file",
    "prim::rpc_async",
    "prim::rpc_sync",
    "prim::rpc_remote",
)
_SPACES = ("aten", "prim")
_TEXT = re.compile(
    r"\b(save|from_file|rpc_\w+|PythonOp|classes)\b|\bops\s*\.\s*(?!prim\b|aten\b)\w+"
    r"|\bgetattr\s*\(\s*(torch|ops)\b"
)
_WAY_OUT = "save the model without it"


def load(path: Path) -> bytes:
    """The archive's bytes, once its code is known to stay inside the model.

    Raises UnsupportedError for code that reaches files, other processes, or operators that are
    neither PyTorch's tensor operators nor part of the language.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UnsupportedError(f"{path.name}: over {MAX_BYTES} bytes are not read")
    with zipfile.ZipFile(path) as z:
        if sum(i.file_size for i in z.infolist()) > MAX_BYTES:
            raise UnsupportedError(f"{path.name}: unpacks to more than {MAX_BYTES} bytes")
        for member in z.namelist():
            found = _TEXT.search(z.read(member).decode()) if member.endswith(".py") else None
            if found:
                raise refuse(path.name, f"{found[0]!r}", "reaches outside of the model", _WAY_OUT)
    return path.read_bytes()


def module(blob: bytes) -> Any:
    """The module in evaluation mode, each of its graphs checked again."""
    import torch

    loaded = torch.jit.load(io.BytesIO(blob), map_location="cpu")
    for kind in _kinds(loaded.inlined_graph):
        if kind in _OUTSIDE or kind.split("::")[0] not in _SPACES:
            raise refuse("model", f"operator {kind}", "reaches outside of the model", _WAY_OUT)
    return loaded.eval() if hasattr(loaded, "training") else loaded


def _kinds(block: Any) -> Iterator[str]:
    """The operators of a graph, and of the blocks inside."""
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
