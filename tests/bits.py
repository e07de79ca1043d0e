"""The bits that this machine computes: a line a case, its name and a digest of outputs and states.

`make test-arm64` runs this here and on emulated Raspberry Pi processors and compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import edge_rnn
from edge_rnn.graph import ACTS, Activation, Model, Reverse, Window
from tests.core import models

DEMO = Path(__file__).parents[1] / "devices/edge_rnn_devices/data/activity.ernn"


def cases() -> Iterator[tuple[str, Model, np.ndarray]]:
    """(name, model, inputs (T, I)) of every node, format, activation and the demo's model."""
    for weights in models.FORMATS:
        yield f"stack {weights}", models.stack(weights), models.inputs(60)
        yield f"strided {weights}", models.strided(weights), models.inputs(60)
    for kind in models.NODES:
        for weights in models.formats(kind):
            yield f"{kind} {weights}", models.single(kind, weights), models.inputs(20)
    for window in (Window(12, 5), Window(6, 6)):
        x = models.inputs(60)
        yield f"{window}", replace(models.stack("int8"), window=window), x
        ahead = models.model(models.gru(models.Random()), Reverse("y", "cell"))
        yield f"ahead, {window}", replace(ahead, window=window), x
    ramp = np.linspace(-20, 20, 5000, dtype=np.float32)[:, None]
    for act in ACTS:
        yield f"activation {act}", models.model(Activation("y", "x", act), width=1), ramp
    demo = edge_rnn.load(DEMO)
    assert demo.probe is not None
    yield "activity.ernn", demo, demo.probe.input


def digest(model: Model, x: np.ndarray) -> str:
    """Of one stream alone, of many at once, and of the states that they are left in."""
    session = edge_rnn.Session(model)
    alone = session.run("alone", x)
    together = session.step([f"s{i % 5}" for i in range(len(x))], x)
    return hashlib.sha256(alone.tobytes() + together.tobytes() + session.snapshot()).hexdigest()


if __name__ == "__main__":
    for name, model, x in cases():
        print(name, digest(model, x), flush=True)
