"""Arrays that others trained and published, with descriptions of their networks, against golden
runs of their own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn import Session
from edge_rnn.graph import Model
from edge_rnn.state import StreamState
from edge_rnn_converters import convert, convert_with_report
from edge_rnn_converters.source import UndescribedError
from tests.converters.fetch import BEATNET, G2P, RESEMBLYZER, SILERO_WEIGHTS, Wheel, model

pytest.importorskip("torch")

GOLDEN = Path(__file__).parents[1] / "golden"

BEATNET_NET = """
input = 272
layer = [
    { type = "conv1d", weights = "conv1", frame = true, activation = "relu" },
    { type = "max_pool", kernel = 2, frame = true },
    { type = "linear", weights = "linear0" },
    { type = "lstm", weights = "lstm" },
    { type = "linear", weights = "linear" },
]
"""
RESEMBLYZER_NET = """
ignore = ["similarity_*"]

[[layer]]
type = "lstm"
weights = "lstm"

[[layer]]
type = "linear"
weights = "linear"
activation = "relu"

[[layer]]
type = "l2_norm"
"""
G2P_ENCODER = """
ignore = ["dec_*", "fc_*"]

[[layer]]
type = "embedding"
weights = "enc_emb"

[[layer]]
type = "gru"
weights = "enc"
"""
G2P_DECODER = G2P_ENCODER.replace("dec_", "enc_").replace('"enc', '"dec').replace('["dec', '["enc')
G2P_LOGITS = G2P_DECODER.replace(', "fc_*"', "") + '[[layer]]\ntype = "linear"\nweights = "fc"\n'
CONV = """
[[layer]]
type = "conv1d"
weights = "conv{}"
frame = true
padding = 1
stride = {}
activation = "relu"
"""
SILERO_NET = """
input = 576

[[layer]]
type = "pad"
after = 64
mode = "reflect"

[[layer]]
type = "conv1d"
weights = "stft_conv"
frame = true
stride = 128

[[layer]]
type = "magnitude"
"""
SILERO_NET += "".join(CONV.format(k, stride) for k, stride in enumerate((1, 2, 2, 1), 1))
SILERO_NET += """
[[layer]]
type = "lstm"
weights = "lstm_cell"

[[layer]]
type = "relu"

[[layer]]
type = "conv1d"
weights = "final_conv"
frame = true
activation = "sigmoid"
"""


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {k: arrays[k] for k in arrays.files}


def converted(wheel: Wheel, toml: str, folder: Path, quantize: Any = "float32") -> Model:
    (folder / "net.toml").write_text(toml)
    description = folder / "net.toml"
    return convert(model(wheel), quantize, description=description, check="require")


@pytest.mark.parametrize(
    "name", ["beatnet_crnn_pt", "resemblyzer_lstm3_pt", "g2p_en_gru_npz", "silero_16k_tinygrad"]
)
def test_the_golden_outputs_are_what_their_networks_compute(name: str) -> None:
    from tests.golden import remake_weights

    kept = golden(name)
    for key, found in remake_weights.outputs(name, kept).items():
        np.testing.assert_allclose(found, kept[key], atol=1e-5, err_msg=key)


def test_beatnet_hears_as_its_authors_network(tmp_path: Path) -> None:
    kept = golden("beatnet_crnn_pt")
    found = converted(BEATNET, BEATNET_NET, tmp_path)
    kinds = ["frame_conv", "frame_pool", "dense", "lstm", "lstm", "dense"]
    assert [n.OP for n in found.nodes] == kinds
    y = Session(found, capacity=1).run("s", kept["x"])
    np.testing.assert_allclose(y, kept["logits"], atol=1e-4)


def test_beatnet_decides_the_same_in_the_default_quantization(tmp_path: Path) -> None:
    """Its first layer has 20 weights, which every one of 131 numbers is made of: there is nothing
    to save in them, and with them in int8, 97.4 % of the frames agree."""
    kept = golden("beatnet_crnn_pt")
    (tmp_path / "net.toml").write_text(BEATNET_NET)
    description, layers = tmp_path / "net.toml", {"conv1": "float32"}
    found = convert(model(BEATNET), layers=layers, description=description, check="require")  # type: ignore[arg-type]
    y = Session(found, capacity=1).run("s", kept["x"])
    assert (y.argmax(axis=1) == kept["logits"].argmax(axis=1)).mean() >= 0.98


@pytest.mark.parametrize(("quantize", "bound"), [("float32", 1e-4), ("w8a16", 0.03)])
def test_silero_hears_speech_as_its_authors_network(
    quantize: str, bound: float, tmp_path: Path
) -> None:
    kept = golden("silero_16k_tinygrad")
    y = Session(converted(SILERO_WEIGHTS, SILERO_NET, tmp_path, quantize), 1).run("s", kept["x"])
    np.testing.assert_allclose(y[:, 0], kept["y"], atol=bound)
    assert ((y[:, 0] > 0.5) == (kept["y"] > 0.5)).mean() >= 0.99


def test_resemblyzer_embeds_as_its_authors_network(tmp_path: Path) -> None:
    kept = golden("resemblyzer_lstm3_pt")
    session = Session(converted(RESEMBLYZER, RESEMBLYZER_NET, tmp_path), capacity=2)
    for voice, (x, embed) in enumerate(zip(kept["x"], kept["embed"], strict=True)):
        np.testing.assert_allclose(session.run(str(voice), x)[-1], embed, atol=1e-4)
    lstm = RESEMBLYZER_NET.partition('\n\n[[layer]]\ntype = "linear"')[0]
    alone = converted(RESEMBLYZER, lstm.replace("_*", '_*", "linear.*'), tmp_path)
    y = Session(alone, capacity=1).run("s", kept["x"][0])
    np.testing.assert_allclose(y, kept["y_seq"], atol=1e-4)


def test_resemblyzers_embeddings_survive_quantization(tmp_path: Path) -> None:
    """Its first layer's weights span two decades, as the powers that they meet do: one step of int8
    for a whole row is too coarse there (cosine 0.966), and half the bits of float32 are not."""
    kept = golden("resemblyzer_lstm3_pt")
    (tmp_path / "net.toml").write_text(RESEMBLYZER_NET)
    description, layers = tmp_path / "net.toml", {"lstm.l0": "float16"}
    found = convert_with_report(
        model(RESEMBLYZER), layers=layers, description=description, check="require"
    )
    session = Session(found.model, capacity=2)
    for voice, (x, embed) in enumerate(zip(kept["x"], kept["embed"], strict=True)):
        y = session.run(str(voice), x)[-1]
        assert embed @ y / np.linalg.norm(y) >= 0.999
    assert found.report.bytes < found.report.float32_bytes / 3.2


def test_resemblyzer_in_a_line_and_without_words() -> None:
    """One array too many is noticed; the template lists what there is."""
    with pytest.raises(ValueError, match=r"no layer uses similarity_weight, similarity_bias"):
        convert(model(RESEMBLYZER), network="lstm, linear, relu, l2_norm")
    with pytest.raises(UndescribedError) as caught:
        convert(model(RESEMBLYZER))
    for line in ('ignore = ["similarity_weight", "similarity_bias"]', 'weights = "lstm"'):
        assert line in caught.value.template


def test_g2p_spells_words_as_its_authors_network(tmp_path: Path) -> None:
    kept = golden("g2p_en_gru_npz")
    encoder = Session(converted(G2P, G2P_ENCODER, tmp_path), capacity=1)
    h = encoder.run("word", kept["enc_ids"][:, None])
    np.testing.assert_allclose(h, kept["enc_h"], atol=1e-5)
    start = encoder.states(["word"])
    inputs = np.concatenate([[2], kept["tokens"][:-1]])[:, None]
    for toml, wanted in ((G2P_DECODER, "dec_h"), (G2P_LOGITS, "logits")):
        decoder = Session(converted(G2P, toml, tmp_path), capacity=1)
        decoder.load_states(start)
        np.testing.assert_allclose(decoder.run("word", inputs), kept[wanted], atol=1e-5)


@pytest.mark.parametrize("quantize", ["float32", "w8a16"])
def test_g2p_decodes_the_same_tokens(quantize: str, tmp_path: Path) -> None:
    kept = golden("g2p_en_gru_npz")
    encoder = Session(converted(G2P, G2P_ENCODER, tmp_path, quantize), capacity=1)
    decoder = Session(converted(G2P, G2P_LOGITS, tmp_path, quantize), capacity=1)
    encoder.run("word", kept["enc_ids"][:, None])
    assert greedy(decoder, encoder.states(["word"])) == kept["tokens"].tolist()


def greedy(decoder: Session, start: list[StreamState]) -> list[int]:
    """From <s> (2) to </s> (3), each token the likeliest after the one before."""
    decoder.load_states(start)
    tokens = [2]
    while tokens[-1] != 3 and len(tokens) < 20:
        tokens.append(int(decoder.step(["word"], [[tokens[-1]]]).argmax()))
    return tokens[1:]
