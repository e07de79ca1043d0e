"""The dispatch by kind of node."""

from __future__ import annotations

from functools import singledispatch

from edge_rnn.assembler import Assembler, Vector
from edge_rnn.graph import Node


@singledispatch
def assemble(node: Node, asm: Assembler, dims: dict[str, int], x: Vector, dst: int) -> None:
    """Append a node's instructions: x is where its first input is, dst where its output goes.

    `dims` has the value of each symbol of its shapes.
    """
    raise NotImplementedError(node.OP)
