"""Makes the outputs of the models that are arrays alone here: python -m tests.golden.remake_weights

It needs torch==2.13.0. Each network is written out as its package's own code has it; inputs x are
kept as they are.

beatnet_crnn_pt       501 frames of 272 log-filtered spectra, logits of beat, downbeat and neither;
                      BeatNet's first model (CC-BY-4.0)
resemblyzer_lstm3_pt  2 voices, 160 frames of 40 mel powers; y_seq, the third LSTM's output for the
                      first voice, and each embedding; Resemblyzer (Apache-2.0)
g2p_en_gru_npz        letters of a word, enc_h after each; dec_h and logits at each of its
                      phonemes, tokens; g2p-en (Apache-2.0)
silero_16k_tinygrad   120 frames of 64 + 512 samples of speech, y the probability of it;
                      silero-vad's safetensors (MIT)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import conv1d, linear, max_pool1d, pad, relu

from tests.converters.fetch import BEATNET, G2P, RESEMBLYZER, SILERO_WEIGHTS, model

FOLDER = Path(__file__).parent
START, END = 2, 3
"""g2p-en's phonemes <s> and </s>."""


def beatnet(golden: Any) -> dict[str, Any]:
    """BeatNet/model.py, BDA.forward."""
    w = torch.load(model(BEATNET), weights_only=True)
    lstm = _filled(torch.nn.LSTM(150, 150, 2, batch_first=True), w, "lstm.")
    x = torch.from_numpy(golden["x"])[:, None]
    x = max_pool1d(relu(conv1d(x, w["conv1.weight"], w["conv1.bias"])), 2).flatten(1)
    x = linear(x, w["linear0.weight"], w["linear0.bias"])
    return {"logits": linear(lstm(x[None])[0][0], w["linear.weight"], w["linear.bias"])}


def resemblyzer(golden: Any) -> dict[str, Any]:
    """resemblyzer/voice_encoder.py, VoiceEncoder.forward."""
    w = torch.load(model(RESEMBLYZER), weights_only=True, map_location="cpu")["model_state"]
    lstm = _filled(torch.nn.LSTM(40, 256, 3, batch_first=True), w, "lstm.")
    y, (h, _) = lstm(torch.from_numpy(golden["x"]))
    raw = relu(linear(h[-1], w["linear.weight"], w["linear.bias"]))
    return {"y_seq": y[0], "embed": raw / torch.norm(raw, dim=1, keepdim=True)}


def g2p(golden: Any) -> dict[str, Any]:
    """g2p_en/g2p.py, G2p.predict."""
    with np.load(model(G2P)) as arrays:
        w = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    h, enc, dec, logits, token = torch.zeros(1, 256), [], [], [], START
    for i in golden["enc_ids"]:
        h = _step(w, "enc", int(i), h)
        enc.append(h)
    while token != END:
        h = _step(w, "dec", token, h)
        dec.append(h)
        logits.append(linear(h, w["fc_w"], w["fc_b"]))
        token = int(logits[-1].argmax())
    found = {"enc_h": torch.cat(enc), "dec_h": torch.cat(dec), "logits": torch.cat(logits)}
    return found | {"tokens": found["logits"].argmax(1)}


def silero(golden: Any) -> dict[str, Any]:
    """silero_vad/tinygrad_model.py, TinySileroVAD.__call__."""
    w = load_file(model(SILERO_WEIGHTS))
    cell = _filled(torch.nn.LSTMCell(128, 128), w, "lstm_cell.")
    state, rows = None, []
    for frame in torch.from_numpy(golden["x"]):
        x = conv1d(pad(frame[None], (0, 64), mode="reflect")[None], w["stft_conv.weight"],
                     stride=128)  # fmt: skip
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for k, stride in enumerate((1, 2, 2, 1), 1):
            x = relu(conv1d(x, w[f"conv{k}.weight"], w[f"conv{k}.bias"], stride, 1))
        state = cell(x.squeeze(-1), state)
        y = conv1d(relu(state[0])[..., None], w["final_conv.weight"], w["final_conv.bias"])
        rows.append(torch.sigmoid(y).mean())
    return {"y": torch.stack(rows)}


def _filled(module: Any, weights: dict[str, Any], prefix: str) -> Any:
    names = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    module.load_state_dict(names)
    return module


def _step(w: dict[str, Any], side: str, index: int, h: Any) -> Any:
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    return torch.gru_cell(w[f"{side}_emb"][index][None], h, *(w[f"{side}_{n}"] for n in names))


MODELS = {
    "beatnet_crnn_pt": beatnet,
    "resemblyzer_lstm3_pt": resemblyzer,
    "g2p_en_gru_npz": g2p,
    "silero_16k_tinygrad": silero,
}


def outputs(name: str, golden: Any) -> dict[str, Any]:
    """What the network computes of a file's inputs."""
    with torch.inference_mode():
        return {k: t.numpy() for k, t in MODELS[name](golden).items()}


if __name__ == "__main__":
    for name in MODELS:
        path = FOLDER / f"{name}.npz"
        with np.load(path) as arrays:
            kept = {k: arrays[k] for k in ("x", "enc_ids") if k in arrays.files}
        np.savez_compressed(path, **kept, **outputs(name, kept))
