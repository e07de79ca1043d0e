"""What a TorchScript module may be called with, where nobody says: it is tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge_rnn_converters.source import refuse

STEPS = 61
_WAY_OUT = "give each by its name: --input x=1x30x6, or inputs={'x': (1, 30, 6)}"


def guess(module: Any, inputs: int) -> tuple[Any, ...]:
    """One input of the only width that the module takes: (batch, steps, features), or with the
    steps last, or of one step; else indices (batch, steps).

    Raises UnsupportedError where that does not tell, or where there are several inputs.
    """
    import torch

    if inputs != 1:
        why = f"it has {inputs} inputs of shapes that it does not tell"
        raise refuse("model", "inputs", why, _WAY_OUT)
    with torch.inference_mode():
        for form in _forms(_widths(module)):
            found = [x for x in form if _takes(module, x)]
            if len(found) == 1:
                return (found[0],)
            if found:
                why = f"it takes {len(found)} widths of inputs like {tuple(found[0].shape)}"
                raise refuse("model", "input", why, _WAY_OUT)
    raise refuse("model", "input", "no shape that was tried is one it takes", _WAY_OUT)


def _widths(module: Any) -> list[int]:
    """Every length of an axis of the module's weights: its input's width is one of them."""
    import torch
    from torch.utils import _pytree

    graph = module.inlined_graph
    constants = graph.findAllNodes("prim::Constant", True)
    leaves = _pytree.tree_leaves([node.output().toIValue() for node in constants])
    weights = [*module.parameters(), *module.buffers(), *leaves]
    return sorted({n for t in weights if isinstance(t, torch.Tensor) for n in t.shape})


def _forms(widths: list[int]) -> Iterator[list[Any]]:
    import torch

    yield [torch.zeros(1, STEPS, n) for n in widths]
    yield [torch.zeros(1, n, STEPS) for n in widths]
    yield [torch.zeros(1, n) for n in widths]
    yield [torch.zeros(1, STEPS, dtype=torch.int64)]


def _takes(module: Any, x: Any) -> bool:
    try:
        module(x)
    except Exception:
        # A module may raise whatever it likes for a shape that it is not made for.
        return False
    return True
