"""The pictures of a certificate, as SVG whose colours follow the reader's light or dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from edge_rnn.certificate import Certificate, Errors
from edge_rnn.errors import MissingExtraError
from edge_rnn_converters.certificate.measure import Certified
from edge_rnn_converters.certificate.task import QUANTIZED

_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_QUANTIZED, _FLOAT, _SOURCE, _OPEN = "#040404", "#050505", "#060606", "#070707"
_COLORS = {
    _INK: ("--ink", "#1c1917", "#f5f5f4"),
    _MUTED: ("--muted", "#6b6460", "#a8a29e"),
    _GRID: ("--grid", "#e2ddd8", "#3f3a36"),
    _QUANTIZED: ("--quantized", "#c2410c", "#fb923c"),
    _FLOAT: ("--float", "#1d4ed8", "#7fb0ff"),
    _SOURCE: ("--source", "#0f766e", "#5eead4"),
    _OPEN: ("--open", "#a16207", "#facc15"),
}
"""What stands for a colour while drawing: its name in CSS, light and dark."""

LIGHT, DARK = (" ".join(f"{c[0]}: {c[i]};" for c in _COLORS.values()) for i in (1, 2))
"""Declarations of the colours, for a style sheet."""

_EXCERPT, _COLUMNS, _LAYERS = 240, 2, 40
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}
Draw: TypeAlias = Callable[[Any], None]


def check() -> None:
    """Raise MissingExtraError without matplotlib, before time is spent."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise MissingExtraError("matplotlib", extra="plot", need="to draw the report") from e


def pictures(certified: Certified) -> dict[str, str]:
    """SVG elements by name, those that there is something to draw of, for inside an HTML page."""
    c = certified.certificate
    drawn: dict[str, tuple[float, Draw]] = {"error": (3.6, lambda f: _error(f, c))}
    drawn["trace"] = (4.4, lambda f: _trace(f, certified))
    drawn["layers"] = (1.1 + 0.32 * min(_LAYERS, len(c.layers)), lambda f: _layers(f, c))
    if gates := sum(len(r.gates) for r in c.layers):
        drawn["gates"] = (1.2 + 0.3 * min(_LAYERS, gates), lambda f: _gates(f, c))
    drawn["formats"] = (0.9 + 0.32 * len(c.formats), lambda f: _formats(f, c))
    if c.task and c.task.scores[0].confusion:
        drawn["confusion"] = (4.6, lambda f: _confusion(f, c))
    return {name: _svg(name, height, draw) for name, (height, draw) in drawn.items()}


def standalone(svg: str) -> str:
    """An SVG element of `pictures` as a file of its own."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    style = f"svg {{ {LIGHT} }} @media (prefers-color-scheme: dark) {{ svg {{ {DARK} }} }}"
    head, _, rest = svg.partition(">")
    return f"{head.replace('<svg', f'<svg {spaces}', 1)}><style>{style}</style>{rest}\n"


def _svg(name: str, height: float, draw: Draw) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    out = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(9, height), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Hundredths of a point are enough in a tag; between tags a number is a label.
    text = re.sub(r"(\d\.\d\d)\d+(?=[^<>]*>)", r"\1", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    for stand_in, (variable, *_) in _COLORS.items():
        text = text.replace(stand_in, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def _error(figure: Any, c: Certificate) -> None:
    axes = figure.subplots()
    colors = [_SOURCE, _FLOAT, _QUANTIZED][-len(c.runs) :]
    for run, color in zip(c.runs, colors, strict=True):
        y = np.array(run.curve)
        x = (np.arange(len(y)) + 0.5) * c.steps / len(y)
        shown = y > 0
        marker = "o" if shown.sum() < 10 else ""
        axes.plot(x[shown], y[shown], color=color, lw=1.2, marker=marker, label=_label(run))
        if run.growth is not None:
            middle, rate = np.log(y[len(y) // 10 :]).mean(), np.log(run.growth.factor) / 10_000
            start = x[len(y) // 10 :]
            fit = np.exp(middle + rate * (start - start.mean()))
            axes.plot(start, fit, color=color, lw=2.2, ls=(0, (4, 2)))
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("rms error")
    axes.grid(True, axis="y", lw=0.7)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1, borderaxespad=0.2)


def _label(run: Errors) -> str:
    if run.growth is None:
        return run.name
    return f"{run.name}: {run.growth.verdict}, ×{run.growth.factor:.2g} in 10,000 steps"


def _trace(figure: Any, certified: Certified) -> None:
    steps, truth, y = certified.steps, certified.truth, certified.quantized[: len(certified.steps)]
    off = np.abs(y - truth)
    columns = np.argsort(-off.max(axis=0))[:_COLUMNS]
    center = int(off.max(axis=1).argmax())
    start = max(0, min(center - _EXCERPT // 2, len(steps) - _EXCERPT))
    rows = slice(start, start + _EXCERPT)
    *panels, below = figure.subplots(len(columns) + 1, 1, sharex=True)
    names = _columns(certified)
    for axes, column in zip(panels, columns, strict=True):
        exact, ours = truth[rows, column], y[rows, column]
        axes.plot(steps[rows], exact, color=_FLOAT, lw=2.6, alpha=0.45, label="float64 reference")
        axes.plot(steps[rows], ours, color=_QUANTIZED, lw=1.1, label="quantized")
        axes.set_ylabel(names[column])
        axes.grid(True, lw=0.5)
    for column, style in zip(columns, ("-", "--"), strict=False):
        error = (y - truth)[rows, column]
        below.plot(steps[rows], error, color=_QUANTIZED, lw=1, ls=style, label=names[column])
    below.set_ylabel("error")
    below.set_xlabel("step")
    below.grid(True, lw=0.5)
    for axes in (*panels, below):
        axes.axvline(steps[center], color=_MUTED, lw=0.8, ls=":")
    panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    figure.align_ylabels()
    if len(columns) > 1:
        above: dict[str, Any] = {"bbox_to_anchor": (0, 1), "borderaxespad": 0.1, "fontsize": 8}
        below.legend(loc="lower left", ncols=2, **above)


def _columns(certified: Certified) -> list[str]:
    names = certified.columns or tuple(f"y[{i}]" for i in range(certified.truth.shape[1]))
    return [name if len(name) < 18 else f"{name[:15]}…" for name in names]


def _layers(figure: Any, c: Certificate) -> None:
    axes, rows = figure.subplots(), c.layers[:_LAYERS]
    highest = max((r.sqnr_db for r in rows if r.sqnr_db is not None), default=1.0)
    lengths = [highest if r.sqnr_db is None else max(r.sqnr_db, 0.0) for r in rows]
    colors = [_QUANTIZED if r.format else _MUTED for r in rows]
    bars = axes.barh(range(len(rows)), lengths, 0.66, color=colors)
    texts = ["exact" if r.sqnr_db is None else f"{r.sqnr_db:.1f} dB" for r in rows]
    axes.bar_label(bars, texts, padding=4, fontsize=9)
    names = [f"{r.name[:28]} ({', '.join(filter(None, (r.op, r.format)))})" for r in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("signal-to-quantization-noise ratio of the layer's output, dB")


def _gates(figure: Any, c: Certificate) -> None:
    axes = figure.subplots()
    rows = [(r.name, g) for r in c.layers for g in r.gates][:_LAYERS]
    at = range(len(rows))
    axes.barh(at, [100] * len(rows), 0.66, color=_GRID)
    shut = axes.barh(at, [100 * g.shut for _, g in rows], 0.66, color=_FLOAT, label="shut, < 0.01")
    opened = [100 * g.open for _, g in rows]
    wide = axes.barh(at, opened, 0.66, [100 - o for o in opened], color=_OPEN, label="open, > 0.99")
    shares = [(f"{g.shut:.1%}", f"{g.open:.1%}") for _, g in rows]
    for i, (low, high) in enumerate(shares):
        axes.text(100 * rows[i][1].shut + 1, i, low, va="center", fontsize=9)
        axes.text(99 - opened[i], i, high, va="center", ha="right", fontsize=9)
    axes.set_yticks(at, [f"{name[:28]}: {_GATES.get(g.name, g.name)}" for name, g in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of steps and units")
    axes.legend(handles=[shut, wide], loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


_GATES = {"i": "input", "f": "forget", "o": "output", "z": "update", "r": "reset"}


def _formats(figure: Any, c: Certificate) -> None:
    names = [f.name for f in c.formats]
    colors = [_QUANTIZED if f == c.format else _FLOAT for f in c.formats]
    panels = figure.subplots(1, 3, sharey=True)
    drawn = (
        ("SQNR, dB", [f.sqnr_db or 0.0 for f in c.formats], "{:.1f}"),
        ("size, kB", [f.bytes / 1000 for f in c.formats], "{:,.1f}"),
        ("a step of one stream, µs", [f.us_per_step for f in c.formats], "{:g}"),
    )
    for axes, (title, values, text) in zip(panels, drawn, strict=True):
        bars = axes.barh(names, values, 0.66, color=colors)
        axes.bar_label(bars, [text.format(v) for v in values], padding=4, fontsize=9)
        axes.set_title(title, fontsize=10, loc="left")
        axes.margins(x=0.22)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
    panels[0].invert_yaxis()


def _confusion(figure: Any, c: Certificate) -> None:
    assert c.task is not None  # noqa: S101 - it is drawn only then
    score = next(s for s in c.task.scores if s.name == QUANTIZED)
    table = np.array(score.confusion)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    names, axes = [k.name[:14] for k in score.classes], figure.subplots()
    for (i, j), count in np.ndenumerate(table):
        color = _SOURCE if i == j else _QUANTIZED
        axes.add_patch(_square(j, i, color, float(share[i, j])))
        if len(names) <= 12:
            axes.text(j, i, f"{count:,}\n{share[i, j]:.0%}", ha="center", va="center", fontsize=9)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("called")
    axes.set_ylabel("labelled")
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)


def _square(x: int, y: int, color: str, share: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=color, alpha=0.06 + 0.6 * share)
