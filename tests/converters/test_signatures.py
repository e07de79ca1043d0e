"""SavedModels by their signatures: what is looked at before TensorFlow is given anything, without
TensorFlow; then what it writes, converted and compared with what it computes."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge_rnn import reference
from edge_rnn.cli import cli
from edge_rnn.errors import EdgeRnnError, ModelError, UnsupportedError
from edge_rnn.graph import Window
from edge_rnn_converters import convert, convert_with_report
from edge_rnn_converters.conversion import Conversion
from edge_rnn_converters.refused import SAVED_REFUSED
from edge_rnn_converters.source import reading
from edge_rnn_converters.tensorflow import program
from edge_rnn_converters.tensorflow.allowed import COMPUTES, checked
from edge_rnn_converters.tensorflow.graphdef import FILE, assembled, load
from edge_rnn_converters.tensorflow.weights import values
from edge_rnn_converters.wire import message
from tests.converters import signature_models
from tests.converters.mutate import mutated
from tests.effort import fewer

SAVED = Path(__file__).parents[1] / "golden" / "saved"
EXPORTED = SAVED / "exported"


def number(field: int, value: int) -> bytes:
    assert 0 <= value < 128
    return bytes([field << 3, value])


def node(name: str, op: str, *inputs: str, calls: str = "") -> bytes:
    given = [message(3, text.encode()) for text in inputs]
    call = message(10, message(1, calls.encode()))
    entry = message(5, message(1, b"f") + message(2, call)) if calls else b""
    return b"".join([message(1, name.encode()), message(2, op.encode()), *given, entry])


def function(name: str, *nodes: bytes) -> bytes:
    return message(1, message(1, name.encode())) + b"".join(message(3, n) for n in nodes)


def tensor(key: str, name: str, field: int) -> bytes:
    shape = message(3, b"".join(message(2, number(1, size)) for size in (1, 4, 2)))
    info = message(1, name.encode()) + number(2, 1) + shape
    return message(field, message(1, key.encode()) + message(2, info))


def saved(folder: Path, *functions: bytes, nodes: tuple[bytes, ...] = (), name: str = "f") -> Path:
    """A SavedModel whose signature "serving_default" calls the function f."""
    main = [node("x", "Placeholder"), node("call", "PartitionedCall", "x", calls="f"), *nodes]
    library = message(2, b"".join(message(1, f) for f in functions))
    graph = message(2, b"".join(message(1, n) for n in main) + library)
    signature = tensor("x", "x:0", 1) + tensor("y", "call:0", 2)
    entry = message(5, message(1, b"serving_default") + message(2, signature))
    (folder / FILE).write_bytes(number(1, 1) + message(2, graph + entry))
    return folder


@pytest.fixture
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)


STRANGE = ["WriteFile", "ReadFile", "PyFunc", "EagerPyFunc", "PrintV2", "SaveV2", "RestoreV2",
           "AssignVariableOp", "HashTableV2", "RandomUniform", "VarHandleOp", ""]  # fmt: skip


@pytest.mark.parametrize("op", STRANGE)
def test_an_operation_that_does_more_than_compute_is_named(
    op: str, tmp_path: Path, without_tensorflow: None
) -> None:
    body = function("f", node("fine", "Tanh", "x"), node("strange", op, "fine"))
    with pytest.raises(UnsupportedError, match=rf"node 'strange' of function 'f'.*{op}.*; "):
        convert(saved(tmp_path, body))


@pytest.mark.parametrize("way", ["While", "PartitionedCall", "Tanh"])
def test_functions_behind_functions_are_looked_at(way: str, tmp_path: Path) -> None:
    """Whatever operation names them."""
    inner = function("g", node("strange", "WriteFile"))
    folder = saved(tmp_path, function("f", node("loop", way, "x", calls="g")), inner)
    with pytest.raises(UnsupportedError, match="node 'strange' of function 'g'"):
        checked(load(folder), "")


def test_what_the_signature_does_not_reach_is_never_handed_on(tmp_path: Path) -> None:
    """As the functions that save and restore, which every SavedModel has."""
    body = function("f", node("y", "Tanh", "x"))
    folder = saved(tmp_path, body, function("g", node("strange", "WriteFile")),
                   nodes=(node("save", "StatefulPartitionedCall", calls="g"),))  # fmt: skip
    found = load(folder)
    reached = checked(found, "serving_default")
    assert reached.functions == ("f",)
    given = assembled(found, (reached.call,), reached.functions)
    assert b"WriteFile" in (folder / FILE).read_bytes() and b"WriteFile" not in given


def test_a_function_of_an_operations_name_is_looked_at(tmp_path: Path) -> None:
    """TensorFlow would call the function, not the operation; so only reached ones are handed on."""
    body = function("f", node("y", "Tanh", "x"))
    found = load(saved(tmp_path, body, function("Tanh", node("strange", "WriteFile"))))
    assert "Tanh" not in checked(found, "").functions


def test_a_field_that_others_may_read_as_another_is_damage(tmp_path: Path) -> None:
    """A tag of more than 32 bits, whose lower ones are those of a node's operation."""
    second = bytes([0x92, 0x80, 0x80, 0x80, 0x10, 9]) + b"WriteFile"
    body = function("f", node("y", "Tanh", "x") + second)
    with pytest.raises(ModelError, match="there is no field"):
        convert(saved(tmp_path, body))


def test_what_tensorflow_reads_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow")
    strange = message(1, node("strange", "WriteFile"))
    monkeypatch.setattr(program, "assembled", lambda *_: strange)
    with pytest.raises(ModelError, match="node 'strange' is 'WriteFile' to TensorFlow"):
        convert(EXPORTED)


def test_the_list_and_the_reasons_do_not_overlap() -> None:
    assert not COMPUTES & set(SAVED_REFUSED)
    assert not [op for op in COMPUTES if "Random" in op or "Assign" in op or "File" in op]


@pytest.mark.parametrize(
    ("nodes", "functions", "error", "says"),
    [
        ((), (), ModelError, "there is no function 'f'"),
        ((node("call", "Tanh", "x"),), (function("f"),), UnsupportedError, "is not the call"),
        ((node("call", "PartitionedCall", "x", "r", calls="f"), node("r", "ReadFile")),
         (function("f"),), UnsupportedError, "is called with the result of ReadFile 'r'"),
        ((node("call", "PartitionedCall", "x", "v", calls="f"), node("v", "VarHandleOp")),
         (function("f"),), ModelError, "node 'v': no object is bound"),
    ],
)  # fmt: skip
def test_graphs_of_another_form(
    nodes: tuple[bytes, ...], functions: tuple[bytes, ...], error: type[EdgeRnnError], says: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(error, match=says):
        checked(load(saved(tmp_path, *functions, nodes=nodes)), "")


def test_a_signature_that_is_not_there(tmp_path: Path) -> None:
    folder = saved(tmp_path, function("f"))
    with pytest.raises(UnsupportedError, match="has 'serving_default'; choose one with --signat"):
        convert(folder, signature="other")
    (folder / FILE).write_bytes(b"")
    with pytest.raises(ModelError, match="holds no graph"):
        convert(folder)


def test_without_tensorflow_its_extra_is_named(without_tensorflow: None) -> None:
    with pytest.raises(UnsupportedError, match=r"edge-rnn\[tensorflow\].*model\.save\('m\.keras"):
        convert(EXPORTED)


def test_variables_are_those_of_the_checkpoint() -> None:
    """Read without TensorFlow, as what Keras computes is made of them."""
    found = load(EXPORTED)
    reached = checked(found, "")
    arrays = values(EXPORTED, found, reached)
    shapes = sorted(a.shape for a in arrays.values())
    assert shapes == [(2,), (2, 12), (3, 12), (4, 2), (4, 12)]
    assert [x.shape for x in reached.inputs] == [(None, None, 3)]


@pytest.mark.parametrize("kind", ["onnx", "raw"])
def test_changed_graphs_are_looked_at_or_end_in_an_error_of_ours(kind: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXPORTED, tmp_path / "m"))
    blob, errors = (folder / FILE).read_bytes(), set()
    for turn in range(fewer(40)):
        (folder / FILE).write_bytes(mutated(blob, kind, random.Random(f"{kind} {turn}")))
        try:
            with reading("m"):
                found = load(folder)
                reached = checked(found, "")
                values(folder, found, reached)
        except EdgeRnnError as e:
            errors.add(str(e))
            continue
        given = assembled(found, (reached.call, *reached.constants), reached.functions)
        assert b"SaveV2" not in given and b"RestoreV2" not in given
    assert errors


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("signatures")
    signature_models.write(folder)
    yield folder.joinpath


def converted(path: Path, **options: Any) -> Conversion:
    found = convert_with_report(path, "float32", check="require", **options)
    assert found.report.source_run is not None
    assert found.report.source_run.startswith("tensorflow ")
    assert found.report.source_error is not None and found.report.source_error < 1e-5
    return found


@pytest.mark.parametrize(
    ("name", "layers", "steps"),
    [
        ("gru", ["gru", "dense", "softmax"], 256),
        ("gru_before", ["gru"], 256),
        ("lstm", ["lstm", "dense"], 1),
        ("rnn", ["rnn", "dense"], 256),
        ("unrolled", ["gru"], 10),
        ("stacked", ["lstm", "gru"], 3),
        ("open", ["rnn", "gru"], 3),
        ("conv", ["conv1d", "lstm", "dense"], 256),
        ("norm", ["gru", "layer_norm"], 256),
        ("indices", ["embedding", "lstm"], 3),
        ("batch", ["lstm"], 20),
        ("several", ["gru", "dense", "dense"], 256),
    ],
)
def test_what_keras_3_exports(
    name: str, layers: list[str], steps: int, models: Callable[[str], Path]
) -> None:
    """A sequence of any length is compared over all its steps, one of 20 over 20, and where the
    source answers at the end only, at the ends of a few."""
    found = converted(models(name))
    ops = [n.OP for n in found.model.nodes if n.OP not in ("concat", "slice")]
    assert sorted(ops) == sorted(layers)
    assert found.report.source_steps == steps
    assert found.report.framework.startswith("TensorFlow 2.")


def test_the_folder_that_is_kept() -> None:
    pytest.importorskip("tensorflow")
    found = converted(EXPORTED)
    with np.load(SAVED / "exported.npz") as golden:
        y = reference.run(found.model, golden["x"])
        np.testing.assert_allclose(y, golden["y"], atol=1e-6)


def test_a_model_that_looks_ahead_needs_a_window(models: Callable[[str], Path]) -> None:
    with pytest.raises(UnsupportedError, match=r"looks ahead.*--mode tumbling --window N"):
        convert(models("both"))
    assert converted(models("both"), mode=Window(24, 24)).report.source_steps == 8


@pytest.mark.parametrize(
    ("signature", "layers", "steps"),
    [
        ("written_out", ["rnn"], 10),
        ("loop", ["rnn"], 256),
        ("last", ["rnn"], 1),
        ("scan", ["lstm"], 20),
        ("one_step", ["rnn", "dense"], 256),
    ],
)
def test_what_tf_functions_compute(
    signature: str, layers: list[str], steps: int, models: Callable[[str], Path]
) -> None:
    shape = {"x": (20, 1, 6)} if signature == "scan" else {}
    found = converted(models("module"), signature=signature, inputs=shape)
    assert [n.OP for n in found.model.nodes] == layers
    assert found.report.source_steps == steps


def test_what_a_module_may_not_do(models: Callable[[str], Path]) -> None:
    with pytest.raises(UnsupportedError, match=r"SELECT.*chooses by a condition"):
        convert(models("module"), signature="choosing")
    with pytest.raises(UnsupportedError, match=r"'StringFormat'.*is not among the operations"):
        convert(models("module"), signature="printing")
    with pytest.raises(UnsupportedError, match=r"'AssignVariableOp'.*stateful=False"):
        convert(models("module"), signature="keeping")
    with pytest.raises(UnsupportedError, match=r"has 'choosing', .*, 'written_out'; choose"):
        convert(models("module"))


def test_the_commands_take_a_signature(models: Callable[[str], Path], tmp_path: Path) -> None:
    source, file = str(models("module")), str(tmp_path / "m.ernn")
    chosen = ["--signature", "written_out", "--steps", "300"]
    for command in (["convert", source, "-o", file], ["certify", file, "--source", source]):
        result = CliRunner().invoke(cli, [*command, *chosen])
        assert result.exit_code == 0, result.output


@pytest.mark.process
def test_converting_in_a_guarded_process_says_nothing_of_tensorflow(tmp_path: Path) -> None:
    import subprocess

    pytest.importorskip("tensorflow")
    command = ["convert", str(EXPORTED), "-o", str(tmp_path / "m.ernn"), "--steps", "300"]
    ran = subprocess.run(
        [sys.executable, "-m", "edge_rnn", *command], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "tensorflow 2." in ran.stdout and ran.stderr == ""
