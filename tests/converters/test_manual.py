"""`docs/converting.md`: its tables are what the code says, its examples run."""

from __future__ import annotations

import re
import shlex
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_rnn_converters import support
from edge_rnn_converters.cli import convert as command
from tests.converters import fetch, tflite_models
from tests.converters.keras_models import H, layers, made
from tests.converters.onnx_models import Graph, random
from tests.converters.test_onnx import saved
from tests.converters.test_weight_files import checkpoint
from tests.converters.test_weights import cell, file, weights

MANUAL = Path(__file__).parents[2] / "docs" / "converting.md"
TEXT = MANUAL.read_text()


def test_the_tables_are_made_from_the_code() -> None:
    """Remake them with: python -m edge_rnn_converters.support docs/converting.md"""
    assert support.fill(TEXT) == TEXT


def test_every_table_is_there() -> None:
    for name, table in support.tables().items():
        assert TEXT.count(table) == 1, name


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """har.keras, har.onnx, har.tflite and har's weights in the working folder, 6 features in and 4
    classes out."""
    monkeypatch.chdir(tmp_path)
    made(layers.GRU(H), layers.Dense(4, "softmax"), shape=(None, 6)).save("har.keras")
    g = Graph()
    y = g("Softmax", g("MatMul", g.cell("GRU", "x", width=6)[0], g.const(random(5, 4))))
    saved(g.model({"x": ["T", 1, 6]}, [y]), tmp_path).rename("har.onnx")
    tflite_models.sequence_rnn(Path("har.tflite"))
    arrays = cell("lstm", 4, 6, H) | weights(fc__weight=(4, H), fc__bias=(4,))
    file(arrays, tmp_path).rename("har.safetensors")
    Path("har-folder").mkdir()
    file(arrays, tmp_path).rename("har-folder/model.safetensors")
    Path("har.toml").write_text(re.findall(r"```toml\n(.*?)```", TEXT, re.S)[0])
    if find_spec("torch"):
        checkpoint(arrays, Path("har.pt"))


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.S))
def test_python_examples_run(code: str, sources: None) -> None:
    if "import torch" in code:
        pytest.importorskip("torch")
    exec(compile(code, str(MANUAL), "exec"), {})


def _torchscript() -> None:
    """activity.pt, 6 features in and 4 classes out."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save("activity.pt")


@pytest.mark.parametrize("line", re.findall(r"^edge-rnn convert ((?:.*\\\n)*.*)$", TEXT, re.M))
def test_commands_run(line: str, sources: None) -> None:
    if "--backend" in line:
        shutil.copy(fetch.model(fetch.DTLN), "denoiser.onnx")
        shutil.copy(fetch.model(fetch.AO_TFLITE), "sensor.tflite")
    if line.startswith("activity.pt "):
        _torchscript()
    if "har.pt" in line:
        pytest.importorskip("torch")
    few = [] if "--backend" in line else ["--steps", "300"]
    result = CliRunner().invoke(command, [*shlex.split(line.replace("\\\n", " ")), *few])
    assert result.exit_code == 0, result.output
