"""Keras models that others trained and published, against golden runs of their own Keras."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_rnn import Session, reference
from edge_rnn.errors import UnsupportedError
from edge_rnn.graph import Window, masked
from edge_rnn_converters import convert, convert_with_report
from edge_rnn_converters.detect import detect
from edge_rnn_converters.keras.source import read
from edge_rnn_converters.source import Options
from tests.converters.fetch import AO, DGAINTEL, SLEEPECG, Wheel, model

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def source(wheel: Wheel, window: int | None = None):  # type: ignore[no-untyped-def]
    path = model(wheel)
    return read(path, detect(path), Options(window=window))


def test_ao_streams_what_keras_computed_over_windows() -> None:
    """A causal convolution, padding in front that a mean takes in, a GRU: 16 windows of 200."""
    arrays = golden("ao_gru16_seq")
    converted = convert_with_report(model(AO), "float32", check="require")
    nodes = [n.OP for n in converted.model.nodes]
    assert nodes == ["conv1d", "scale", "conv1d", "gru", "dense", "l2_norm"]
    session = Session(converted.model, capacity=16)
    for n, (x, y) in enumerate(zip(arrays["x"], arrays["y_keras"], strict=True)):
        np.testing.assert_allclose(session.run(f"window {n}", x), y, rtol=0, atol=1e-5)
    assert converted.report.source_error is not None and converted.report.source_error < 1e-5
    assert "windows of 200 steps" in converted.report.notes[0]


def test_dgaintel_over_its_window() -> None:
    """A Keras-2 file: an embedding, a centred convolution, pooling, an LSTM's last step."""
    arrays = golden("dgaintel_embconvlstm_h5")
    read_ = source(DGAINTEL)
    assert (read_.regime.window, read_.regime.ends) == (82, True)
    assert [n.OP for n in read_.model.nodes] == [
        "embedding", "pad", "conv1d", "pool", "lstm", "dense"
    ]  # fmt: skip
    before = replace(read_.model, outputs=(read_.model.nodes[3].name,))
    session = Session(convert(model(DGAINTEL), "float32"), capacity=1)
    for x, y, lstm_in in zip(arrays["x"], arrays["y"], arrays["lstm_in"], strict=True):
        np.testing.assert_allclose(reference.run(before, x[:, None]), lstm_in, atol=1e-5)
        answer = session.run("windows, one after the other", x[:, None])
        np.testing.assert_allclose(answer, y[None], rtol=0, atol=1e-5)


def test_sleepecg_over_a_window_that_its_user_gives() -> None:
    """Masked input, two bidirectional GRUs; what it says of masked steps nobody is to know."""
    arrays = golden("sleepecg_bigru_keras")
    converted = source(SLEEPECG, window=60).model
    x, y = arrays["x"][0], arrays["y"][0]
    seen = ~masked(converted, x)
    assert converted.mask == -1 and 0 < seen.sum() < len(x) == 60
    np.testing.assert_allclose(reference.run(converted, x[seen]), y[seen], rtol=0, atol=1e-5)
    done = convert_with_report(
        model(SLEEPECG), "float32", mode=Window(60, 60), check="require"
    )  # fmt: skip
    answer = Session(done.model, capacity=1).run("s", x)
    np.testing.assert_allclose(answer, y[seen][-1:], rtol=0, atol=1e-5)
    assert done.report.source_error is not None and done.report.source_error < 1e-5


def test_sleepecg_cannot_stream() -> None:
    with pytest.raises(UnsupportedError) as caught:
        source(SLEEPECG)
    assert str(caught.value) == (
        "GRU 'bidirectional': go_backwards=True: its result at a step depends on steps that a "
        "stream does not have yet; give it windows with --mode tumbling --window N, or train it "
        "to look back only"
    )
