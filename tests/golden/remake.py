"""Makes the outputs in the *_onnx.npz files here again: python -m tests.golden.remake

Each file holds one run of a published model by its own framework: x (T, I) float32 inputs, kept as
they are, and y (T, O), ONNX Runtime's outputs, from the initial state, one stream.

nsnet2_gru_onnx     300 frames of 161 log powers, gains in [0, 1]; NSNet2 (CC-BY-4.0 / MIT)
dtln_model_1_onnx   200 frames of 257 magnitudes, masks in [0, 1]; DTLN's first model (MIT)

torch_layers.npz is made by `tests.golden.torch_layers`, from random layers.

The models are not kept here: `tests.converters.fetch` gets them, pinned and verified.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from tests.converters.fetch import DTLN, NSNET2, model

MODELS = {"nsnet2_gru_onnx": NSNET2, "dtln_model_1_onnx": DTLN}


def outputs(name: str, x: np.ndarray) -> np.ndarray:
    """y (T, O) for x (T, I)."""
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model(MODELS[name]), providers=providers)
    first, *states = session.get_inputs()
    if not states:
        return session.run(None, {first.name: x[None]})[0][0]
    state, rows = np.zeros(states[0].shape, np.float32), []
    for row in x:
        y, state = session.run(None, {first.name: row[None, None], states[0].name: state})
        rows.append(y.reshape(-1))
    return np.array(rows)


if __name__ == "__main__":
    for name in MODELS:
        path = Path(__file__).with_name(f"{name}.npz")
        with np.load(path) as arrays:
            x = arrays["x"]
        np.savez_compressed(path, x=x, y=outputs(name, x))
