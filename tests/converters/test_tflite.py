"""TFLite files against LiteRT: every recurrent operator, and what a converter makes of a layer."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_rnn import Session
from edge_rnn.errors import EdgeRnnError, MismatchError, UnsupportedError
from edge_rnn_converters import convert_with_report
from edge_rnn_converters.peers.litert_file import Graph
from edge_rnn_converters.tflite.file import load
from tests.converters import fetch
from tests.converters import tflite_models as models
from tests.effort import fewer

GOLDEN = Path(__file__).parents[1] / "golden" / "tflite"
CLOSE = 1e-5


def kinds(path: Path, steps: int = 256) -> list[str]:
    """Convert, LiteRT agreeing; what the model's nodes are."""
    found = convert_with_report(path, "float32", check="require")
    assert found.report.source_error is not None
    assert found.report.source_error < CLOSE
    assert found.report.source_steps == steps
    return [n.OP for n in found.model.nodes]


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({}, "lstm"),
        ({"major": True}, "lstm"),
        ({"steps": 1}, "lstm"),
        ({"peephole": True}, "lstm"),
        ({"projection": 4}, "lstm"),
        ({"peephole": True, "projection": 4}, "lstm"),
        ({"projection": 4, "bias": True}, "lstm"),
        ({"clip": 0.3}, "lstm"),
        ({"clip": 0.3, "projection": 4, "proj_clip": 0.1}, "lstm"),
        ({"clip": 0.3, "peephole": True, "coupled": True}, "lstm_coupled"),
        ({"coupled": True}, "lstm_coupled"),
        ({"coupled": True, "peephole": True}, "lstm_coupled"),
        ({"norm": True}, "lstm_norm"),
        ({"norm": True, "peephole": True, "projection": 4}, "lstm_norm"),
    ],
)
def test_a_fused_lstm_is_a_stream_from_run_to_run(
    tmp_path: Path, how: dict[str, Any], kind: str
) -> None:
    path = models.sequence_lstm(tmp_path / "m.tflite", **how)
    assert kinds(path, 256 // how.get("steps", models.T) * how.get("steps", models.T)) == [kind]


@pytest.mark.parametrize("act", range(5))
def test_a_fused_rnn(tmp_path: Path, act: int) -> None:
    path = models.sequence_rnn(tmp_path / "m.tflite", act)
    found = convert_with_report(path, "float32", check="require")
    assert [n.OP for n in found.model.nodes] == ["rnn"]
    assert found.report.source_error is not None and found.report.source_error < CLOSE


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_one_step_a_run(tmp_path: Path, kind: str) -> None:
    assert kinds(models.one_step(tmp_path / "m.tflite", kind)) == [kind.lower()]


def test_the_basic_lstm_hands_its_states_around(tmp_path: Path) -> None:
    assert kinds(models.basic_lstm(tmp_path / "m.tflite")) == ["lstm"]


LOOPS = {
    "lstm": ["lstm", "dense"],
    "gru": ["gru", "dense", "softmax"],
    "gru_before": ["gru", "dense"],
    "rnn": ["rnn", "dense"],
    "norm": ["gru", "layer_norm"],
    "two": ["lstm", "gru"],
    "cells": ["lstm", "gru"],
    "lstm_unrolled": ["lstm", "dense"],
    "gru_unrolled": ["gru", "dense"],
    "columns": ["gru"],
    "lstm_fused": ["lstm", "dense"],
    "conv_fused": ["conv1d", "lstm", "dense"],
}


@pytest.mark.parametrize("name", LOOPS)
def test_what_tensorflow_made_of_keras_layers_and_a_loop(name: str) -> None:
    """Loops over time, steps written out, fused operators."""
    found = convert_with_report(GOLDEN / f"{name}.tflite", "float32", check="require")
    assert [n.OP for n in found.model.nodes] == LOOPS[name]
    assert found.report.source_error is not None
    assert found.report.source_error < CLOSE


@pytest.mark.parametrize(("name", "kind"), [("lstm_stateful", "lstm"), ("gru_stateful", "gru")])
def test_variables_are_the_state_of_the_stream(name: str, kind: str) -> None:
    """Runs of one and of four steps, one after the other, are one stream."""
    assert kinds(GOLDEN / f"{name}.tflite") == [kind, "dense"]
    found = convert_with_report(GOLDEN / f"{name}.tflite", "float32", check="skip")
    assert not any("window" in note for note in found.report.notes)


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("lstm_hybrid", ["lstm", "dense"]),
        ("gru_hybrid", ["gru", "dense"]),
        ("dense_int8", ["dense", "dense"]),
        ("lstm_fused_hybrid", ["lstm", "dense"]),
        ("lstm_fused_int8", ["lstm", "dense"]),
    ],
)
def test_integers_are_the_numbers_that_they_stand_for(name: str, ops: list[str]) -> None:
    """Exactly those of the same file in float32; the report says how far the integers are off."""
    found = convert_with_report(GOLDEN / f"{name}.tflite", "float32", check="require")
    assert [n.OP for n in found.model.nodes] == ops
    assert found.report.source_error is not None
    assert found.report.source_error < CLOSE
    gap = re.search(r"own quantization moves its result by ([\d.]+) \(rms", found.report.notes[-1])
    assert gap is not None
    assert float(gap[1]) > 100 * CLOSE


def test_a_file_that_its_own_quantization_spoils_is_refused(tmp_path: Path) -> None:
    """As an ONNX file is: its hidden layer leaves what its integers hold."""
    model = schema.ModelT.InitFromPackedBuf((GOLDEN / "dense_int8.tflite").read_bytes(), 0)
    hidden = model.subgraphs[0].tensors[model.subgraphs[0].operators[1].inputs[0]].quantization
    hidden.scale = hidden.scale / np.float32(50)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    (tmp_path / "m.tflite").write_bytes(builder.Output())
    with pytest.raises(MismatchError, match="the source's own quantization differs"):
        convert_with_report(tmp_path / "m.tflite", "float32", check="require")


def test_integer_weights_survive_our_own_quantization_unchanged() -> None:
    """TFLite's int8 has one scale a row, as ours: no weight is rounded a second time."""
    found = convert_with_report(GOLDEN / "lstm_hybrid.tflite", "w8a32", check="require")
    assert found.report.quantized_error < CLOSE


def test_a_sensor_model_of_a_published_package() -> None:
    """Causal convolution, mean, GRU, dense and unit norm, streamed: what each window computed."""
    with np.load(GOLDEN.parent / "ao_gru16_tflite.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    found = convert_with_report(fetch.model(fetch.AO_TFLITE), "float32", check="require")
    assert [n.OP for n in found.model.nodes] == ["conv1d", "conv1d", "gru", "dense", "l2_norm"]
    for rows, wanted in zip(x, y, strict=True):
        session = Session(found.model, capacity=1)
        np.testing.assert_allclose(session.run("s", rows), wanted, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", ["bilstm", "bilstm_fused"])
def test_keras_bidirectional_layers_are_windows(name: str) -> None:
    found = convert_with_report(GOLDEN / f"{name}.tflite", "float32", check="require")
    both = ["reverse", "lstm", "reverse", "lstm", "concat", "dense"]
    assert [n.OP for n in found.model.nodes] == both
    assert found.report.source_error is not None
    assert found.report.source_error < CLOSE


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
@pytest.mark.parametrize("merged", [True, False])
def test_fused_operators_both_ways_are_windows(tmp_path: Path, kind: str, merged: bool) -> None:
    path = models.both_ways(tmp_path / "m.tflite", kind, merged=merged)
    found = convert_with_report(path, "float32", check="require")
    ops = [n.OP for n in found.model.nodes]
    assert sorted(ops[:4]) == sorted([kind.lower(), kind.lower(), "reverse", "reverse"])
    assert ops[4:] == (["concat"] if merged else ["add"])
    assert found.report.source_error is not None
    assert found.report.source_error < CLOSE


def refused(path: Path) -> str:
    with pytest.raises(UnsupportedError) as caught:
        convert_with_report(path, check="skip")
    assert "; " in str(caught.value)
    return str(caught.value)


def test_refusals_name_the_operator(tmp_path: Path) -> None:
    path = models.sequence_lstm(tmp_path / "m.tflite", coupled=True, norm=True)
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in refused(path)
    g = Graph()
    x, y = g.tensor((1, 4, 3)), g.tensor((1, 4, 3))
    g.op("SVDF", [x], [y])
    (tmp_path / "s.tflite").write_bytes(g.file([x], [y]))
    assert "SVDF 't1': operator: is a filter of its own kind" in refused(tmp_path / "s.tflite")


def test_damaged_files_end_in_one_of_our_errors(tmp_path: Path) -> None:
    """Bytes changed, cut off, repeated: never anything but our own error, or a model."""
    rng = random.Random(0)
    path = tmp_path / "m.tflite"
    blobs = [
        (GOLDEN / f"{name}.tflite").read_bytes() for name in ("lstm_fused", "rnn", "dense_int8")
    ]
    for k in range(fewer(300)):
        blob = bytearray(blobs[k % len(blobs)])
        for _ in range(rng.choice([1, 4, 64])):
            blob[rng.randrange(8, len(blob))] = rng.choice(
                [0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)]
            )
        path.write_bytes(blob[: rng.choice([len(blob), rng.randrange(len(blob))])])
        with contextlib.suppress(EdgeRnnError):
            convert_with_report(path, "float32", check="skip")


def test_a_small_file_that_repeats_itself_is_refused_soon(tmp_path: Path) -> None:
    """A vector of graphs that are all the same one, with all its tensors."""
    builder = flatbuffers.Builder(1 << 16)
    graph = schema.SubGraphT()
    graph.tensors = [schema.TensorT() for _ in range(2000)]
    offset = graph.Pack(builder)
    schema.ModelStartSubgraphsVector(builder, 2000)
    for _ in range(2000):
        builder.PrependUOffsetTRelative(offset)
    graphs = builder.EndVector()
    buffer = schema.BufferT().Pack(builder)
    schema.ModelStartBuffersVector(builder, 1)
    builder.PrependUOffsetTRelative(buffer)
    buffers = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
    (tmp_path / "m.tflite").write_bytes(builder.Output())
    with pytest.raises(UnsupportedError, match="more than 50000 tensors and operators"):
        load(tmp_path / "m.tflite")
