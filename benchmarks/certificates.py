"""The certificates that docs/certificates.md shows, measured and drawn: three published models.

    python -m benchmarks.certificates            needs the extras onnx, train, plot

Models and recordings come out of pinned packages, see tests/converters/fetch.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_rnn.certificate import Certificate
from edge_rnn_converters import convert_with_report
from edge_rnn_converters.certificate import Bounds, Certified, Request, plots
from edge_rnn_devices import recordings
from tests.converters.fetch import DTLN, NSNET2, model

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "certificates"
PAGE = ROOT / "docs" / "certificates.md"
START, END = "<!-- generated: certificates -->", "<!-- end: certificates -->"
PICTURES = {
    "error": "error over steps",
    "trace": "reference and quantized outputs where the error is largest",
    "layers": "SQNR of each layer",
    "gates": "saturation of each gate",
    "formats": "SQNR, size and speed of every format",
    "confusion": "confusion matrix",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A model, the stream that it is measured on, and what to know of both."""

    name: str
    source: Path
    request: Request
    about: str
    described: dict[str, Any]


def cases(folder: Path) -> Iterator[Case]:
    """NSNet2, DTLN's first model and the demo's model."""
    golden = ROOT / "tests" / "golden"
    for name, wheel, data, about in (
        ("nsnet2", NSNET2, "nsnet2_gru_onnx.npz", "NSNet2 removes noise from speech: 161 log powers"
         " in, 161 gains out, every 10 ms; two GRUs of 400 units."),
        ("dtln", DTLN, "dtln_model_1_onnx.npz", "DTLN's first model: 257 magnitudes in, a mask of"
         " 257 out; two LSTMs of 128 units."),
    ):  # fmt: skip
        asked = Request(_features(golden / data, folder), bounds=Bounds(max_error=0.05))
        yield Case(name, model(wheel), asked, about, {})
    about = ("The demo's model: six signals of a watch in, one of four activities out; a GRU of 32 "
             "units. The stream is a day of recordings that it was not trained on.")  # fmt: skip
    yield Case(
        "activity",
        ROOT / "devices/edge_rnn_devices/data/activity.keras",
        Request(_day(folder), ("y",), bounds=Bounds(min_agreement=0.99)),
        about,
        {"classes": recordings.ACTIVITIES},
    )


def _features(path: Path, folder: Path) -> Path:
    """The inputs of a golden run alone."""
    target = folder / path.name
    with np.load(path) as arrays:
        np.savez(target, x=arrays["x"])
    return target


def _day(folder: Path) -> Path:
    samples, labels = recordings.day(recordings.load("test"), 0)
    np.savez(folder / "day.npz", x=samples, y=labels)
    return folder / "day.npz"


def section(case: Case, certified: Certified) -> str:
    """The part of the page about one model; its pictures are written beside it."""
    c, lines = certified.certificate, [f"## {case.name}", "", case.about, ""]
    lines += [f"    {line}" for line in c.summary()]
    lines += ["", *_runs(c), ""]
    for key, svg in plots.pictures(certified).items():
        target = DOCS / f"{case.name}-{key}.svg"
        target.write_text(plots.standalone(svg), "utf-8")
        lines += [f"![{case.name}: {PICTURES[key]}](certificates/{target.name})", ""]
    return "\n".join(lines)


def _runs(c: Certificate) -> list[str]:
    rows = [
        f"| {r.name} | {r.largest:.2g} | {'exact' if r.sqnr_db is None else f'{r.sqnr_db:.1f}'} "
        f"| {'' if r.growth is None else f'{r.growth.factor:.2g}'} |"
        for r in c.runs
    ]
    head = "| against the float64 reference | largest error | SQNR, dB | × in 10,000 steps |"
    return [head, "|---|---|---|---|", *rows]


def main() -> None:
    """Measure, draw, and put the sections into the page."""
    DOCS.mkdir(exist_ok=True)
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder)):
            done = convert_with_report(
                case.source, **case.described, certificate=case.request, progress=print
            )
            assert done.certified is not None
            parts.append(section(case, done.certified))
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    after = rest.partition(END)[2]
    body = "\n".join(parts).strip()
    PAGE.write_text(f"{before}{START}\n{body}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
