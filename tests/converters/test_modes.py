"""How a converted model is used: what its source implies, what its user chooses, the checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edge_rnn
from edge_rnn import Session, reference
from edge_rnn.cli.verify import replay
from edge_rnn.errors import MismatchError, ModelError, UnsupportedError
from edge_rnn.graph import (
    Concat,
    Conv1d,
    Dense,
    Embedding,
    Model,
    Pool,
    Window,
    answer_steps,
    masked,
)
from edge_rnn_converters import compare, convert, convert_with_report, readers
from edge_rnn_converters.certificate import Bounds, Request
from edge_rnn_converters.cli import convert as command
from edge_rnn_converters.source import LAST_ONLY, WINDOW, Regime, Source, SourceRun
from tests.converters.keras_models import H, I, layers, made
from tests.core import models
from tests.core.test_windows import GRU, bidirectional, centred

Change = Callable[[np.ndarray], np.ndarray]


def sourced(model: Model, ends: bool = True, change: Change = lambda y: y) -> Any:
    """What runs as the source of this network: the reference, asked for whole sequences."""

    def run(x: np.ndarray) -> SourceRun:
        if ends:
            y, steps = reference.run(model, x[~masked(model, x)])[-1:], np.array([len(x) - 1])
        else:
            steps, y = reference.answers(model, x)
        return SourceRun("the reference", steps, change(y.astype(np.float32)))

    return run


def read_as(monkeypatch: pytest.MonkeyPatch, model: Model, **facts: Any) -> Path:
    """A file whose reader gives this model."""
    run = facts.pop("run", sourced(model))
    facts.setdefault("notes", ())
    source = Source(model, "test", facts["notes"], run, facts.get("regime", Regime()))
    monkeypatch.setattr(readers, "read", lambda path, options: source)
    return Path(__file__)


def test_a_model_that_looks_ahead_takes_its_sources_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = read_as(monkeypatch, bidirectional(), regime=Regime(20, ends=True))
    done = convert_with_report(path, "float32")
    assert done.model.window == Window(20, 20)
    assert done.report.mode == "tumbling windows of 20 messages"
    assert "'reversed' looks ahead" in done.report.notes[0]
    assert done.report.source_steps == compare.WINDOWS
    assert done.report.source_error is not None and done.report.source_error < 1e-6
    assert done.report.runtime_error < 1e-4
    assert replay(done.model).identical


@pytest.mark.parametrize("regime", [Regime(), Regime(20)])
def test_a_model_that_looks_ahead_is_no_continuous_stream(
    monkeypatch: pytest.MonkeyPatch, regime: Regime
) -> None:
    path = read_as(monkeypatch, bidirectional(), regime=regime)
    mode = "continuous" if regime.window else None
    with pytest.raises(
        UnsupportedError, match=r"'reversed': reverse: looks ahead.*--mode tumbling"
    ):
        convert(path, mode=mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [Window(9, 9), Window(9, 2), Window(300, 50)])
@pytest.mark.parametrize("made", [bidirectional, centred, models.strided, lambda: GRU])
def test_every_window_is_checked_and_verified(
    monkeypatch: pytest.MonkeyPatch, made: Any, window: Window, tmp_path: Path
) -> None:
    model = made()
    run = sourced(model, ends=model.looks_ahead)
    path = read_as(monkeypatch, model, run=run, regime=Regime(20))
    done = convert_with_report(path, mode=window)
    assert done.model.window == window and done.report.mode == str(window)
    assert "windows of 20 steps, this model for" in done.report.notes[0]
    assert done.report.source_steps >= compare.WINDOWS <= done.report.steps
    edge_rnn.save(done.model, tmp_path / "m.ernn")
    found = replay(edge_rnn.load(tmp_path / "m.ernn"))
    assert found.identical and found.steps >= 2
    assert found.reference_error < 1e-3


def test_a_source_that_disagrees_on_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bidirectional()
    run = sourced(model, change=lambda y: y + np.float32([0, 1e-3, 0]))
    path = read_as(monkeypatch, model, run=run)
    with pytest.raises(MismatchError, match="step 19, column 1: the reference gives"):
        convert(path, mode=Window(20, 20))


def test_a_source_without_a_last_row_was_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(x: np.ndarray) -> SourceRun:
        return SourceRun("none", np.array([0]), np.zeros((1, 3), np.float32))

    path = read_as(monkeypatch, bidirectional(), run=run)
    done = convert_with_report(path, mode=Window(20, 20))
    assert done.report.source_run is None
    assert "no output for row 19 of a window of 20" in done.report.notes[-1]
    with pytest.raises(UnsupportedError, match="check=require"):
        convert(path, mode=Window(20, 20), check="require")


def test_a_strided_model_is_checked_and_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.strided()
    path = read_as(monkeypatch, model, run=sourced(model, ends=False))
    done = convert_with_report(path)
    assert done.report.mode == "continuous"
    assert done.report.steps == done.report.source_steps == model.schedule.count(256)
    assert replay(done.model).identical
    late = replace(
        model, nodes=(*model.nodes, Pool("late", "all", "max", 100, 1)), outputs=("late",)
    )
    path = read_as(monkeypatch, late, run=sourced(late, ends=False))
    done = convert_with_report(path)
    assert done.report.steps == done.report.source_steps == compare.WINDOWS
    assert done.model.probe is not None and len(done.model.probe.output) == 2


def test_a_masked_model_is_checked_and_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs of the check end with zeros, which the mask leaves out."""
    for model in (replace(GRU, mask=0.0), replace(bidirectional(), mask=0.0)):
        run = sourced(model, ends=model.looks_ahead)
        path = read_as(monkeypatch, model, run=run)
        done = convert_with_report(path, mode=Window(8, 2) if model.looks_ahead else None)
        assert replay(done.model).identical
    r = models.Random()
    index = models.model(Embedding("e", "x", r.matrix(4, 5)), models.gru(r, "cell", "e"), width=1)
    path = read_as(monkeypatch, replace(index, mask=0.0), run=sourced(index, ends=False))
    with pytest.raises(MismatchError):
        convert(path)  # a source that steps on index 0 too
    path = read_as(
        monkeypatch, replace(index, mask=0.0), run=sourced(replace(index, mask=0.0), ends=False)
    )
    probe = convert(path).probe
    assert probe is not None and len(probe.output) == np.count_nonzero(probe.input) < 64


def test_the_steps_with_answers_are_those_of_the_reference() -> None:
    x = models.inputs(60)
    x[np.random.default_rng(0).random(60) < 0.7] = 0.25
    for base in (GRU, replace(GRU, mask=0.25), replace(bidirectional(), mask=0.25)):
        modes = [None, Window(4, 4), Window(5, 2), Window(4, 4, every=True)]
        for window in modes[1:3] if base.looks_ahead else modes:
            model = replace(base, window=window)
            assert list(answer_steps(model, x)) == list(reference.answers(model, x)[0])


def test_notes_about_streams_are_not_said_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = (WINDOW.format(20, 20), "something", LAST_ONLY.format("layer 'g'"))
    regime = Regime(20, ends=True)
    run = sourced(GRU)
    path = read_as(monkeypatch, GRU, notes=notes, regime=regime, run=run)
    assert convert_with_report(path).report.notes == notes
    assert convert_with_report(path, mode="continuous").report.notes == notes
    assert convert_with_report(path, mode=Window(20, 5)).report.notes == ("something",)


def test_a_window_that_fits_no_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = read_as(monkeypatch, models.strided())
    with pytest.raises(ModelError, match="ends before its first output"):
        convert(path, mode=Window(5, 5))


def test_a_window_of_the_whole_input_as_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flatten and a dense layer: no look ahead, and one output a window."""
    r = models.Random()
    model = models.model(
        models.gru(r), Conv1d("y", "cell", r.matrix(2, 20 * models.H), r.vector(2), 20,
                              padding="valid"),
    )  # fmt: skip
    path = read_as(monkeypatch, model, run=sourced(model, ends=False))
    done = convert_with_report(path, mode=Window(20, 20))
    assert done.model.schedule == (19, 20)
    assert done.report.source_steps == 256 - 19


def run_command(*arguments: object) -> Any:
    return CliRunner().invoke(command, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("arguments", "window"),
    [
        ([], None),
        (["--mode", "continuous"], None),
        (["--mode", "tumbling", "--window", "8"], Window(8, 8)),
        (["--mode", "tumbling", "--window", "8", "--every"], Window(8, 8, every=True)),
        (["--mode", "sliding", "--window", "8", "--hop", "3"], Window(8, 3)),
    ],
)
def test_the_command(arguments: list[str], window: Window | None, tmp_path: Path) -> None:
    made(layers.GRU(H, return_sequences=True), layers.Dense(2)).save(tmp_path / "m.keras")
    out = tmp_path / "m.ernn"
    result = run_command(
        tmp_path / "m.keras", "-o", out, "--json", "--steps", 300, *arguments
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    model = edge_rnn.load(out)
    assert model.window == window
    assert json.loads(result.stdout)["mode"] == str(window or "continuous")
    x = models.inputs(20, I)
    np.testing.assert_allclose(
        Session(model).run("a", x), reference.answers(model, x)[1], atol=0.01
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mode", "tumbling"],
        ["--window", "8"],
        ["--mode", "continuous", "--window", "8"],
        ["--mode", "sliding", "--window", "8"],
        ["--mode", "tumbling", "--window", "8", "--hop", "2"],
        ["--mode", "sliding", "--window", "8", "--hop", "2", "--every"],
        ["--every"],
        ["--mode", "hopping", "--window", "8"],
    ],
)
def test_options_that_do_not_fit(arguments: list[str], tmp_path: Path) -> None:
    assert run_command(__file__, "-o", tmp_path / "m.ernn", *arguments).exit_code == 2


def test_outputs_side_by_side_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    base = bidirectional()
    r = models.Random()
    both = replace(
        base,
        nodes=(*base.nodes, Dense("z", "both", r.matrix(2, 2 * models.H), r.vector(2)),
               Concat("w", "y", ("z",))),
        outputs=("z", "y", "w"),
    )  # fmt: skip
    done = convert_with_report(read_as(monkeypatch, both), mode=Window(9, 4))
    assert done.model.output_width == 10 and replay(done.model).identical


@pytest.mark.parametrize("window", [Window(20, 20), Window(20, 3), Window(20, 20, every=True)])
@pytest.mark.parametrize("made", [bidirectional, lambda: GRU])
def test_certificates_are_measured_in_windows(
    monkeypatch: pytest.MonkeyPatch, made: Any, window: Window
) -> None:
    model = made()
    if model.looks_ahead:
        window = replace(window, every=False)
    path = read_as(monkeypatch, model, run=sourced(model, ends=not window.every))
    asked = Request(steps=600, bounds=Bounds(max_error=0.1))
    done = convert_with_report(path, mode=window, certificate=asked)
    found = done.model.certificate
    assert found is not None and found.verdict == "passed" and found.steps >= 600
    assert [run.name for run in found.runs] == ["the reference", "float32", "quantized"]
    source, whole, quantized = (run.largest for run in found.runs)
    assert source < 1e-6 and whole < 1e-4 < quantized < 0.1
    assert str(window) in found.notes[0]
    certified = done.certified
    assert certified is not None
    assert set(certified.steps) <= set(answer_steps(done.model, np.zeros((found.steps, 5))))
    assert len(certified.steps) == len(certified.quantized)


def test_a_mask_leaves_rows_out_of_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(GRU, mask=0.0)
    path = read_as(monkeypatch, model, run=sourced(model, ends=False))
    done = convert_with_report(path, certificate=Request(steps=600))
    found = done.model.certificate
    assert found is not None and found.runs[0].largest < 1e-6 and found.runs[1].largest < 1e-4
    assert done.certified is not None and len(done.certified.steps) < found.steps
    assert all(layer.sqnr_db for layer in found.layers)
