"""Models that their own engine runs, behind the same sessions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_rnn
from edge_rnn import Session, reference
from edge_rnn.cli.measure import inputs
from edge_rnn.errors import (
    ModelError,
    UnsupportedError,
)
from edge_rnn.graph import F32, Dense, Model, Window
from edge_rnn_converters import convert as converted
from edge_rnn_converters import host
from edge_rnn_converters.backends.tensors import roles
from edge_rnn_converters.modes import Mode
from edge_rnn_converters.peers.litert_graph import StepGraph
from edge_rnn_converters.peers.nodes import LitertExport
from tests.converters.fetch import AO, DTLN, NSNET2, SILERO, model
from tests.core import models

GOLDEN = Path(__file__).parents[1] / "golden"
TFLITE = GOLDEN / "tflite"
AO_TFLITE = replace(AO, member=AO.member.replace("gru_model.keras", "gru_model_edge.tflite"))
SPEECH_STATE = {"input_3": "tf_op_layer_stack_2"}


def golden(name: str) -> dict[str, F32]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def dtln() -> Model:
    return host(model(DTLN), "onnxruntime", states=SPEECH_STATE).model


@pytest.fixture
def small() -> Model:
    """A GRU and a layer, whose step a TFLite file can take."""
    r = models.Random(0, "float32")
    head = Dense("y", "cell", r.matrix(3, models.H), r.vector(3))
    return models.model(models.gru(r, "cell"), head)


def stepping(m: Model, tmp_path: Path, export: LitertExport = "float32") -> Path:
    path = tmp_path / "step.tflite"
    path.write_bytes(StepGraph(m, 1, export).blob)
    return path


def test_a_denoiser_with_a_packed_state_as_its_golden_run(dtln: Model) -> None:
    arrays = golden("dtln_model_1_onnx")
    x, expected = (arrays[k].reshape(len(arrays[k]), -1) for k in ("x", "y"))
    y = Session(dtln).run("a", x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def test_a_voice_detector_with_states_by_name_as_its_golden_run() -> None:
    path = model(replace(SILERO, member="silero_vad/data/silero_vad_16k_sequence.onnx"))
    arrays = golden("silero_seq_onnx")
    m = host(path, "onnxruntime", inputs={"input": (1, 576)}).model
    assert m.foreign is not None
    assert [(s.before, s.after) for s in m.foreign.states] == [("h", "hn"), ("c", "cn")]
    samples = arrays["samples"].astype(np.float32) / 32768
    x = np.lib.stride_tricks.sliding_window_view(samples, 576)[::512]
    y = Session(m).run("a", x)
    np.testing.assert_allclose(y[:, 0], arrays["y"], rtol=0, atol=1e-6)


def test_a_model_of_branches_that_is_told_its_rate() -> None:
    """Both of its rates' networks are in the file, behind an `If`."""
    path = model(replace(SILERO, member="silero_vad/data/silero_vad.onnx"))
    arrays = golden("silero_seq_onnx")
    m = host(path, "onnxruntime", inputs={"input": (1, 576), "sr": 16000.0}).model
    samples = arrays["samples"].astype(np.float32) / 32768
    x = np.lib.stride_tricks.sliding_window_view(samples, 576)[::512]
    y = Session(m).run("a", x)
    np.testing.assert_allclose(y[:, 0], arrays["y"], rtol=0, atol=1e-4)


def test_streams_that_take_turns_are_as_alone(dtln: Model) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 5, 257)).astype(np.float32)
    together = Session(dtln, capacity=5)
    ids = [f"s{i}" for i in range(5)]
    order = rng.permuted(np.tile(np.arange(5), (20, 1)), axis=1)
    y = np.empty_like(x)
    for t, streams in enumerate(order):
        y[t, streams] = together.step([ids[i] for i in streams], x[t, streams])
    for i, stream in enumerate(ids):
        alone = Session(dtln, capacity=1).run(stream, x[:, i])
        np.testing.assert_array_equal(y[:, i], alone)


def test_a_stream_twice_in_a_call_is_stepped_in_order(dtln: Model) -> None:
    x = np.random.default_rng(1).normal(size=(6, 257)).astype(np.float32)
    y = Session(dtln).step(["a", "b", "a", "a", "b", "a"], x)
    np.testing.assert_array_equal(y[[0, 2, 3, 5]], Session(dtln).run("a", x[[0, 2, 3, 5]]))


def test_a_snapshot_goes_on_elsewhere(dtln: Model, tmp_path: Path) -> None:
    edge_rnn.save(dtln, tmp_path / "m.ernn")
    x = np.random.default_rng(2).normal(size=(12, 257)).astype(np.float32)
    whole = Session(dtln).run("a", x)
    first, second = Session(dtln), Session(edge_rnn.load(tmp_path / "m.ernn"))
    first.run("a", x[:5])
    second.run("other", x[3:7])
    second.restore(first.snapshot())
    np.testing.assert_array_equal(second.run("a", x[5:]), whole[5:])
    second.reset("a")
    np.testing.assert_array_equal(second.run("a", x), whole)


@pytest.mark.parametrize(("export", "most"), [("float32", 1e-6), ("int8 dynamic", 0.05)])
def test_a_tflite_step_with_its_state(
    small: Model, tmp_path: Path, export: LitertExport, most: float
) -> None:
    m = host(stepping(small, tmp_path, export), "litert").model
    x = inputs(small, 1, steps=40)[:, 0]
    y = Session(m).run("a", x)
    assert np.abs(y - reference.run(small, x)).max() <= most
    assert y.std() > 0.01


def test_states_that_a_tflite_file_stores_as_integers(small: Model, tmp_path: Path) -> None:
    graph = StepGraph(small, 1, "int8 full")
    m = host(stepping(small, tmp_path, "int8 full"), "litert").model
    x = inputs(small, 1, steps=40)[:, 0]
    y = Session(m).run("a", x)
    np.testing.assert_array_equal(y, plainly(graph, x))
    assert np.abs(y - reference.run(small, x)).max() < 0.2


def plainly(graph: StepGraph, x: F32) -> F32:
    """The file by LiteRT itself, its integer states fed back as they are."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter
    loaded = interpreter(model_content=graph.blob, num_threads=1)
    loaded.allocate_tensors()
    first, *states = loaded.get_input_details()
    outputs = [d["index"] for d in loaded.get_output_details()]
    values = [np.zeros(d["shape"], d["dtype"]) for d in states]
    rows = []
    for row in x:
        loaded.set_tensor(first["index"], row[None])
        for d, value in zip(states, values, strict=True):
            loaded.set_tensor(d["index"], value)
        loaded.invoke()
        *values, y = (loaded.get_tensor(i) for i in outputs)
        rows.append(y[0])
    return np.array(rows)


def test_a_published_model_of_windows() -> None:
    arrays = golden("ao_gru16_tflite")
    path = model(AO_TFLITE)
    tumbling = host(path, "litert").model
    assert tumbling.window == Window(200, 200)
    for x, expected in zip(arrays["x"], arrays["y"], strict=True):
        y = Session(tumbling).run("a", x)
        np.testing.assert_allclose(y, expected[-1:], rtol=0, atol=1e-6)
    x = arrays["x"].reshape(-1, arrays["x"].shape[-1])
    sliding = host(path, "litert", mode=Window(200, 100)).model
    y = Session(sliding).run("a", x)
    whole = Session(tumbling).run("a", x)
    np.testing.assert_array_equal(y[::2], whole)
    np.testing.assert_array_equal(y[1::2], Session(tumbling).run("a", x[100:-100]))


@pytest.mark.parametrize("name", ["lstm_fused", "lstm_fused_int8"])
def test_states_inside_are_new_at_each_window(name: str) -> None:
    """TensorFlow's fused cells keep theirs in tensors of their own from call to call."""
    m = host(TFLITE / f"{name}.tflite", "litert").model
    assert m.window is not None and m.window.length == 12
    x = np.random.default_rng(0).normal(size=(36, m.input_width)).astype(np.float32)
    y = Session(m).run("a", x)
    for i in range(3):
        alone = Session(m).run("a", x[12 * i : 12 * i + 12])
        np.testing.assert_array_equal(y[i : i + 1], alone)
    assert np.abs(y[0] - y[1]).max() > 0


def test_a_state_inside_that_streams_would_share_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"does not answer the same twice.*convert it"):
        host(TFLITE / "gru_stateful.tflite", "litert")


H, X = (1, 1, 8), (1, 3)


@pytest.mark.parametrize(
    ("fed", "answered", "told", "expected"),
    [
        ({"x": X, "h": H}, {"y": (1, 5), "z": H}, {}, {"h": "z"}),
        ({"h": H, "x": X}, {"z": H, "y": (1, 5)}, {}, {"h": "z"}),
        ({"x": H, "h0": H, "c0": H}, {"y": H, "cn": H, "hn": H}, {}, {"h0": "hn", "c0": "cn"}),
        ({"x": X, "state": H, "buf_in": H}, {"y": X, "buf_out": H, "stateN": H}, {},
         {"state": "stateN", "buf_in": "buf_out"}),
        ({"x": X, "a": H, "b": H}, {"y": X, "c": H, "d": H}, {"a": "d"}, None),
        ({"x": X, "a": H, "b": H}, {"y": (1, 1), "c": H, "d": H}, {"a": "d"}, {"a": "d", "b": "c"}),
        ({"x": X, "a": H, "b": H}, {"y": X, "c": H, "d": H}, {}, None),
        ({"x": X, "h": H}, {"y": X, "z": H}, {}, None),
        ({"x": X, "w": X}, {"y": (1, 1)}, {}, None),
        ({"x": X}, {"y": X, "z": X}, {}, None),
        ({"x": X, "h": H}, {"y": X, "z": H}, {"h": "y"}, None),
        ({"x": X, "h": H}, {"y": X, "z": H}, {"h": "none"}, None),
    ],
)  # fmt: skip
def test_which_tensors_are_states(
    fed: dict[str, Any], answered: dict[str, Any], told: dict[str, str],
    expected: dict[str, str] | None,
) -> None:  # fmt: skip
    if expected is None:
        with pytest.raises(UnsupportedError, match=r"inputs: .*outputs: "):
            roles(fed, answered, told)
    else:
        found = roles(fed, answered, told)
        assert {s.before: s.after for s in found.states} == expected
        assert (found.x, found.y) == ("x", "y")


def test_a_stream_without_memory_is_refused() -> None:
    """An open time axis without states: a whole sequence at a call."""
    with pytest.raises(UnsupportedError, match=r"time.*--mode tumbling"):
        host(model(NSNET2), "onnxruntime")


def test_a_whole_sequence_network_in_windows() -> None:
    m = host(model(NSNET2), "onnxruntime", mode=Window(20, 5)).model
    assert m.foreign is not None and m.foreign.x.shape == (1, 20, 161)
    x = np.random.default_rng(0).normal(size=(40, 161)).astype(np.float32)
    y = Session(m).run("a", x)
    ours = Session(converted(model(NSNET2), "float32", check="skip"))
    for i, row in enumerate(y):
        whole = ours.run(str(i), x[5 * i : 5 * i + 20])
        np.testing.assert_allclose(row, whole[-1], rtol=0, atol=1e-4)


def test_modes_that_an_engine_has_not(small: Model, tmp_path: Path) -> None:
    cases: list[tuple[Path, Mode]] = [
        (stepping(small, tmp_path), Window(5, 5)),
        (model(AO_TFLITE), Window(100, 100)),
        (model(AO_TFLITE), "continuous"),
    ]
    for path, mode in cases:
        with pytest.raises(UnsupportedError, match=r"at once.*--mode"):
            host(path, "litert", mode=mode)


def test_a_model_without_states(tmp_path: Path) -> None:
    r = models.Random(0, "float32")
    m = models.model(Dense("y", "x", r.matrix(3, models.I), r.vector(3), "tanh"))
    held = host(stepping(m, tmp_path), "litert").model
    x = inputs(m, 1, steps=5)[:, 0]
    np.testing.assert_allclose(Session(held).run("a", x), reference.run(m, x), rtol=0, atol=1e-6)


def test_weights_beside_a_file_are_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An .ernn file is one file, whatever lies where it is used."""
    onnx = pytest.importorskip("onnx")
    w = onnx.numpy_helper.from_array(np.ones((512, 512), np.float32), "w")
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [info("x", 1, [1, 512])], [info("y", 1, [1, 512])], [w],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    proto.ir_version = 8
    monkeypatch.chdir(tmp_path)
    onnx.save(proto, "whole.onnx")
    assert host("whole.onnx", "onnxruntime").model.input_width == 512
    onnx.save(proto, "parts.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ModelError, match="onnxruntime can't load"):
        host("parts.onnx", "onnxruntime")
