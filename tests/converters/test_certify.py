"""What is made of a certificate: calibrated biases, formats that keep a bound, the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edge_rnn
from edge_rnn.errors import ModelError
from edge_rnn.graph import Gru, Matrix
from edge_rnn_converters import cli as convert_cli
from edge_rnn_converters import compare, convert_with_report
from edge_rnn_converters.certificate import Bounds, Request, certify, compute
from edge_rnn_converters.certificate.auto import LADDER, choose
from edge_rnn_converters.certificate.biases import corrected
from edge_rnn_converters.certificate.command import command
from edge_rnn_converters.certificate.data import Data, generated
from edge_rnn_converters.quantize import precision_of, quantize
from tests.converters.onnx_models import Graph, I, random
from tests.converters.test_certificate import STEPS, classifier
from tests.converters.test_onnx import saved


def test_biases_are_shifted_only_where_that_helps() -> None:
    exact = classifier()
    x = compare.stress(exact, 2000)
    truth, small = compute(exact, x), quantize(exact, "w4a8")
    data = Data(x, "d")
    better, said = corrected(exact, small, data, truth, Bounds())
    assert said and "dB before" in said[0]
    old, new = (truth.errors("q", compare.run(m, x)).sqnr_db for m in (small, better))
    assert old is not None and new is not None and new > old
    assert corrected(exact, exact, data, truth, Bounds()) == (exact, ())
    worst = truth.errors("q", compare.run(small, x)).largest
    kept, _ = corrected(exact, better, data, truth, Bounds(worst))
    assert kept is better, "a second shift finds nothing"


def test_biases_are_judged_on_steps_that_they_have_not_seen() -> None:
    """A stream whose second half is another world: means of the first do not hold there."""
    exact = classifier()
    rng = np.random.default_rng(0)
    half = rng.normal(3, 0.1, (500, 3)).astype(np.float32)
    x = np.tile(np.concatenate([half, -half]), (4, 1))
    truth, small = compute(exact, x), quantize(exact, "w4a8")
    assert corrected(exact, small, Data(x, "d", once=1000), truth, Bounds()) == (small, ())


def test_auto_takes_the_smallest_that_keeps_the_bound() -> None:
    exact = classifier()
    x = compare.stress(exact, STEPS)
    truth = compute(exact, x)
    errors = {p: truth.errors(p, compare.run(quantize(exact, p), x)) for p in LADDER}
    bounds = Bounds(max_error=0.7 * errors["w4a8"].largest)
    choice = choose(exact, x, truth, bounds)
    assert not bounds.failures(truth.errors("auto", compare.run(choice.model, x)))
    assert set(choice.formats.values()) != {"w4a8"} and "float32" not in choice.formats.values()
    assert [reason.partition(":")[0] for reason in choice.reasons] == ["lstm", "gru", "out"]
    loose = choose(exact, x, truth, Bounds(max_error=1.1 * errors["w4a8"].largest))
    assert set(loose.formats.values()) == {"w4a8"}


def test_auto_leaves_what_is_fixed() -> None:
    exact = classifier()
    x = compare.stress(exact, 300)
    choice = choose(exact, x, compute(exact, x), Bounds(max_error=0.9), {"gru": "float16"})
    assert [precision_of(n) for n in choice.model.nodes[:2]] == ["w4a8", "float16"]


@pytest.mark.parametrize(("bound", "holds"), [(2e-6, True), (1e-12, False)])
def test_auto_ends_in_float32_where_nothing_else_will_do(bound: float, holds: bool) -> None:
    exact = classifier()
    data = generated(exact, 300)
    truth = compute(exact, data.x)
    choice = choose(exact, data.x, truth, Bounds(bound))
    assert {precision_of(n) for n in choice.model.nodes[:3]} == {"float32"}
    c = certify(exact, choice.model, data, bounds=Bounds(bound), choice=choice.reasons).certificate
    assert (c.verdict == "passed") == holds
    assert all("float32" in reason for reason in c.choice)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    g = Graph()
    y = g("Softmax", g("MatMul", g.cell("GRU", "x")[0], g.const(random(5, 2))))
    return saved(g.model({"x": ["T", 1, I]}, [y]), tmp_path)


def run(which: Any, *arguments: str | Path) -> Result:
    return CliRunner().invoke(which, [str(a) for a in arguments])


def test_convert_certifies_and_certify_repeats_it(source: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "m.ernn", tmp_path / "page.html"
    measured = ("--steps", "600", "--max-error", "0.5")
    made = run(convert_cli.convert, source, "-o", out, *measured, "--report", sheet)
    assert made.exit_code == 0, made.output
    assert "passed (error <= 0.5)" in made.output and sheet.exists()
    kept = edge_rnn.load(out).certificate
    assert kept is not None and [r.name for r in kept.runs][1:] == ["float32", "quantized"]
    again = run(command, out, "--source", source, "--steps", "600", "--json")
    found = json.loads(again.output)
    assert again.exit_code == 0 and found["max_error"] == 0.5
    assert [r["largest"] for r in found["runs"]] == [r.largest for r in kept.runs]
    assert found["model"] == kept.model


def test_a_bound_that_does_not_hold_is_exit_code_3(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.ernn"
    made = run(convert_cli.convert, source, "-o", out, "--steps", "300", "--max-error", "1e-9")
    assert made.exit_code == 3 and "failed" in made.output
    kept = edge_rnn.load(out).certificate
    assert kept is not None and kept.verdict == "failed"
    assert run(command, out, "--source", source, "--steps", "300").exit_code == 3


def test_certify_notices_a_damaged_file(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.ernn"
    run(convert_cli.convert, source, "-o", out, "--steps", "300", "--max-error", "0.1")
    model = edge_rnn.load(out)
    gru = model.nodes[0]
    assert isinstance(gru, Gru)
    worse = replace(gru, u=Matrix(gru.u.data[::-1].copy(), gru.u.scale))
    edge_rnn.save(replace(model, nodes=(worse, *model.nodes[1:]), probe=None), out)
    assert run(command, out, "--source", source, "--steps", "300").exit_code == 3


def test_certify_refuses_another_source(source: Path, tmp_path: Path) -> None:
    edge_rnn.save(classifier(), tmp_path / "other.ernn")
    result = run(command, tmp_path / "other.ernn", "--source", source)
    assert result.exit_code == 1 and "other layers" in result.stderr


def test_auto_from_the_command_line_says_what_it_chose(source: Path, tmp_path: Path) -> None:
    asked = ("--quantize", "auto", "--steps", "300", "--max-error", "0.01")
    made = run(convert_cli.convert, source, "-o", tmp_path / "m.ernn", *asked)
    assert made.exit_code == 0 and "alone" in made.output
    without = run(convert_cli.convert, source, "-o", tmp_path / "m.ernn", *asked[:4])
    assert without.exit_code == 1 and "needs a bound" in without.stderr


def test_a_certificate_is_made_only_if_asked_for(source: Path) -> None:
    assert convert_with_report(source).model.certificate is None
    asked = convert_with_report(source, certificate=Request(steps=300))
    assert asked.certified is not None and asked.model.certificate is not None
    with pytest.raises(ModelError, match="auto needs a certificate"):
        convert_with_report(source, "auto")
