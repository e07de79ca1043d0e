"""The commands as a user types them, each in a process of its own where that matters."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import edge_rnn
from edge_rnn.cli import cli, main
from edge_rnn.graph import Feature, Probe, output_digest
from tests.core import models

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "m.ernn"
    model, x = models.stack("int8"), models.inputs(20)
    y = edge_rnn.Session(model).run("a", x)
    features = tuple(Feature(f"a{i}", "g") for i in range(5))
    probe = Probe(x, y, output_digest(y))
    edge_rnn.save(dataclasses.replace(model, features=features, probe=probe, rate_hz=10), path)
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)


def commands() -> dict[str, click.Command]:
    ctx = click.Context(cli)
    found = {name: cli.get_command(ctx, name) for name in cli.list_commands(ctx)}
    return {name: command for name, command in found.items() if command is not None}


def test_the_commands_promised_are_there() -> None:
    assert {"convert", "inspect", "verify", "run", "demo", "bench"} <= set(commands())


@pytest.mark.parametrize(
    "name", ["bench", "completion", "convert", "demo", "inspect", "run", "verify", "warmup"]
)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    text = run(name, "--help").output
    assert "Example" in text
    assert f"edge-rnn {name}" in text


def test_every_command_and_option_is_documented() -> None:
    text = DOCS.read_text()
    for name, command in commands().items():
        assert f"## edge-rnn {name}" in text
        section = text.split(f"## edge-rnn {name}")[1].split("\n## ")[0]
        for parameter in command.params:
            for option in parameter.opts:
                assert f"`{option}" in section or option == parameter.name, (name, option)


def test_inspect(file: Path) -> None:
    report = json.loads(run("inspect", file, "--json").output)
    model = edge_rnn.load(file)
    rows = {row["name"]: row for row in report["layers"]}
    H, I = models.H, models.I
    assert rows["lstm"]["parameters"] == 4 * H * (I + H + 1)
    assert rows["lstm"]["multiply_adds"] == 4 * H * (I + H)
    assert rows["lstm"]["bytes"] == 4 * H * (I + H) + 2 * 4 * 4 * H + 4 * 4 * H
    assert rows["lstm"]["state_bytes"] == 8 * H
    assert report["state_bytes"] == edge_rnn.Session(model).state_bytes
    table = run("inspect", file).output
    for word in ("lstm", "gru (before)", "a0 g", "10 Hz", "probe"):
        assert word in table.replace("\n", " ") or word.split()[0] in table


def test_verify_says_identical_and_exits_zero(file: Path) -> None:
    done = run("verify", file)
    assert done.exit_code == 0
    assert done.output.startswith("bit-identical")


def test_verify_says_where_it_first_differs(file: Path, tmp_path: Path) -> None:
    model = edge_rnn.load(file)
    assert model.probe is not None
    output = model.probe.output.copy()
    output[7, 2] = np.nextafter(output[7, 2], np.float32(2))
    probe = Probe(model.probe.input, output, output_digest(output))
    edge_rnn.save(dataclasses.replace(model, probe=probe), tmp_path / "other.ernn")
    done = run("verify", tmp_path / "other.ernn", "--json")
    assert done.exit_code == 3
    report = json.loads(done.output)
    step, column, here, there = report["first_difference"]
    assert (step, column, there) == (7, 2, output[7, 2])
    assert here == model.probe.output[7, 2]
    said = run("verify", tmp_path / "other.ernn").output
    assert f"step 7, column 2: {here:.9g} here, {there:.9g} in the file" in said
    assert 0 < report["max_difference"] < 1e-6


@pytest.mark.jit
def test_bench_measures_each_batch(file: Path) -> None:
    report = json.loads(run("bench", file, "--batch", "1,4", "--seconds", "0.05", "--json").output)
    assert [t["batch"] for t in report["timings"]] == [1, 4]
    assert all(0 < t["p50_us"] <= t["p99_us"] for t in report["timings"])
    bad = run("bench", file, "--batch", "1,x")
    assert bad.exit_code == 2
    assert "expected sizes such as 1,8,64" in bad.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "edge-rnn" in run("completion", shell).output


def test_an_error_is_one_line_and_exit_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.ernn").write_bytes(b"PK")
    with pytest.raises(SystemExit) as e:
        main(["inspect", str(tmp_path / "m.ernn")])
    assert e.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "m.ernn: truncated" in err


@pytest.mark.process
def test_module_and_exit_codes(file: Path) -> None:
    def code(*args: str) -> int:
        command = [sys.executable, "-m", "edge_rnn", *args]
        return subprocess.run(command, capture_output=True, cwd=DOCS.parents[1]).returncode

    assert code("verify", str(file)) == 0
    assert code("verify", "/nonexistent.ernn") == 1
    assert code("nonsense") == 2
