"""The limits of a core and the layers beside them: what is measured is what is said. No time is
judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import edge_rnn
from edge_rnn.cli import cli, layers
from edge_rnn.graph import Conv1d, Dense, multiply_adds, value_widths
from edge_rnn.kernels import FLIP, limits
from edge_rnn.kernels.cpu import LEVELS
from edge_rnn.kernels.entries import dot_peak, fma_peak, stream
from tests.core import models

ROOT = Path(__file__).parents[2]


def room() -> np.ndarray:
    return np.zeros(limits.ROOM, np.float32)


@pytest.mark.parametrize("nbytes", [1, 32, 1000, 4096, 70_001])
def test_stream_reads_each_word_as_often_as_told(nbytes: int) -> None:
    words = limits.words(nbytes)
    assert nbytes <= words.nbytes < nbytes + 4 * limits.LANES
    assert words.ctypes.data % 64 == 0
    words[:] = np.random.default_rng(0).integers(0, 50, words.size)
    y = room()
    assert stream(words, 3, y) == 3 * words.nbytes
    assert y.astype(np.float64).sum() == 3 * words.sum()


def test_peaks_make_as_many_multiply_adds_as_they_say() -> None:
    """With ones for operands each multiply-add adds one."""
    w, x = (np.ones_like(a) for a in limits.operands())
    y = room()
    assert dot_peak(w, x, 5, y) == y.sum() > 0
    v, u = (np.ones_like(a) for a in limits.floats())
    assert fma_peak(v, u, 5, y) == y.sum() > 0


@pytest.mark.process
@pytest.mark.parametrize("level", LEVELS)
def test_peaks_of_every_level(level: str) -> None:
    """With the JIT off, when any processor's kernels can run."""
    name = test_peaks_make_as_many_multiply_adds_as_they_say.__name__
    call = f"from tests.core import test_limits; test_limits.{name}()"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "EDGE_RNN_CPU": level}
    subprocess.run([sys.executable, "-c", call], cwd=ROOT, env=environment, check=True)


@pytest.mark.skipif(limits._PAIRED, reason="another layout of the operands")
def test_integer_peak_multiplies_its_operands() -> None:
    w, x = limits.operands()
    y = room()
    dot_peak(w, x, 2, y)
    n, rows = limits._N, limits.SUMS // limits._N
    groups = w[: 4 * n * limits.DEPTH].reshape(limits.DEPTH, n, 4).astype(np.int64)
    numbers = (x.view(np.uint8) if FLIP else x).astype(np.int64).reshape(2, limits.DEPTH, 1, 4)
    sums = [2 * (groups * row).sum(axis=(0, 2)) for row in numbers[:rows]]
    assert y[: limits.SUMS].tolist() == np.concatenate(sums).tolist()


def test_a_session_does_not_load_the_limits() -> None:
    code = (
        "import edge_rnn, sys; assert 'numpy' not in sys.modules; edge_rnn.Session; "
        "assert 'numpy' in sys.modules and 'edge_rnn.kernels.limits' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.jit
@pytest.mark.parametrize("weights", ["float32", "float16", "int8", "int8 int8", "int4 int16"])
def test_each_layer_with_a_matrix_is_measured(weights: str) -> None:
    model = models.strided(weights)
    found = layers.measure(model, 3, seconds=0.002, rounds=1)
    widths = value_widths(model)
    nodes = {n.name: n for n in model.nodes if multiply_adds(n, widths)}
    assert [layer.name for layer in found] == list(nodes)
    for layer in found:
        node = nodes[layer.name]
        integer = " " in weights and not (isinstance(node, Conv1d) and node.depthwise)
        assert layer.products == ("integer" if integer else "float32")
        assert layer.batch == 3
        figures = (layer.step_us, layer.stream_us, layer.of_stream, layer.of_peak, layer.peak)
        assert all(f > 0 for f in figures)


def test_the_bytes_of_a_layer_are_those_of_its_weights() -> None:
    r = models.Random(0, "int8 int8")
    node = Dense("y", "x", r.matrix(64, 128), r.vector(64), "linear", r.activations)
    model = models.model(node, width=128)
    held = layers.weight_bytes(model)
    assert 64 * 128 + 4 * 64 * 2 <= held <= 64 * 128 + 4 * 64 * 3 + 64


def test_one_stream_takes_every_row_in_a_call() -> None:
    model = models.single("gru_after")
    step, x, steps = layers.one_stream(model)
    assert x.shape[1:] == (steps, models.I)
    y = step(x[0]).copy()
    assert y.tobytes() == edge_rnn.Session(model).run("a", x[0]).tobytes()


@pytest.mark.jit
def test_bench_with_layers(tmp_path: Path) -> None:
    edge_rnn.save(models.stack("int8 int8"), tmp_path / "m.ernn")
    edge_rnn.save(models.single("softmax"), tmp_path / "none.ernn")

    def bench(file: str, *options: str) -> str:
        args = ["bench", str(tmp_path / file), "--batch", "1,4", "--seconds", "0.02", *options]
        return CliRunner().invoke(cli, args, catch_exceptions=False).stdout

    report = json.loads(bench("m.ernn", "--layers", "--json"))
    assert [row["name"] for row in report["layers"]] == ["lstm", "before", "after", "rnn", "dense"]
    assert {row["batch"] for row in report["layers"]} == {4}
    assert json.loads(bench("m.ernn", "--json"))["layers"] == []
    picture = tmp_path / "bench.svg"
    table = bench("m.ernn", "--layers", "--plot", str(picture))
    for word in ("dense", "reading", "reached", "batch 4"):
        assert word in table
    assert picture.stat().st_size > 1000
    assert "no layer has a matrix" in bench("none.ernn", "--layers", "--plot", str(picture))
