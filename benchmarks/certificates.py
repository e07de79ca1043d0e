"""The certificates that docs/certificates.md shows: four published models and our own.

    python -m benchmarks.certificates            needs the extras onnx, train, plot

Models and recordings come out of pinned packages, see tests/converters/fetch.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

import click
import numpy as np

from edge_rnn.certificate import Certificate
from edge_rnn_converters import convert_with_report
from edge_rnn_converters.certificate import Bounds, Certified, Request, plots
from edge_rnn_devices import recordings
from tests.converters.fetch import AO, AO_WALK, DTLN, NSNET2, SILERO, model

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
    described: dict[str, Any] = field(default_factory=dict)


def cases(folder: Path) -> Iterator[Case]:
    """NSNet2, DTLN's first model, silero-vad, ao_gru16 and the demo's model."""
    golden = ROOT / "tests" / "golden"
    kept = Bounds(max_error=0.05)
    decided = Bounds(min_agreement=0.99)
    yield Case(
        "nsnet2",
        model(NSNET2),
        Request(_features(golden / "nsnet2_gru_onnx.npz", folder), bounds=kept),
        "NSNet2 removes noise from speech: 161 log powers in, 161 gains out, every 10 ms; two GRUs "
        "of 400 units.",
    )
    yield Case(
        "dtln",
        model(DTLN),
        Request(_features(golden / "dtln_model_1_onnx.npz", folder), bounds=kept),
        "DTLN's first model: 257 magnitudes in, a mask of 257 out; two LSTMs of 128 units.",
    )
    yield Case(
        "silero-vad",
        model(SILERO),
        Request(_speech(golden / "silero_seq_onnx.npz", folder), bounds=Bounds(0.05, 0.99)),
        "silero-vad says whether somebody speaks: 576 samples in, every 32 ms, a probability out; "
        "convolutions along the samples of a message, and an LSTM of 128 units. Nobody speaks in "
        "the generated signals: it answers 0.003 there, of which an error is a larger share.",
    )
    yield Case(
        "ao_gru16",
        model(AO),
        Request(_walk(golden / "ao_gru16_seq.npz", folder), bounds=kept),
        "ao_gru16 follows the gait of a leg for an assist of the hip: its angle and its speed in, "
        "100 times a second, sine and cosine of the phase out; a convolution over 20 steps, a mean "
        "of three, a GRU of 16 units. The stream is the test walk of its package.",
    )
    yield Case(
        "activity",
        ROOT / "devices/edge_rnn_devices/data/activity.keras",
        Request(_day(folder), ("y",), bounds=decided),
        "The demo's model: six signals of a watch in, one of four activities out; a GRU of 32 "
        "units. The stream is a day of recordings that it was not trained on.",
        {"classes": recordings.ACTIVITIES},
    )


def _features(path: Path, folder: Path) -> Path:
    """The inputs of a golden run alone."""
    target = folder / path.name
    with np.load(path) as arrays:
        np.savez(target, x=arrays["x"])
    return target


def _speech(path: Path, folder: Path) -> Path:
    """Messages of 576 samples, the first 64 of each the last of the one before."""
    with np.load(path) as arrays:
        samples = arrays["samples"].astype(np.float32) / 32768
    np.savez(folder / "speech.npz", x=np.lib.stride_tricks.sliding_window_view(samples, 576)[::512])
    return folder / "speech.npz"


def _walk(golden: Path, folder: Path) -> Path:
    """The package's test recording, scaled as its training was."""
    rows = np.loadtxt(model(AO_WALK), np.float64, delimiter=";", skiprows=1, usecols=(1, 2))
    with np.load(golden) as arrays:
        x = (rows - arrays["mean"]) / arrays["scale"]
    np.savez(folder / "walk.npz", x=x.astype(np.float32))
    return folder / "walk.npz"


def _day(folder: Path) -> Path:
    samples, labels = recordings.day(recordings.load("test"), 0)
    np.savez(folder / "day.npz", x=samples, y=labels)
    return folder / "day.npz"


def section(case: Case, certified: Certified) -> str:
    """The part of the page about one model; its pictures are written beside it."""
    c, lines = certified.certificate, [f"## {case.name}", "", fill(case.about, 100), ""]
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


@click.command()
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
