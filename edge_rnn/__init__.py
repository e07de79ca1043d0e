"""Streaming inference for recurrent networks: one message at a time, one hidden state a stream.

>>> import edge_rnn
>>> model = edge_rnn.load("m.ernn")                     # doctest: +SKIP
>>> session = edge_rnn.Session(model, capacity=1000)    # doctest: +SKIP
>>> y = session.step(["dev-1", "dev-2"], x)             # doctest: +SKIP
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if sys.maxsize < 2**32:
    raise ImportError("edge-rnn needs a 64-bit Python: numba has no 32-bit ARM wheels")

if TYPE_CHECKING:
    from edge_rnn.graph import Model
    from edge_rnn.modelfile import load, save
    from edge_rnn.session import Session

__all__ = ["Model", "Session", "load", "save"]

_WHERE = {"Model": "graph", "Session": "session", "load": "modelfile", "save": "modelfile"}


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562): the compiler behind `Session` takes half a second."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    return value
