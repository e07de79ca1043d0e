"""The instructions of every kind of node."""

from edge_rnn.instructions import cells, layers  # noqa: F401 - what `assemble` knows
from edge_rnn.instructions.base import assemble

__all__ = ["assemble"]
