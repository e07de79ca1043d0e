"""A published TorchScript model, streamed, against a golden run of its ONNX twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_rnn import Session
from edge_rnn_converters import convert, convert_with_report
from tests.converters.fetch import SILERO, model
from tests.converters.test_real_onnx import speech

pytest.importorskip("torch")

JIT = replace(SILERO, member="silero_vad/data/silero_vad.jit")
INPUTS: dict[str, tuple[int, ...] | float] = {"x": (1, 512), "sr": 16000}


def messages() -> tuple[np.ndarray, np.ndarray]:
    """(512 samples a message, what silero says): this file keeps the 64 before them itself."""
    x, golden = speech()
    return np.ascontiguousarray(x[:, 64:]), golden["y"]


def test_silero_keeps_its_context_and_its_state_as_its_module_does() -> None:
    x, y = messages()
    result = convert_with_report(model(JIT), "float32", inputs=INPUTS, check="require")
    assert result.report.source_error is not None and result.report.source_error < 1e-5
    assert [n.OP for n in result.model.nodes if n.STATE] == ["conv1d", "lstm"]
    found = Session(result.model, capacity=1).run("s", x)[:, 0]
    np.testing.assert_allclose(found, y, rtol=0, atol=1e-4)


def test_silero_s_state_is_its_module_s() -> None:
    """After every 50 of 400 messages; before h and c it keeps the samples that it reads again."""
    x, _ = messages()
    golden = speech()[1]
    converted = convert(model(JIT), "float32", inputs=INPUTS, check="skip")
    session = Session(converted, capacity=1)
    for i in range(8):
        session.run("s", x[50 * i : 50 * i + 50])
        (state,) = session.states()
        h, c = np.frombuffer(state.state, "<f4")[-256:].reshape(2, -1)
        np.testing.assert_allclose(h, golden["h"][i], rtol=0, atol=1e-4)
        np.testing.assert_allclose(c, golden["c"][i], rtol=0, atol=1e-4)


def test_silero_quantized_decides_as_before() -> None:
    x, y = messages()
    converted = convert(model(JIT), inputs=INPUTS, check="skip")
    found = Session(converted, capacity=1).run("s", x)[:, 0]
    assert np.abs(found - y).max() <= 0.03
    assert np.mean((found > 0.5) == (y > 0.5)) >= 0.99
