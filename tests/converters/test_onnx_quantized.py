"""ONNX files that ONNX Runtime's own quantizers made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from edge_rnn.errors import MismatchError, UnsupportedError
from edge_rnn_converters import convert, convert_with_report
from tests.converters.onnx_models import Graph, H, I, T, answer, inputs, random
from tests.converters.runtime import run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def floats(folder: Path, bias: bool = True) -> tuple[onnx.ModelProto, Path]:
    """An LSTM and a dense layer, as a model and a file."""
    g = Graph()
    y = g("MatMul", g("Squeeze", g.cell("LSTM", "x")[0], g.const([1])), g.const(random(H, 4)))
    y = g("Add", y, g.const(random(4))) if bias else y
    model = g.model({"x": ["T", 1, I]}, [g("Tanh", y)])
    onnx.save(model, folder / "float.onnx")
    return model, folder / "float.onnx"


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """A few inputs to calibrate on."""

    def __init__(self) -> None:
        self.left = [{"x": np.random.default_rng(n).normal(size=(T, 1, I)).astype(np.float32)}
                     for n in range(4)]  # fmt: skip

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
def test_dynamic_quantization(weights: QuantType, tmp_path: Path) -> None:
    """The weights are those of the file: 8 bits of the float model's, which stays near."""
    model, path = floats(tmp_path)
    quantize_dynamic(path, tmp_path / "q.onnx", weight_type=weights)
    kinds = {n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node}
    assert {"DynamicQuantizeLSTM", "DynamicQuantizeLinear", "MatMulInteger"} <= kinds
    y = run(tmp_path / "q.onnx", inputs(), check="require")
    expected = answer(model, x=inputs()[:, None])[0].reshape(T, 4)
    assert 1e-6 < np.abs(y - expected).max() < 0.02
    report = convert_with_report(tmp_path / "q.onnx", "float32", check="require").report
    assert report.source_error is not None and report.source_error < 1e-5
    assert any("quantizes its activations" in note for note in report.notes)
    assert any("own quantization moves its result by" in note for note in report.notes)


def test_dynamically_quantized_weights_are_read_exactly(tmp_path: Path) -> None:
    """W = (q - zero point) scale, transposed, one scale for all or one a column."""
    _, path = floats(tmp_path)
    for per_channel in (False, True):
        quantize_dynamic(path, tmp_path / "q.onnx", per_channel=per_channel)
        proto = onnx.load(tmp_path / "q.onnx")
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
        node = next(n for n in proto.graph.node if n.op_type == "DynamicQuantizeLSTM")
        q, scale, zero = (constants[node.input[i]] for i in (1, 8, 9))
        real = (q[0].astype(float) - zero[0].astype(float)) * scale[0]
        lstm = convert(tmp_path / "q.onnx", "float32", check="skip").nodes[0]
        i, f, g, o = np.split(lstm.w.data, 4)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.concatenate([i, o, f, g]), real.T.astype(np.float32))


@pytest.mark.parametrize("per_channel", [False, True])
def test_static_quantization_of_weights_and_activations(per_channel: bool, tmp_path: Path) -> None:
    model, path = floats(tmp_path)
    quantize_static(path, tmp_path / "q.onnx", Batches(), quant_format=QuantFormat.QDQ,
                    per_channel=per_channel)  # fmt: skip
    y = run(tmp_path / "q.onnx", inputs(), check="require")
    expected = answer(model, x=inputs()[:, None])[0].reshape(T, 4)
    assert np.abs(y - expected).max() < 0.02


def test_static_quantization_with_integer_operators(tmp_path: Path) -> None:
    _, path = floats(tmp_path)
    options = {"quant_format": QuantFormat.QOperator, "op_types_to_quantize": ["MatMul"]}
    quantize_static(path, tmp_path / "q.onnx", Batches(), **options)
    assert "QLinearMatMul" in {n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node}
    run(tmp_path / "q.onnx", inputs(), check="require")


def test_other_integer_operators_are_refused_by_name(tmp_path: Path) -> None:
    _, path = floats(tmp_path)
    quantize_static(path, tmp_path / "q.onnx", Batches(), quant_format=QuantFormat.QOperator)
    with pytest.raises(UnsupportedError, match=r"QLinearAdd .*: operator: computes with quantized"):
        convert(tmp_path / "q.onnx")


def test_a_source_whose_quantization_spoils_it_is_said(tmp_path: Path) -> None:
    """Inputs far beyond the calibrated range are cut off in the source, and not here."""
    g = Graph()
    real = g("Sigmoid", g.cell("GRU", "x")[0])
    low = g("QuantizeLinear", real, g.const(np.float32(0.001)), g.const(np.uint8(0)))
    y = g("DequantizeLinear", low, g.const(np.float32(0.001)), g.const(np.uint8(0)))
    onnx.save(g.model({"x": ["T", 1, I]}, [y]), tmp_path / "q.onnx")
    with pytest.raises(MismatchError, match="the source's own quantization differs"):
        convert(tmp_path / "q.onnx", check="require")


def test_a_quantized_convolution(tmp_path: Path) -> None:
    g = Graph()
    q = g.const(np.random.default_rng(0).integers(-100, 100, (4, I, 3)), np.int8)
    scales = g.const(np.linspace(0.002, 0.01, 4), np.float32)
    w = g("DequantizeLinear", q, scales, g.const(np.zeros(4), np.int8), axis=0)
    y = g("Conv", g("Transpose", "x", perm=[1, 2, 0]), w, pads=[2, 0])
    model = g.model({"x": ["T", 1, I]}, [g.cell("GRU", g("Transpose", y, perm=[2, 0, 1]),
                                                width=4)[0]])  # fmt: skip
    onnx.save(model, tmp_path / "q.onnx")
    y = run(tmp_path / "q.onnx", inputs(), check="require")
    np.testing.assert_allclose(y, answer(model, x=inputs()[:, None])[0].reshape(T, H), atol=1e-5)
