"""What the pages point at is there: files, headings, `make` targets, tests, decisions by number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for folder in (".", "docs", "docs/*", "benchmarks", "devices/*/*")
    for page in ROOT.glob(f"{folder}/*.md")
)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """What the page's headings are called in a link."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    for file, anchor in LINK.findall(page.read_text()):
        if file.startswith("http"):
            continue
        target = page.parent / file if file else page
        assert target.exists(), f"{name(page)} links to {file}"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to {file}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:`|^ {4})make ([a-z][\w-]*)", page.read_text(), re.M))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tests_named(page: Path) -> None:
    for file, test in re.findall(r"`(test_\w+\.py)::(\w+)`", page.read_text()):
        sources = [source.read_text() for source in (ROOT / "tests").rglob(file)]
        assert any(f"\ndef {test}(" in s for s in sources), f"{name(page)} names {file}::{test}"


def test_decisions() -> None:
    """Each has a number of its own, says it in its title, and none is missing."""
    notes = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    titles = [int(note.read_text().split(".")[0].removeprefix("# ")) for note in notes]
    assert [int(note.name[:4]) for note in notes] == titles == list(range(1, len(notes) + 1))


@pytest.mark.parametrize("folder", ["edge_rnn", "converters", "devices", "tests", "benchmarks"])
def test_pages_named_in_code(folder: str) -> None:
    for source in (ROOT / folder).rglob("*.py"):
        for page in re.findall(r"docs/[\w/-]+\.md", source.read_text()):
            assert (ROOT / page).exists(), f"{name(source)} names {page}"
