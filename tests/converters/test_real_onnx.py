"""Published ONNX models, streamed, against golden runs of ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_rnn import Session
from edge_rnn.errors import UnsupportedError
from edge_rnn_converters import convert, convert_with_report
from tests.converters.fetch import DTLN, NSNET2, SILERO, model

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = "silero_vad/data"
FLAT = ["silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx"]
"""The last has the LSTM written out in equations."""


def speech() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """400 messages of 576 samples, the first 64 of each the last of the one before; what silero
    says, and its states after every 50."""
    with np.load(GOLDEN / "silero_seq_onnx.npz") as arrays:
        golden = dict(arrays)
    samples = golden["samples"].astype(np.float32) / 32768
    return np.lib.stride_tricks.sliding_window_view(samples, 576)[::512], golden


def silero(name: str = "silero_vad_16k_sequence.onnx") -> Path:
    return model(replace(SILERO, member=f"{FOLDER}/{name}"))


def shape(name: str) -> dict[str, tuple[int, ...] | float]:
    """The flat files leave the length of a message open, and choose by the rate."""
    return {"input": (1, 576)} if name in FLAT else {}


@pytest.mark.parametrize("name", ["silero_vad_16k_sequence.onnx", *FLAT])
def test_silero_streams_what_its_framework_computed(name: str) -> None:
    x, golden = speech()
    result = convert_with_report(silero(name), "float32", inputs=shape(name), check="require")
    assert result.report.source_error is not None and result.report.source_error < 1e-5
    y = Session(result.model, capacity=1).run("s", x)
    np.testing.assert_allclose(y[:, 0], golden["y"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["silero_vad_16k_sequence.onnx", *FLAT])
def test_silero_s_state_is_its_framework_s(name: str) -> None:
    x, golden = speech()
    converted = convert(silero(name), "float32", inputs=shape(name), check="skip")
    session = Session(converted, capacity=1)
    for i in range(8):
        session.run("s", x[50 * i : 50 * i + 50])
        (state,) = session.states()
        h, c = np.frombuffer(state.state, "<f4").reshape(2, -1)
        np.testing.assert_allclose(h, golden["h"][i], rtol=0, atol=1e-4)
        np.testing.assert_allclose(c, golden["c"][i], rtol=0, atol=1e-4)


def test_silero_s_flat_files_need_the_length_of_a_message() -> None:
    with pytest.raises(UnsupportedError, match=r"how many .* are there"):
        convert(silero(FLAT[0]), check="skip")


@pytest.mark.parametrize("name", ["silero_vad_16k_sequence.onnx", *FLAT])
def test_silero_quantized_decides_as_before(name: str) -> None:
    x, golden = speech()
    result = convert_with_report(silero(name), inputs=shape(name), check="skip")
    y = Session(result.model, capacity=1).run("s", x)[:, 0]
    assert np.abs(y - golden["y"]).max() <= 0.03
    assert np.mean((y > 0.5) == (golden["y"] > 0.5)) >= 0.99
    assert result.report.bytes < 0.42 * result.report.float32_bytes


@pytest.mark.parametrize("name", ["dtln_model_1_onnx", "nsnet2_gru_onnx"])
def test_enhancement_quantized_keeps_30_db(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    wheel = DTLN if name.startswith("dtln") else NSNET2
    given = Session(convert(model(wheel), check="skip"), capacity=1).run("s", x)
    assert 10 * np.log10(np.sum(y**2) / np.sum((given - y) ** 2)) >= 30
