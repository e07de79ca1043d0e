"""Streaming inference for recurrent networks: one message at a time, one hidden state a stream.

>>> import edge_rnn
>>> model = edge_rnn.load("m.ernn")                     # doctest: +SKIP
>>> session = edge_rnn.Session(model, capacity=1000)    # doctest: +SKIP
>>> y = session.step(["dev-1", "dev-2"], x)             # doctest: +SKIP
"""

import sys

__version__ = "0.1.0"

if sys.maxsize < 2**32:
    raise ImportError("edge-rnn needs a 64-bit Python: numba has no 32-bit ARM wheels")

from edge_rnn.graph import Model
from edge_rnn.modelfile import load, save
from edge_rnn.session import Session

__all__ = ["Model", "Session", "load", "save"]
