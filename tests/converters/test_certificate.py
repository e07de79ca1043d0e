"""Certificates: what they measure, that they catch damage, and that files keep them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

import edge_rnn
from edge_rnn.certificate import Certificate
from edge_rnn.cli import cli
from edge_rnn.errors import InputError, ModelError, ModelFileError
from edge_rnn.graph import Dense, Gru, Input, Lstm, Matrix, Model, Softmax
from edge_rnn_converters import compare
from edge_rnn_converters.certificate import Bounds, Certified, certify, compute, page, plots
from edge_rnn_converters.certificate.data import Data, generated
from edge_rnn_converters.quantize import quantize
from edge_rnn_converters.source import CannotRunError, SourceRun
from tests.core import models

STEPS = 1000


def classifier(H: int = 12) -> Model:
    rng = np.random.default_rng(5)

    def w(*shape: int) -> Matrix:
        return Matrix(rng.normal(0, 0.7, shape).astype(np.float32))

    b = rng.normal(size=4 * H).astype(np.float32)
    nodes = (
        Lstm("lstm", "x", w(4 * H, 3), w(4 * H, H), b),
        Gru("gru", "lstm", w(3 * H, H), w(3 * H, H), b[: 3 * H], b[:H]),
        Dense("out", "gru", w(3, H), b[:3]),
        Softmax("softmax", "out"),
    )
    return Model((Input("x", 3),), nodes, ("softmax",), classes=("rest", "walk", "run"))


@pytest.fixture(scope="module")
def certified() -> Certified:
    exact = classifier()
    x = compare.stress(exact, STEPS)
    labels = np.array(exact.classes)[compute(exact, x).answers.argmax(axis=1)][:, None]
    data = Data(x, "made here", labels)
    return certify(exact, quantize(exact, "int8"), data, bounds=Bounds(0.05, 0.99))


def damaged(model: Model) -> Model:
    """A cell whose recurrent weights have lost their sign."""
    lstm = model.nodes[0]
    assert isinstance(lstm, Lstm)
    broken = replace(lstm, u=Matrix(-lstm.u.data, lstm.u.scale))
    return replace(model, nodes=(broken, *model.nodes[1:]))


def test_it_says_how_far_each_way_of_computing_is(certified: Certified) -> None:
    c = certified.certificate
    float32, quantized = c.runs
    assert (float32.name, quantized.name, c.steps) == ("float32", "quantized", STEPS)
    assert 0 < float32.largest < 1e-5 < quantized.largest < 0.2
    assert float32.sqnr_db is not None and quantized.sqnr_db is not None
    assert float32.sqnr_db > 110 > quantized.sqnr_db > 25
    off = np.abs(certified.quantized - certified.truth)
    assert quantized.largest == off.max() and off[quantized.at].max() == off.max()
    assert (c.verdict, c.failures) == ("passed", ())
    assert c.notes == ("the source framework was not run",)


def test_layers_and_their_gates(certified: Certified) -> None:
    lstm, gru, out, softmax = certified.certificate.layers
    assert [g.name for g in (*lstm.gates, *gru.gates)] == ["i", "f", "o", "z", "r"]
    assert lstm.largest_c is not None and gru.largest_c is None
    assert (lstm.format, out.format, softmax.format) == ("w8a16", "w8a16", "")
    assert softmax.sqnr_db == pytest.approx(certified.certificate.quantized.sqnr_db)


def test_saturation_is_counted_where_it_is_known() -> None:
    """An input gate that is always shut, a forget gate that is always open."""
    H = 4
    b = np.concatenate([np.full(H, v, np.float32) for v in (-20, 20, 0, 0)])
    zeros = Matrix(np.zeros((4 * H, 2), np.float32)), Matrix(np.zeros((4 * H, H), np.float32))
    model = Model((Input("x", 2),), (Lstm("lstm", "x", *zeros, b),), ("lstm",))
    truth = compute(model, np.ones((50, 2), np.float32))
    shut, opened, half = truth.watched["lstm"].gates()
    assert (shut.shut, shut.open, opened.shut, opened.open) == (1, 0, 0, 1)
    assert (half.shut, half.open) == (0, 0)
    assert truth.watched["lstm"].largest_c == 0


@pytest.mark.parametrize("kind", models.NODES)
def test_watching_a_cell_changes_nothing(kind: str) -> None:
    model, x = models.single(kind), models.inputs(40)
    truth = compute(model, x)
    np.testing.assert_array_equal(truth.answers, edge_rnn_reference(model, x))
    assert all(0 <= g.shut <= 1 for w in truth.watched.values() for g in w.gates())


def edge_rnn_reference(model: Model, x: np.ndarray) -> np.ndarray:
    from edge_rnn import reference

    return reference.run(model, x)


def test_a_damaged_model_fails(certified: Certified) -> None:
    exact = classifier()
    wrong = damaged(quantize(exact, "int8"))
    found = certify(exact, wrong, generated(exact, STEPS), bounds=Bounds(0.05, 0.99)).certificate
    assert found.verdict == "failed" and len(found.failures) == 2
    assert "> 0.05" in found.failures[0] and "decisions agree <" in found.failures[1]
    assert found.quantized.largest > 3 * certified.certificate.quantized.largest


def test_without_bounds_nothing_is_judged() -> None:
    exact = classifier()
    c = certify(exact, quantize(exact, "w4a8"), generated(exact, 300)).certificate
    assert c.verdict == "not judged" and "no bound was given" in c.summary()[0]


def test_a_strided_model_answers_at_some_steps() -> None:
    exact = models.strided("float32")
    c = certify(exact, quantize(exact, "w8a32"), generated(exact, 400)).certificate
    first, period = exact.schedule
    assert period > 1 and c.quantized.answers == exact.schedule.count(400)
    assert (c.quantized.at - first) % period == 0
    assert all(layer.sqnr_db is None or layer.sqnr_db > 10 for layer in c.layers)


def test_the_source_is_compared_where_it_answers() -> None:
    exact = classifier()

    def last_only(x: np.ndarray) -> SourceRun:
        rows = compute(exact, x).answers[[9, 99]]
        return SourceRun("theirs 1.0", np.array([9, 99]), rows.astype(np.float32))

    def missing(x: np.ndarray) -> SourceRun:
        raise CannotRunError("it is not installed")

    model, data = quantize(exact, "int8"), generated(exact, 300)
    theirs = certify(exact, model, data, last_only).certificate.runs[0]
    assert (theirs.name, theirs.answers, theirs.growth) == ("theirs 1.0", 2, None)
    assert theirs.largest < 1e-7
    assert certify(exact, model, data, missing).certificate.notes == (
        "the source framework was not run: it is not installed",
    )


def test_agreement_of_what_does_not_decide() -> None:
    exact = models.single("lstm")
    with pytest.raises(ModelError, match="the model makes no decision"):
        certify(exact, exact, generated(exact, 64), bounds=Bounds(min_agreement=0.9))


def test_labels_are_scored(certified: Certified) -> None:
    task = certified.certificate.task
    assert task is not None and task.rows == STEPS
    reference, quantized, naive = task.scores
    assert reference.accuracy == 1 and naive.accuracy is not None
    assert quantized.accuracy == certified.certificate.quantized.agreement
    assert naive.accuracy < 1 and np.sum(quantized.confusion) == STEPS


def test_numbers_are_scored_against_a_naive_forecast() -> None:
    exact = models.single("lstm")
    x = compare.stress(exact, 200)
    truth = compute(exact, x).answers
    task = certify(exact, quantize(exact, "int8"), Data(x, "d", truth + 1)).certificate.task
    assert task is not None
    reference, _, naive = task.scores
    assert reference.mae == pytest.approx(1) and reference.rmse == pytest.approx(1)
    assert naive.mae == pytest.approx(np.abs(np.diff(truth, axis=0)).mean())


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["jump"], "row 0: label 'jump', expected one of rest, walk, run"),
        ([3], "label '3'"),
        ([0.5], "label '0.5'"),
    ],
)
def test_labels_that_are_none(labels: list[Any], says: str) -> None:
    exact = classifier()
    data = Data(compare.stress(exact, 64), "d", np.array(labels)[:, None])
    with pytest.raises(InputError, match=says):
        certify(exact, exact, data)


def test_names_as_labels_of_classes_without_names() -> None:
    exact = replace(classifier(), classes=())
    data = Data(compare.stress(exact, 64), "d", np.array([["walk"]]))
    with pytest.raises(InputError, match="one of 0, 1, 2; --classes of convert names them"):
        certify(exact, exact, data)


def test_a_file_keeps_its_certificate(certified: Certified, tmp_path: Path) -> None:
    model = replace(quantize(classifier(), "int8"), certificate=certified.certificate)
    edge_rnn.save(model, tmp_path / "m.ernn")
    kept = edge_rnn.load(tmp_path / "m.ernn").certificate
    assert kept == certified.certificate
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "m.ernn")]).output
    for line in certified.certificate.summary():
        assert line in shown
    facts = json.loads(
        CliRunner().invoke(cli, ["inspect", str(tmp_path / "m.ernn"), "--json"]).output
    )
    assert msgspec.convert(facts["certificate"], Certificate) == kept


def test_a_certificate_of_other_weights_is_not_believed(
    certified: Certified, tmp_path: Path
) -> None:
    model = replace(damaged(quantize(classifier(), "int8")), certificate=certified.certificate)
    edge_rnn.save(model, tmp_path / "m.ernn")
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "m.ernn")]).output
    assert "IT IS OF ANOTHER MODEL" in shown and "passed" not in shown


def test_a_certificate_of_another_version_is_refused(certified: Certified, tmp_path: Path) -> None:
    newer = msgspec.structs.replace(certified.certificate, version=2)
    edge_rnn.save(replace(classifier(), certificate=newer), tmp_path / "m.ernn")
    with pytest.raises(ModelFileError, match="certificate of version 2, this edge-rnn reads 1"):
        edge_rnn.load(tmp_path / "m.ernn")


class _Tags(HTMLParser):
    """Every tag closed in order, and no address in any attribute."""

    VOID = ("meta", "br", "use")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [v or "" for name, v in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else(certified: Certified) -> None:
    pytest.importorskip("matplotlib")
    text = page.html(certified, "<m>.ernn")
    assert "http" not in text and "<script" not in text and "&lt;m&gt;.ernn" in text
    tags = _Tags()
    tags.feed(text)
    assert tags.open == [] and all(link.startswith("#") for link in tags.links)
    assert len(tags.ids) == len(set(tags.ids))
    for title in ("Error over steps", "Gates", "Confusion matrix", "Every format"):
        assert title in text


def test_numbers_beside_an_axis_keep_their_digits() -> None:
    """What is drawn is rounded to hundredths of a point; 0.00625 must not become 0.00."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0.00625, 0.00675], label="1.23456 beside it")
        axes.set_yticks([0.00625, 0.0065, 0.00675])
        axes.legend()

    svg = plots._svg("digits", 2, draw)
    shown = re.findall(r">([^<>]*\d[^<>]*)<", svg)
    assert {"0.00625", "0.00650", "0.00675", "1.23456 beside it"} <= set(shown)
    assert not re.search(r"\d\.\d{3,}(?=[^<>]*>)", svg)


def test_the_manual_shows_pictures_that_are_there() -> None:
    docs = Path(__file__).parents[2] / "docs"
    shown = re.findall(r"\]\((certificates/[^)]+)\)", (docs / "certificates.md").read_text("utf-8"))
    assert len(shown) >= 15 and {
        f"certificates/{p.name}" for p in (docs / "certificates").iterdir()
    } == set(shown)
    for picture in shown:
        root = ElementTree.parse(docs / picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
