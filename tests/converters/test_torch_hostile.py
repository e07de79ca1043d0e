"""PyTorch files that are damaged or mean harm: one clear error each, nothing of them run."""

from __future__ import annotations

import contextlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn.errors import EdgeRnnError, ModelError, UnsupportedError
from edge_rnn_converters import convert
from edge_rnn_converters.source import Options

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from edge_rnn_converters.torch.source import read  # noqa: E402
from tests.converters.test_torch import I, T, agrees, exported, quietly  # noqa: E402


class Bomb:
    """Unpickling this would fail the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


def changed(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """The archive with each member's bytes changed."""
    with zipfile.ZipFile(path) as old:
        members = {i.filename: change(i.filename, old.read(i)) for i in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    return path


def test_no_pickle_and_no_expression_of_an_exported_program_is_run(tmp_path: Path) -> None:
    path = exported(nn.Linear(I, 2), tmp_path / "m.pt2", 1, T, I)
    expression = "__import__('pytest').fail('an expression was evaluated')"

    def hostile(name: str, data: bytes) -> bytes:
        if name.endswith("sample_inputs/model.pt"):
            return pickle.dumps(Bomb())
        if name.endswith("models/model.json"):
            program = json.loads(data)
            values = program["graph_module"]["graph"]["tensor_values"]
            values["x" if "x" in values else "input"]["sizes"][1] = {
                "as_expr": {"expr_str": expression, "hint": {"as_int": T}}
            }
            return json.dumps(program).encode()
        return data

    agrees(read(changed(path, hostile), "pt2", Options()))


@pytest.mark.parametrize("target", ["builtins.eval", "torch.ops.aten.../os.system", "torch.load"])
def test_an_exported_program_calls_nothing_but_aten(target: str, tmp_path: Path) -> None:
    path = exported(nn.Linear(I, 2), tmp_path / "m.pt2", 1, T, I)

    def hostile(name: str, data: bytes) -> bytes:
        return data.replace(b"torch.ops.aten.linear.default", target.encode())

    with pytest.raises(UnsupportedError, match="is no ATen operator of this PyTorch"):
        read(changed(path, hostile), "pt2", Options())


class Saving(nn.Module):
    def __init__(self, to: str) -> None:
        super().__init__()
        self.to_file, self.layer = to, nn.Linear(I, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.to_file)
        return self.layer(x)


def test_torchscript_that_writes_a_file_is_not_even_loaded(tmp_path: Path) -> None:
    target = tmp_path / "written"
    quietly(torch.jit.script, Saving(str(target))).save(tmp_path / "m.pt")
    with pytest.raises(UnsupportedError, match="'save': reaches outside of the model"):
        read(tmp_path / "m.pt", "torchscript", Options())
    assert not target.exists()


@pytest.mark.parametrize(
    "call", ["torch . save", "getattr(torch, 'sa' 've')", "ops.c10d.barrier", "torch.from_file"]
)
def test_torchscript_that_reaches_outside_of_the_model(call: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    quietly(torch.jit.script, nn.Linear(I, 2)).save(path)

    def hostile(name: str, data: bytes) -> bytes:
        call_first = f"{call}(input)\n    return ".encode()
        return data.replace(b"return ", call_first) if name.endswith(".py") else data

    with pytest.raises(UnsupportedError, match="reaches outside of the model"):
        read(changed(path, hostile), "torchscript", Options())


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl"])
def test_no_pickle_of_torchscript_runs_code(member: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    quietly(torch.jit.script, nn.Linear(I, 2)).save(path)
    bomb = pickle.dumps(Bomb())
    changed(path, lambda name, data: bomb if name.endswith(f"/{member}") else data)
    with pytest.raises(ModelError):
        convert(path, check="skip")


def test_a_pickled_weight_of_an_exported_program_is_refused(tmp_path: Path) -> None:
    path = exported(nn.Linear(I, 2), tmp_path / "m.pt2", 1, T, I)

    def hostile(name: str, data: bytes) -> bytes:
        if "/data/weights/weight_" in name:
            return pickle.dumps(Bomb())
        return data.replace(b'"use_pickle": false', b'"use_pickle": true')

    with pytest.raises(UnsupportedError, match="pickle: is not a plain tensor"):
        read(changed(path, hostile), "pt2", Options())


@pytest.mark.parametrize("form", ["pt2", "torchscript"])
def test_damaged_files_are_one_error_of_ours(form: Any, tmp_path: Path) -> None:
    path = tmp_path / "m"
    if form == "pt2":
        exported(nn.Linear(I, 2), path.with_suffix(".pt2"), 1, T, I).rename(path)
    else:
        quietly(torch.jit.script, nn.Linear(I, 2)).save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(3)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 4):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(EdgeRnnError):
            convert(path, check="skip")
