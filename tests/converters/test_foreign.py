"""Carried files that are damaged or changed, engines that are missing, and the commands."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edge_rnn
from edge_rnn import Session, hosted, reference
from edge_rnn.cli import cli
from edge_rnn.cli.verify import replay
from edge_rnn.errors import (
    MissingExtraError,
    ModelError,
    ModelFileError,
    UnsupportedError,
)
from edge_rnn.graph import Dense, Fixed, Foreign, Input, Model, Window
from edge_rnn_converters import host
from edge_rnn_converters.cli import convert
from edge_rnn_converters.quantize import quantize
from tests.converters.fetch import DTLN, model
from tests.converters.test_backends import SPEECH_STATE
from tests.core import models


@pytest.fixture(scope="module")
def dtln() -> Model:
    return host(model(DTLN), "onnxruntime", states=SPEECH_STATE).model


def foreign(m: Model) -> Foreign:
    assert m.foreign is not None
    return m.foreign


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n: {"blob": n.blob[:-1]}, "SHA-256"),
        (lambda n: {"width": 10_000}, "10000 of 257"),
        (lambda n: {"messages": 2}, "2 messages at once"),
        (lambda n: {"states": (*n.states, n.states[0])}, "twice"),
        (lambda n: {"states": ()}, "can't run"),
        (lambda n: {"states": (replaced(n.states[0], shape=(1, 2, 2, 128)),)}, "can't run"),
        (lambda n: {"y": replaced(n.y, tensor="none")}, "can't run"),
        (lambda n: {"x": replaced(n.x, shape=(1, 257, 0))}, "shapes"),
        (lambda n: {"y": replaced(n.y, shape=(-1, -257))}, "shapes"),
        (lambda n: {"x": replaced(n.x, shape=(1,) * 70 + (257,))}, "shapes"),
        (lambda n: {"fixed": (Fixed("sr", (1 << 20, 1 << 20), 0.0),)}, "shapes"),
    ],
)
def test_nodes_that_are_not_right(
    dtln: Model, change: Callable[[Foreign], dict[str, Any]], said: str
) -> None:
    node = replace(foreign(dtln), **change(foreign(dtln)))
    with pytest.raises(ModelError, match=said):
        Session(replace(dtln, nodes=(node,), probe=None))


def replaced(port: Any, **changes: Any) -> Any:
    return type(port)(**{f: getattr(port, f) for f in port.__struct_fields__} | changes)


def test_a_model_in_part_is_refused(dtln: Model) -> None:
    more = Dense(
        "more", foreign(dtln).name, models.Random().matrix(2, 257), np.zeros(2, np.float32)
    )
    for wrong in (
        replace(dtln, nodes=(*dtln.nodes, more), probe=None),
        replace(dtln, mask=0.0, probe=None),
        replace(dtln, window=Window(5, 5), probe=None),
        replace(dtln, inputs=(*dtln.inputs, Input("other", 1)), probe=None),
    ):
        with pytest.raises(ModelError, match=r"another engine|no window"):
            Session(wrong)


def test_a_damaged_file_is_our_error(dtln: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.ernn"
    edge_rnn.save(dtln, path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ModelFileError, match="altered"):
        edge_rnn.load(path)


@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_bytes_that_are_no_model(backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "m"
    for blob in (b"", b"no model", b"\x1c\0\0\0TFL3" + bytes(40), model(DTLN).read_bytes()[:5000]):
        path.write_bytes(blob)
        with pytest.raises(ModelError, match=backend):
            host(path, backend)


@pytest.mark.parametrize(
    ("backend", "packages", "extra"),
    [
        ("onnxruntime", ["onnxruntime"], "onnx"),
        ("litert", ["ai_edge_litert", "tflite_runtime"], "litert"),
    ],
)
def test_a_missing_engine_is_named(
    backend: Any, packages: list[str], extra: str, dtln: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in packages:
        for name in (package, f"{package}.interpreter"):
            monkeypatch.setitem(importlib.sys.modules, name, None)  # type: ignore[attr-defined]
    with pytest.raises(MissingExtraError, match=rf"edge-rnn\[{extra}\]"):
        Session(replace(dtln, nodes=(replace(foreign(dtln), engine=backend),)))


def test_without_the_converters_no_engine_is_known(
    dtln: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "entry_points", lambda group: [])
    with pytest.raises(MissingExtraError, match="edge_rnn_converters"):
        Session(dtln)


def test_what_needs_our_own_nodes_says_so(dtln: Model) -> None:
    with pytest.raises(UnsupportedError, match="onnxruntime runs it"):
        reference.run(dtln, np.zeros((3, 257)))
    with pytest.raises(UnsupportedError, match="onnxruntime runs it"):
        quantize(dtln, "int8")


def invoke(command: Any, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_the_commands(tmp_path: Path) -> None:
    out = tmp_path / "m.ernn"
    told = ("--backend", "onnxruntime", "--state", "input_3=tf_op_layer_stack_2", "--rate", "125")
    result = invoke(convert, model(DTLN), "-o", out, *told)
    assert result.exit_code == 0, result.output
    for said in ("onnxruntime 1", "input_2 [1, 1, 257]", "input_3 <- tf_op", "128 answers"):
        assert said in result.output
    m = edge_rnn.load(out)
    assert m.rate_hz == 125 and m.provenance is not None and m.probe is not None
    assert foreign(m).blob.tobytes() == model(DTLN).read_bytes()
    shown = invoke(cli, "inspect", out)
    assert (
        "onnxruntime, fed input_2 (1, 1, 257)" in shown.output
        and "input_3 <- tf_op" in shown.output
    )
    facts = json.loads(invoke(cli, "inspect", out, "--json").output)
    assert facts["state_bytes"] == 4 * 512 and facts["layers"][0]["parameters"] == 0
    timed = invoke(cli, "bench", out, "--seconds", "0.1", "--batch", "2", "--json")
    assert json.loads(timed.output)["timings"][0]["steps_per_second"] > 0
    verified = invoke(cli, "verify", out)
    assert verified.exit_code == 0 and "kernels only" in verified.output


def test_verify_of_another_engines_bits(dtln: Model) -> None:
    assert dtln.probe is not None
    assert replay(dtln).accepted and replay(dtln).identical
    for off, accepted in ((1e-6, True), (1e-2, False)):
        y = dtln.probe.output + np.float32(off)
        changed = replace(dtln.probe, output=y, digest=edge_rnn.graph.output_digest(y))
        result = replay(replace(dtln, probe=changed))
        assert (result.identical, result.accepted) == (False, accepted)


@pytest.mark.parametrize(
    "option", [("--quantize", "int8"), ("--layer", "a=int8"), ("--check", "skip")]
)
def test_options_that_change_the_model_are_refused(tmp_path: Path, option: tuple[str, str]) -> None:
    out = tmp_path / "m.ernn"
    result = invoke(convert, model(DTLN), "-o", out, "--backend", "onnxruntime", *option)
    assert result.exit_code == 2 and option[0] in result.output and not out.exists()


def test_an_ambiguous_model_lists_its_tensors(tmp_path: Path) -> None:
    result = invoke(convert, model(DTLN), "-o", tmp_path / "m.ernn", "--backend", "onnxruntime")
    assert result.exit_code == 1 and "input_3 [1, 2, 128, 2]" in result.output
