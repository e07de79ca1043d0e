"""A certificate as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TypeAlias

from edge_rnn.certificate import Certificate, Errors
from edge_rnn_converters.certificate import plots
from edge_rnn_converters.certificate.measure import Certified

Table: TypeAlias = tuple[str, Sequence[str], list[list[str]]]
"""Its title, the heads of its columns, its rows."""

_CAPTIONS = {
    "error": ("Error over steps", "Root mean square of each part of the stream, against the float64"
              " reference; dashed: the fitted growth."),
    "trace": ("Where it is worst", "The outputs that are furthest off, around the step of the"
              " largest error (dotted)."),
    "layers": ("Layer by layer", "How far each layer's output inside the quantized model stands out"
               " of its error; grey: nothing to quantize."),
    "gates": ("Gates", "Shares of steps and units at which a gate of the reference is nearly shut"
              " or open. A cell whose gates never move has stopped to listen."),
    "formats": ("Every format", "What the whole model would cost in each; orange: this model."),
    "confusion": ("Confusion matrix", "Labelled rows by what the quantized model calls them."),
}  # fmt: skip

_CSS = """
:root { color-scheme: light dark; --paper: #faf8f5; --card: #fff; --good: #15803d; --bad: #b91c1c;
  LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --paper: #171412; --card: #211d1a; --good: #4ade80; --bad: #f87171; DARK } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.15rem; margin: 0 0 .2rem }
p { margin: .3rem 0 .8rem } .muted, figcaption { color: var(--muted); font-size: .92rem }
.badge { display: inline-block; padding: .1rem .7rem; border-radius: 1rem; font-weight: 600;
  border: 2px solid currentColor; margin-right: .6rem }
.passed { color: var(--good) } .failed { color: var(--bad) } .not { color: var(--muted) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem;
  margin: 1.4rem 0 }
.tile, figure, section { background: var(--card); border: 1px solid var(--grid);
  border-radius: .6rem; padding: .9rem 1.1rem; margin: 0 }
.tile b { display: block; font-size: 1.45rem; line-height: 1.3 }
figure, section { margin: 1rem 0 } svg { width: 100%; height: auto; margin-top: .6rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .7rem; border-top: 1px solid var(--grid);
  white-space: nowrap }
th { color: var(--muted); font-weight: 500; border-top: 0 }
th:first-child, td:first-child { text-align: left }
""".replace("LIGHT", plots.LIGHT).replace("DARK", plots.DARK)


def write(path: Path, certified: Certified, name: str) -> None:
    """Write the page of the model `name`. Raises OSError, MissingExtraError without matplotlib."""
    plots.check()
    path.write_text(html(certified, name), "utf-8")


def html(certified: Certified, name: str) -> str:
    """The page as text."""
    c = certified.certificate
    figures = "\n".join(_figure(key, svg) for key, svg in plots.pictures(certified).items())
    tables = "\n".join(_section(*table) for table in _tables(c))
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(name)}: certificate</title><style>{_CSS}</style></head>
<body>
<header><h1>{_badge(c)}{escape(name)}</h1>
<p>{escape(_sentence(c))}</p>
{_paragraphs([*c.failures, *c.notes])}
<p class="muted">{escape(f"{c.data}; {c.steps:,} steps, measured on {c.machine}")}</p></header>
<div class="tiles">{_tiles(c)}</div>
{figures}
{tables}
</body></html>
"""


def _badge(c: Certificate) -> str:
    word = c.verdict
    return f'<span class="badge {word.split()[0]}">{word}</span>'


def _sentence(c: Certificate) -> str:
    e = c.quantized
    text = f"Over {c.steps:,} steps the quantized model stays within {e.largest:.2g} of the float64"
    text += " reference of the source"
    if e.agreement is not None:
        text += f", and {e.agreement:.2%} of its decisions are the same"
    if e.growth is not None:
        text += f"; {_GROWTH[e.growth.verdict]}"
    return f"{text}."


_GROWTH = {
    "growing": "its error grows",
    "bounded": "its error does not grow",
    "unclear": "whether its error grows so few steps can't tell",
}


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _tiles(c: Certificate) -> str:
    e, whole = c.quantized, next(f for f in c.formats if f.name == "float32")
    size = c.format.bytes
    tiles = [
        (f"{e.largest:.2g}", f"largest error, at step {e.at:,}"),
        (_db(e.sqnr_db), "signal to noise of the outputs"),
        (f"{size / 1000:,.1f} kB", f"weights, {whole.bytes / max(size, 1):.1f} times smaller"),
    ]
    if e.agreement is not None:
        tiles.insert(0, (f"{e.agreement:.2%}", f"of decisions agree, {e.flips} differ"))
    tiles.append((f"{c.format.us_per_step:g} µs", f"a step; float32 takes {whole.us_per_step:g}"))
    if largest := [r.largest_c for r in c.layers if r.largest_c is not None]:
        tiles.append((f"{max(largest):.3g}", "largest |c| of a cell"))
    return "".join(f'<div class="tile"><b>{escape(b)}</b><span class="muted">{escape(t)}</span>'
                   "</div>" for b, t in tiles)  # fmt: skip


def _figure(key: str, svg: str) -> str:
    title, caption = _CAPTIONS[key]
    return (
        f"<figure><h2>{escape(title)}</h2><figcaption>{escape(caption)}</figcaption>{svg}</figure>"
    )


def _tables(c: Certificate) -> list[Table]:
    errors = ("largest error", "at step", "rms", "SQNR", "agree", "growth")
    head = ("against the float64 reference", "answers", *errors)
    found: list[Table] = [("Runs", head, [_run(r) for r in c.runs])]
    if c.task:
        found += _task_tables(c)
    found.append(("Formats", ("the whole model in", "bytes", "µs a step", "largest error", "SQNR"),
                  [[f.name, f"{f.bytes:,}", f"{f.us_per_step:g}", f"{f.largest:.2g}",
                    _db(f.sqnr_db)] for f in c.formats]))  # fmt: skip
    found.append(("Layers", ("layer", "op", "format", "bytes", "SQNR", "largest |c|"),
                  [[r.name, r.op, r.format, f"{r.bytes:,}", _db(r.sqnr_db),
                    "" if r.largest_c is None else f"{r.largest_c:.3g}"]
                   for r in c.layers]))  # fmt: skip
    if c.choice:
        found.append(("Why these formats", ("layer and reason",), [[line] for line in c.choice]))
    return found


def _task_tables(c: Certificate) -> list[Table]:
    assert c.task is not None  # noqa: S101 - asked before
    title = f"Against the labels of {c.task.rows:,} rows"
    if c.task.scores[0].accuracy is None:
        rows = [[s.name, f"{s.mae:.4g}", f"{s.rmse:.4g}"] for s in c.task.scores]
        return [(title, ("by", "mean absolute error", "root mean square error"), rows)]
    rows = [[s.name, f"{s.accuracy:.2%}", f"{s.macro_f1:.3f}"] for s in c.task.scores]
    each = [
        [k.name, f"{k.precision:.3f}", f"{k.recall:.3f}", f"{k.f1:.3f}", f"{k.rows:,}"]
        for k in c.task.scores[1].classes
    ]
    return [
        (title, ("by", "accuracy", "macro F1"), rows),
        ("Classes, quantized", ("class", "precision", "recall", "F1", "rows"), each),
    ]


def _run(e: Errors) -> list[str]:
    growth = "" if e.growth is None else f"{e.growth.factor:.2g}"
    agree = "" if e.agreement is None else f"{e.agreement:.3%}"
    return [e.name, f"{e.answers:,}", f"{e.largest:.2g}", f"{e.at:,}", f"{e.rms:.2g}",
            _db(e.sqnr_db), agree, growth]  # fmt: skip


def _section(title: str, head: Sequence[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(v)}</td>' for v in row)}</tr>" for row in rows)
    return (
        f'<section><h2>{escape(title)}</h2><div class="scroll"><table><thead><tr>{cells}</tr>'
        f"</thead><tbody>{body}</tbody></table></div></section>"
    )


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"
