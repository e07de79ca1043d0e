"""The peers compute what our reference does, before anyone looks at their times."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edge_rnn
from edge_rnn import reference
from edge_rnn.cli import cli, peers
from edge_rnn.cli.measure import Variant, compare, inputs, our_step
from edge_rnn.errors import ConfigError, MissingExtraError, UnsupportedError
from edge_rnn.graph import F32, Dense, Input, Model
from edge_rnn_converters.peers import litert_peer, nodes
from edge_rnn_converters.peers.nodes import int8
from tests.core import models

ROOT = Path(__file__).parents[2]
PACKAGES = {"litert": "ai_edge_litert", "onnxruntime": "onnxruntime", "torch": "torch"}
INSTALLED = [name for name, package in PACKAGES.items() if find_spec(package)]
NODES = ("rnn", "rnn_relu", "lstm", "gru_after", "gru_before", "scale", "activation", "softmax")


def model(kind: str, weights: str) -> Model:
    r = models.Random(0, weights)
    if kind == "stack":
        return models.stack(weights)
    if kind == "dense":
        return models.model(Dense("dense", "x", r.matrix(7, 5), r.vector(7), "relu"))
    if kind == "two cells":
        return models.model(models.lstm(r, "one"), models.gru(r, "two", "one", models.H))
    if kind == "hidden cell":
        deep = models.model(models.lstm(r, "one"), models.lstm(r, "two", "one", models.H))
        return dataclasses.replace(deep, outputs=("one",))
    return models.single(kind, weights)


def relative_error(step_outputs: F32, m: Model, x: F32) -> float:
    streams = [reference.run(m, x[:, b]) for b in range(x.shape[1])]
    exact = np.stack(streams, axis=1)
    return float(np.sqrt(np.square(step_outputs - exact).mean() / np.square(exact).mean()))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("kind", [*NODES, "dense", "two cells", "hidden cell", "stack"])
@pytest.mark.parametrize("name", INSTALLED)
def test_a_peer_computes_what_the_reference_does(
    name: str, kind: str, weights: str, batch: int
) -> None:
    m = model(kind, weights)
    x = inputs(m, batch)
    if name == "torch" and kind in ("gru_before", "stack"):
        with pytest.raises(UnsupportedError, match="no GRU with reset='before'"):
            peers.load([name])[name](m, batch)
        return
    variants = peers.load([name])[name](m, batch)
    bounds = {"float32": 1e-6, "int8": 0.04, "LiteRT int8 full": 0.1}
    for v in variants:
        y = np.stack([v.step(rows).copy() for rows in x])
        assert y.shape == (*x.shape[:2], m.output_width)
        assert relative_error(y, m, x) < bounds.get(v.name, bounds[v.numbers]), v.name
    quantizable = {"lstm"} if name == "onnxruntime" else {"rnn", "lstm", "gru", "dense"}
    numbers = {v.numbers for v in variants}
    assert "float32" in numbers
    assert ("int8" in numbers) == bool(quantizable & {n.OP for n in m.nodes})


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("batch", [1, 4])
def test_streams_of_a_batch_keep_apart(name: str, batch: int) -> None:
    m = model("lstm", "float32")
    x = inputs(m, batch)
    for v in peers.load([name])[name](m, batch):
        y = np.stack([v.step(rows).copy() for rows in x])
        (alone,) = (a for a in peers.load([name])[name](m, 1) if a.name == v.name)
        last = np.stack([alone.step(rows[-1:]).copy() for rows in x])
        np.testing.assert_allclose(y[:, -1:], last, atol=0.05 if v.numbers == "int8" else 1e-6)


@pytest.mark.parametrize("export", ["float32", "int8 dynamic", "int8 full"])
@pytest.mark.parametrize("kind", ["lstm", "gru_after", "gru_before", "rnn"])
def test_xnnpack_runs_the_whole_litert_graph(kind: str, export: nodes.LitertExport) -> None:
    interpreter, _ = litert_peer.interpreter(model(kind, "int8"), 2, export)
    # Public interfaces don't say what the delegate took.
    delegates = [o for o in interpreter._get_ops_details() if o["op_name"] == "DELEGATE"]
    assert len(delegates) == 1
    assert {d["index"] for d in interpreter.get_input_details()} <= set(delegates[0]["inputs"])
    assert {d["index"] for d in interpreter.get_output_details()} == set(delegates[0]["outputs"])


def test_int8_rows_have_a_scale_each_and_keep_their_largest_weight() -> None:
    rows = np.array([[0.5, -1.0, 0.25], [0.0, 0.0, 0.0], [-30.0, 10.0, 20.0]])
    data, scale = int8(rows, 63)
    assert data.tolist()[1] == [0, 0, 0]
    assert np.abs(data[[0, 2]]).max(axis=1).tolist() == [63, 63]
    assert (np.abs(data * scale[:, None] - rows) <= scale[:, None] * 0.5001).all()


def test_models_that_a_peer_cannot_express_are_refused_by_name() -> None:
    two = Model((Input("x", 5), Input("u", 2)), models.single("lstm").nodes, ("cell",))
    cases = {
        "node 'emb': embedding": models.embedding(),
        "node 'cell': gate='hard_sigmoid_keras2'": models.single("lstm_hard"),
        "node 'cell': gate='hard_sigmoid_relu6'": models.single("gru_odd"),
        "node 'dense': act='silu'": models.single("dense"),
        "one input and one output": two,
    }
    for text, m in cases.items():
        _, absent = peers.variants(m, 1, peers.load(INSTALLED))
        assert [a.peer for a in absent] == INSTALLED
        assert all(text in a.reason for a in absent), (text, absent)


def test_a_peer_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = {"litert": "litert", "onnxruntime": "onnx", "torch": "torch"}
    known = peers.load(peers.names())
    assert set(known) == set(extras)
    for name, package in PACKAGES.items():
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"edge-rnn\[{extras[name]}\]"):
            known[name](model("lstm", "int8"), 1)


def test_only_a_variant_that_agrees_is_timed() -> None:
    m = model("lstm", "int8")
    ours = our_step(m, 2)

    def off(by: float) -> Variant:
        step = our_step(m, 2)
        return Variant(f"off by {by}", "test", "float32", lambda x: step(x) * np.float32(1 + by))

    beside = [Variant("same", "test", "float32", ours), off(0.001), off(float("nan"))]
    timing, (same, different, nan) = compare(m, 2, beside, seconds=0.01, rounds=2)
    assert timing.calls >= 2
    assert same.agrees
    assert same.timing is not None
    assert same.ratio is not None and same.ratio > 0
    assert not different.agrees
    assert different.difference == pytest.approx(0.001, rel=0.01)
    assert different.timing is different.ratio is None
    assert not nan.agrees
    assert nan.timing is None


def bench(*args: object) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, args)], catch_exceptions=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "m.ernn"
    edge_rnn.save(model("lstm", "int8"), path)
    return path


def test_bench_against_peers_as_json(file: Path) -> None:
    done = bench(
        file, "--against", "onnxruntime,litert", "--batch", "1,3", "--seconds", "0.02", "--json"
    )
    report = json.loads(done.stdout)
    assert [t["batch"] for t in report["timings"]] == [1, 3]
    assert report["absent"] == []
    names = [
        *("ONNX Runtime float32", "ONNX Runtime int8"),
        *("LiteRT float32", "LiteRT int8 dynamic", "LiteRT int8 full"),
    ]
    assert [(c["batch"], c["variant"]) for c in report["compared"]] == [
        (b, n) for b in (1, 3) for n in names
    ]
    for c in report["compared"]:
        assert c["agrees"]
        assert c["difference"] <= c["tolerance"]
        assert c["ratio"] > 0
        assert c["timing"]["batch"] == c["batch"]
        assert 0 < c["timing"]["p50_us"] <= c["timing"]["p99_us"]
        assert c["runtime"].split()[0] in c["variant"]


def test_bench_against_peers_as_a_table(file: Path, tmp_path: Path) -> None:
    text = bench(file, "--against", "onnxruntime", "--batch", "1", "--seconds", "0.02").stdout
    for word in ("edge-rnn", "ONNX Runtime float32", "ONNX Runtime int8", "ratio", "differs"):
        assert word in text
    edge_rnn.save(models.embedding("int8"), tmp_path / "e.ernn")
    text = bench(tmp_path / "e.ernn", "--against", "litert", "--seconds", "0.02").stdout
    assert "litert: not measured: LiteRT: node 'emb': embedding" in text.replace("\n", " ")


def test_the_matrix_measures_what_is_installed_and_sets_bars() -> None:
    options = ("--only", "lstm w8a8 batch 1 H=32|over reading", "--rounds", "1", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.matrix", *options],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=100,
    )
    report = json.loads(done.stdout)
    rows = {row["peer"]: row for row in report["matrix"]}
    assert {"LiteRT int8 dynamic", "LiteRT int8 full", "ONNX Runtime int8"} <= set(rows)
    assert all(row["ratio"] > 0 and row["hidden"] == 32 for row in rows.values())
    bars = {name: row["bar"] for name, row in rows.items() if row["fastest"]}
    assert sorted(bars.values()) == [4, 9]
    assert bars["ONNX Runtime int8"] == 9
    assert [figure["bar"] for figure in report["limits"]] == [1.4, 1.4]
    assert all(f["value"] > 0 and f["reached"] == (f["value"] <= 1.4) for f in report["limits"])


def test_an_unknown_peer_is_refused_with_those_known(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tensorrt', expected some of litert, onnxruntime"):
        bench(file, "--against", "litert,tensorrt")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_bench_draws_a_picture(file: Path, tmp_path: Path, ending: str) -> None:
    picture = tmp_path / f"bench.{ending}"
    options = ("--batch", "1,4", "--seconds", "0.02", "--plot", picture, "--json")
    done = bench(file, "--against", "onnxruntime,litert", *options)
    assert [t["batch"] for t in json.loads(done.stdout)["timings"]] == [1, 4]
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[ending]
    assert picture.read_bytes().startswith(start)


def test_a_picture_that_cannot_be_drawn_is_refused_before_measuring(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.png or \.svg"):
        bench(file, "--plot", tmp_path / "bench.pdf")
    with pytest.raises(ConfigError, match="there is no folder"):
        bench(file, "--plot", tmp_path / "none" / "bench.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"edge-rnn\[plot\]"):
        bench(file, "--plot", tmp_path / "bench.png")
