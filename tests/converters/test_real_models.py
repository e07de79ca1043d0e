"""Models that others trained and published, against golden runs of their own frameworks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_rnn import Session
from edge_rnn_converters import convert, convert_with_report
from tests.converters.fetch import DTLN, NSNET2, model
from tests.golden import remake

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def nsnet2() -> Path:
    return model(NSNET2)


@pytest.fixture(scope="module")
def golden() -> tuple[np.ndarray, np.ndarray]:
    """Features (300, 161) and gains (300, 161) of ONNX Runtime."""
    with np.load(GOLDEN / "nsnet2_gru_onnx.npz") as arrays:
        return arrays["x"], arrays["y"]


def test_nsnet2_streams_what_its_framework_computed(
    nsnet2: Path, golden: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = golden
    converted = convert(nsnet2, quantize="float32", check="require")
    assert [n.OP for n in converted.nodes] == ["dense", "gru", "gru", "dense", "dense", "dense"]
    session = Session(converted, capacity=1)
    np.testing.assert_allclose(session.run("s", x), y, rtol=0, atol=1e-4)


def test_dtln_keeps_the_packed_state_that_its_graph_hands_around() -> None:
    with np.load(GOLDEN / "dtln_model_1_onnx.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    converted = convert(model(DTLN), quantize="float32", check="require")
    assert [n.OP for n in converted.nodes] == ["lstm", "lstm", "dense"]
    np.testing.assert_allclose(Session(converted, capacity=1).run("s", x), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", remake.MODELS)
def test_the_golden_outputs_are_what_their_framework_computes(name: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        np.testing.assert_allclose(remake.outputs(name, arrays["x"]), arrays["y"], atol=1e-5)


@pytest.mark.parametrize(("quantize", "bound"), [("w8a32", 0.05), ("float16", 2e-3)])
def test_nsnet2_quantized_stays_near(
    nsnet2: Path, golden: tuple[np.ndarray, np.ndarray], quantize: str, bound: float
) -> None:
    x, y = golden
    result = convert_with_report(nsnet2, quantize, check="require")  # type: ignore[arg-type]
    error = np.abs(Session(result.model, capacity=1).run("s", x) - y).max()
    assert 0 < error < bound
    assert result.report.bytes < result.report.float32_bytes / (3.5 if quantize == "w8a32" else 1.9)
