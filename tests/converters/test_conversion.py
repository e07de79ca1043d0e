"""The whole conversion: descriptions, provenance, the probe, and checks that catch a wrong one."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_rnn
from edge_rnn import Session, reference
from edge_rnn.errors import MismatchError, MissingExtraError, ModelError, UnsupportedError
from edge_rnn.graph import Feature, Gru, Scale, output_digest
from edge_rnn.validation import validate
from edge_rnn_converters import (
    Conversion,
    Report,
    compare,
    convert,
    convert_with_report,
    readers,
)
from edge_rnn_converters.keras import run as keras_run
from edge_rnn_converters.source import CannotRunError, Options, SourceRun
from tests.converters.keras_models import keras2_file
from tests.converters.onnx_models import Graph, I, random
from tests.converters.test_onnx import saved
from tests.core import models


@pytest.fixture
def path(tmp_path: Path) -> Path:
    g = Graph()
    x = g("Div", g("Sub", "x", g.const(np.float32([100, 200, 300]))), g.const(random(I)))
    y = g("MatMul", g.cell("GRU", x)[0], g.const(random(5, 2)))
    return saved(g.model({"x": ["T", 1, I]}, [y]), tmp_path)


def test_a_converted_model_is_described_and_valid(path: Path) -> None:
    model = convert(
        path,
        features=["ax", Feature("ay", "g"), "az"],
        classes=["rest", "walk"],
        targets=["a", "b"],
        rate_hz=10,
    )
    validate(model)
    assert model.features == (Feature("ax"), Feature("ay", "g"), Feature("az"))
    assert model.targets == (Feature("a"), Feature("b"))
    assert (model.classes, model.rate_hz) == (("rest", "walk"), 10)
    assert model.provenance is not None
    assert model.provenance.framework == "onnx operator set 17, test"
    assert model.provenance.source == "m.onnx"
    assert model.provenance.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.provenance.converter == f"edge-rnn {edge_rnn.__version__}"


@pytest.mark.parametrize("quantize", ["int8", "w8a32", "float16", "float32"])
def test_the_probe_is_a_run_of_the_model_itself(path: Path, quantize: Any) -> None:
    model = convert(path, quantize)
    assert model.probe is not None and model.probe.input.shape == (64, I)
    y = Session(model, capacity=3).run("any", model.probe.input)
    assert output_digest(y) == model.probe.digest
    np.testing.assert_array_equal(y, model.probe.output)
    again = convert(path, quantize).probe
    assert again is not None and again.digest == model.probe.digest


def test_the_probe_lies_where_the_leading_scale_expects_it(path: Path) -> None:
    model = convert(path)
    assert model.probe is not None and isinstance(model.nodes[0], Scale)
    normal = reference.forward(model.nodes[0], model.probe.input.astype(np.float64))
    assert np.abs(normal.mean(axis=0)).max() < 0.5
    assert 0.7 < normal.std(axis=0).min() < normal.std(axis=0).max() < 1.3


def test_the_report_says_what_was_checked(path: Path) -> None:
    report = convert_with_report(path).report
    assert report.source_run is not None and report.source_run.startswith("onnxruntime ")
    assert report.source_error is not None and 0 < report.source_error < 1e-5
    assert (report.steps, report.source_steps) == (256, 256)
    assert 0 < report.runtime_error < 1e-5 < report.quantized_error < 0.1
    assert (report.quantize, report.notes) == ("int8", ())
    assert report.bytes < 0.6 * report.float32_bytes
    assert report.framework == "onnx operator set 17, test"


def test_check_skip_runs_nothing_and_says_so(path: Path) -> None:
    report = convert_with_report(path, check="skip").report
    assert report.source_run is report.source_error is None
    assert report.notes == ("the source framework was not run: check is off",)


@pytest.mark.parametrize("options", [{"check": "maybe"}, {"quantize": "int2"}])
def test_options_that_are_none(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"expected .*skip|expected one of int8"):
        convert(path, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"features": ["a"]}, "1 features for a width of 3"), ({"rate_hz": -1}, "rate_hz is -1")],
)
def test_descriptions_that_do_not_fit(path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        convert(path, **options)


def faked(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray] | None
) -> None:
    """A source whose framework answers as changed, or (None) is not installed."""
    original = readers.read

    def read(path: Path, options: Options) -> Any:
        source = original(path, options)

        def run(x: np.ndarray) -> SourceRun:
            if change is None:
                raise CannotRunError("it is not installed")
            return replace(source.run(x), y=change(source.run(x).y))

        return replace(source, run=run)

    monkeypatch.setattr(readers, "read", read)


def bump(y: np.ndarray) -> np.ndarray:
    y = y.copy()
    y[77, 1] += 1e-3
    return y


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (bump, r"step 77, column 1: onnxruntime .* gives .*, the converted model .*may differ by"),
        (
            lambda y: np.where(np.arange(len(y))[:, None] == 9, np.nan, y),
            "step 9, column 0: .* nan",
        ),
        (lambda y: y[:, :1], r"outputs of shape \(256, 1\), expected \(256, 2\)"),
    ],
)
def test_a_source_that_disagrees_stops_the_conversion(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, says: str
) -> None:
    faked(monkeypatch, change)
    with pytest.raises(MismatchError, match=says):
        convert(path)


def test_a_source_that_can_not_be_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, None)
    report = convert_with_report(path).report
    assert report.source_run is None
    assert report.notes == ("the source framework was not run: it is not installed",)
    with pytest.raises(UnsupportedError, match=r"check=require: .*it is not installed"):
        convert(path, check="require")


def test_a_runtime_that_disagrees_stops_the_conversion(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "run", lambda model, x: np.zeros((len(x), 2), np.float32))
    with pytest.raises(MismatchError, match="step 0, column 0: the float32 runtime gives 0"):
        convert(path, check="skip")


def test_gates_in_the_wrong_order_do_not_pass(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = readers.read

    def read(path: Path, options: Options) -> Any:
        source = original(path, options)
        nodes = [swap(n) if isinstance(n, Gru) else n for n in source.model.nodes]
        return replace(source, model=replace(source.model, nodes=tuple(nodes)))

    def swap(node: Gru) -> Gru:
        H = len(node.rb)
        order = [*range(H, 2 * H), *range(H), *range(2 * H, 3 * H)]
        return replace(node, w=type(node.w)(node.w.data[order]))

    monkeypatch.setattr(readers, "read", read)
    with pytest.raises(MismatchError, match="onnxruntime"):
        convert(path)


def test_a_model_that_grows_without_end_is_compared_while_it_can_be(tmp_path: Path) -> None:
    g = Graph()
    w, r = g.const(np.ones((1, 2, 1), np.float32)), g.const(np.full((1, 2, 2), 0.9, np.float32))
    y, _ = g("RNN", "x", w, r, outputs=2, hidden_size=2, activations=["Relu"])
    report = convert_with_report(saved(g.model({"x": ["T", 1, 1]}, [y]), tmp_path)).report
    assert 5 < report.steps < 256 and report.source_steps == report.steps
    assert "exceed 1e+06 after step" in report.notes[0]


def test_without_onnx_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"onnx is needed .*edge-rnn\[onnx\]"):
        convert(path)


def test_without_pyfive_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "pyfive", None)
    with pytest.raises(MissingExtraError, match=r"pyfive is needed .*edge-rnn\[keras\]"):
        convert(path)


def test_without_onnxruntime_it_says_that_it_was_not_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime is not installed" in convert_with_report(path).report.notes[0]


def test_without_keras_it_says_that_it_was_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keras2_file(tmp_path / "m.h5", [("ReLU", {"max_value": None}, {})])
    monkeypatch.setitem(sys.modules, "keras", None)
    assert "keras is not installed" in convert_with_report(path).report.notes[0]


def test_without_a_backend_keras_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keras2_file(tmp_path / "m.h5", [("ReLU", {"max_value": None}, {})])
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr(keras_run, "find_spec", lambda name: None)
    assert "keras has no backend" in convert_with_report(path).report.notes[0]
    assert "keras" not in sys.modules


def test_progress_is_told_each_stage(path: Path) -> None:
    stages: list[str] = []
    result = convert_with_report(path, progress=stages.append)
    assert stages[:2] == ["reading m.onnx", "trying int8"]
    assert stages[-1] == "recording a probe"
    assert isinstance(result, Conversion) and isinstance(result.report, Report)


def test_every_step_is_compared_but_where_a_cell_multiplies_rounding() -> None:
    calm = models.single("gru_after")
    wild = replace(calm, nodes=(replace(calm.nodes[0], gate="relu6"),))
    x = compare.stress(calm)
    assert len(compare.truth(calm, x).steps) == len(x)
    assert 20 < len(compare.truth(wild, x).steps) < len(x)
