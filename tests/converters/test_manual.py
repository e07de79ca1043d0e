"""`docs/converting.md` and its pages: their tables are what the code says, and who does what a page
says, from top to bottom in an empty folder, gets what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_rnn.cli import cli
from edge_rnn_converters import support
from tests.converters import fetch, tflite_models

DOCS = Path(__file__).parents[2] / "docs"
INDEX = DOCS / "converting.md"
PAGES = [INDEX, *sorted((DOCS / "converting").glob("*.md"))]
TEXTS = [page.read_text() for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@every_page
def test_the_tables_are_made_from_the_code(page: Path) -> None:
    """Remake them: python -m edge_rnn_converters.support docs/converting.md docs/converting/*.md"""
    assert support.fill(page.read_text()) == page.read_text()


def test_every_table_is_there_once_and_no_other() -> None:
    named = [name for text in TEXTS for name in re.findall("<!-- generated: (.*?) -->", text)]
    assert sorted(named) == sorted(support.tables())


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        there = (page.parent / target).resolve() if target else page
        assert there.is_file(), target
        assert not anchor or anchor in _anchors(there), f"{target}#{anchor}"


def test_the_index_leads_to_every_page() -> None:
    for page in PAGES[1:]:
        assert f"](converting/{page.name})" in INDEX.read_text()


@every_page
def test_a_page_can_be_followed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "import torch" in page.read_text():
        pytest.importorskip("torch")
    if 'BACKEND"] = "tensorflow"' in page.read_text():
        pytest.importorskip("tensorflow")
    if page == INDEX:
        shutil.copy(fetch.model(fetch.DTLN), "denoiser.onnx")
        shutil.copy(fetch.model(fetch.AO_TFLITE), "sensor.tflite")
    for line, language, code in _blocks(page):
        if language == "python":
            _run("\n" * line + code, page)
        elif language == "toml":
            Path(code.split()[1]).write_text(code)  # its first line is a comment, its name
        else:
            for command in re.findall(r"^edge-rnn ((?:.*\\\n)*.*)$", code, re.M):
                _call(shlex.split(command.replace("\\\n", " ")))


def _anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def _blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """(line before its first, language, code) of each."""
    text = page.read_text()
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        yield text[: found.start(2)].count("\n"), found[1], found[2]


def _run(code: str, page: Path) -> None:
    """Where TensorFlow is not installed, a file that it could have made is here."""
    if "tensorflow" in code:
        if find_spec("tensorflow") is None:
            tflite_models.sequence_rnn(Path("har.tflite"), features=6, cells=4)
            return
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        return
    with warnings.catch_warnings():  # PyTorch has much to say of TorchScript and its exporters
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module="edge_rnn")
        exec(compile(code, str(page), "exec"), {"__name__": "__main__"})


def _call(arguments: list[str]) -> None:
    measured = arguments[0] == "convert" and "--backend" not in arguments
    result = CliRunner().invoke(cli, [*arguments, *(["--steps", "300"] if measured else [])])
    assert result.exit_code == 0, f"{arguments}: {result.output}"
