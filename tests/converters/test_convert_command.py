"""`edge-rnn convert`."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

import edge_rnn
from edge_rnn.graph import Feature
from edge_rnn_converters.cli import convert
from tests.converters.onnx_models import Graph, I, random
from tests.converters.test_onnx import saved


@pytest.fixture
def path(tmp_path: Path) -> Path:
    g = Graph()
    y = g("Softmax", g("MatMul", g.cell("GRU", "x")[0], g.const(random(5, 2))))
    return saved(g.model({"x": ["T", 1, I]}, [y]), tmp_path)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(convert, [str(a) for a in arguments])


def test_it_writes_a_described_model_and_says_what_was_checked(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.ernn"
    result = invoke(
        path, "-o", out, "--features", "ax, ay,az", "--feature-units", "g,g,g",
        "--classes", "rest,walk", "--rate", "12.5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    model = edge_rnn.load(out)
    assert model.features == tuple(Feature(n, "g") for n in ("ax", "ay", "az"))
    assert (model.classes, model.rate_hz) == (("rest", "walk"), 12.5)
    for said in ("gru, dense, softmax", "3 in, 2 out", "onnxruntime", "256 steps", "float64"):
        assert said in result.stdout
    assert result.stderr == ""


def test_json_for_programs(path: Path, tmp_path: Path) -> None:
    result = invoke(path, "-o", tmp_path / "m.ernn", "--quantize", "float16", "--json")
    facts = json.loads(result.stdout)
    assert facts["quantize"] == "float16"
    assert [layer["op"] for layer in facts["layers"]] == ["gru", "dense", "softmax"]
    assert 0 < facts["source_error"] < 1e-5 and facts["output"].endswith("m.ernn")
    written = edge_rnn.load(tmp_path / "m.ernn").certificate
    assert msgspec.convert(facts["certificate"], type(written)) == written


def test_it_overwrites(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.ernn"
    out.write_text("old")
    assert invoke(path, "-o", out, "--check", "skip").exit_code == 0
    assert edge_rnn.load(out).probe is not None


def test_a_refusal_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    g = Graph()
    model = g.model({"x": ["T", 1, I]}, [g("Erf", g.cell("GRU", "x")[0], name="e")])
    out = tmp_path / "m.ernn"
    result = invoke(saved(model, tmp_path), "-o", out)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith("edge-rnn: Erf 'e': operator: ")
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_a_folder_that_is_not_there_is_exit_code_1(path: Path, tmp_path: Path) -> None:
    result = invoke(path, "-o", tmp_path / "none" / "m.ernn", "--check", "skip")
    assert result.exit_code == 1 and result.stderr.startswith("edge-rnn: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--quantize", "int2"],
        ["--check", "maybe"],
        ["--rate", "fast"],
        ["--features", "a,b,c", "--feature-units", "g"],
    ],
)
def test_usage_errors_are_exit_code_2(arguments: list[str], path: Path, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "m.ernn")] if arguments else []
    assert invoke(path, *out, *arguments).exit_code == 2


def test_help_has_an_example() -> None:
    assert "edge-rnn convert har.keras -o har.ernn" in invoke("--help").stdout
