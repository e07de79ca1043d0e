"""TFLite files of one operator after the other, to be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_rnn_converters.peers.litert_file import Graph

T, I, H = 10, 5, 6


def some(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) * 0.5).astype(np.float32)


def lstm_inputs(
    g: Graph, rng: np.random.Generator, *, peephole: bool = False, projection: int = 0,
    bias: bool = False, norm: bool = False, coupled: bool = False, batch: int = 1,
) -> list[int]:  # fmt: skip
    """Inputs 1 to 23 of a fused LSTM."""
    R = projection or H
    gate = [some(rng, H, I) for _ in range(4)] + [some(rng, H, R) for _ in range(4)]
    found = [g.constant(w) for w in gate]
    found += [g.constant(some(rng, H)) if peephole else -1 for _ in range(3)]
    found += [g.constant(some(rng, H)) for _ in range(4)]
    found += [g.constant(some(rng, R, H)) if projection else -1]
    found += [g.constant(some(rng, R)) if bias else -1]
    found += [g.variable((batch, R)), g.variable((batch, H))]
    found += [g.constant(1 + some(rng, H)) if norm else -1 for _ in range(4)]
    if coupled:
        for k in (0, 4, 8, 11, 19):
            found[k] = -1
    return found


def sequence_lstm(path: Path, *, steps: int = T, major: bool = False, clip: float = 0,
                  proj_clip: float = 0, **how: Any) -> Path:  # fmt: skip
    g, rng = Graph(), np.random.default_rng(1)
    shape = (steps, 1) if major else (1, steps)
    x, y = g.tensor((*shape, I)), g.tensor((*shape, how.get("projection") or H))
    inputs = [x, *lstm_inputs(g, rng, **how)]
    g.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], fusedActivationFunction=4, timeMajor=major,
         cellClip=clip, projClip=proj_clip)  # fmt: skip
    path.write_bytes(g.file([x], [y]))
    return path


def sequence_rnn(
    path: Path, act: int = 4, steps: int = T, features: int = I, cells: int = H
) -> Path:
    g, rng = Graph(), np.random.default_rng(1)
    x, y = g.tensor((1, steps, features)), g.tensor((1, steps, cells))
    # Half as large, or a linear cell grows without end.
    weights = [g.constant(some(rng, cells, features)), g.constant(some(rng, cells, cells) / 2)]
    bias, state = g.constant(some(rng, cells)), g.variable((1, cells))
    g.op("UNIDIRECTIONAL_SEQUENCE_RNN", [x, *weights, bias, state], [y],
         fusedActivationFunction=act)  # fmt: skip
    path.write_bytes(g.file([x], [y]))
    return path


def one_step(path: Path, kind: str) -> Path:
    """RNN or LSTM: one step a run."""
    g, rng = Graph(), np.random.default_rng(1)
    x, y = g.tensor((1, I)), g.tensor((1, H))
    if kind == "RNN":
        weights = [g.constant(some(rng, H, n)) for n in (I, H)] + [g.constant(some(rng, H))]
        inputs = [*weights, g.variable((1, H))]
    else:
        inputs = lstm_inputs(g, rng)
    g.op(kind, [x, *inputs], [y], fusedActivationFunction=4)
    path.write_bytes(g.file([x], [y]))
    return path


def basic_lstm(path: Path) -> Path:
    """LSTM of the basic kernel: its states are inputs and outputs."""
    g, rng = Graph(), np.random.default_rng(1)
    x, h, c, y, after = (g.tensor((1, n)) for n in (I, H, H, H, H))
    scratch = [g.tensor((1, I + H)), g.tensor((1, 4 * H))]
    w, b = g.constant(some(rng, 4 * H, I + H)), g.constant(some(rng, 4 * H))
    g.op("LSTM", [x, h, w, b, c], [y, after, *scratch], kernelType=1, fusedActivationFunction=4)
    path.write_bytes(g.file([x, h, c], [y, after]))
    return path


def both_ways(path: Path, kind: str, *, merged: bool) -> Path:
    """BIDIRECTIONAL_SEQUENCE_LSTM or _RNN, its results side by side or apart, then added."""
    g, rng = Graph(), np.random.default_rng(1)
    x = g.tensor((1, T, I))
    if kind == "RNN":
        cells = [[g.constant(some(rng, H, n)) for n in (I, H)] + [g.constant(some(rng, H))]
                 for _ in range(2)]  # fmt: skip
        inputs = [*cells[0], g.variable((1, H)), *cells[1], g.variable((1, H))]
        left_out = 3
    else:
        fronts, states = zip(
            *((c[:17], c[17:19]) for c in (lstm_inputs(g, rng), lstm_inputs(g, rng))), strict=True
        )
        inputs = [*fronts[0], *fronts[1], *states[0], *states[1]]
        left_out = 9
    outputs = [g.tensor((1, T, 2 * H))] if merged else [g.tensor((1, T, H)) for _ in range(2)]
    g.op(f"BIDIRECTIONAL_SEQUENCE_{kind}", [x, *inputs, *[-1] * left_out], outputs,
         fusedActivationFunction=4, mergeOutputs=merged, timeMajor=False)  # fmt: skip
    y = outputs[0]
    if not merged:
        y = g.tensor((1, T, H))
        g.op("ADD", outputs, [y])
    path.write_bytes(g.file([x], [y]))
    return path
