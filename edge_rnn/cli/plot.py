"""The picture of `edge-rnn bench --plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_rnn.cli.layers import Layer
from edge_rnn.cli.measure import Timing
from edge_rnn.cli.peers import Bench
from edge_rnn.errors import ConfigError, MissingExtraError

FORMATS = (".png", ".svg")
_OURS = {"color": "#c2410c", "linewidth": 2.6, "marker": "o", "markersize": 7, "zorder": 5}
# A hue for each peer, told apart without colour by marker; its exports by dashes.
_HUES = ("#1d4ed8", "#0f766e", "#7e22ce", "#525252", "#a16207")
_MARKERS = ("s", "^", "D", "v", "P")
_DASHES = ("-", "--", ":")
_PANELS = (
    ("Latency of a call, median", "µs"),
    ("Latency of a call, 99th percentile", "µs"),
    ("Throughput at the median, one core", "steps/s"),
)


def check(path: Path) -> None:
    """Raise ConfigError or MissingExtraError, before time is spent on measuring, if it can't be."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"--plot {path}: expected a file name that ends in {' or '.join(FORMATS)}"
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.absolute().parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise MissingExtraError("matplotlib", extra="plot", need="to draw a plot") from e


def draw(result: Bench, title: str, path: Path, layers: Sequence[Layer] = ()) -> None:
    """Latency and throughput by batch size, ours and the peers', and below how near the `layers`
    come to the machine's limits, if there are any. OSError if it can't be written."""
    from matplotlib.figure import Figure

    heights = [5.4, 1.1 + 0.5 * len(layers)] if layers else [5.4]
    whole = Figure(figsize=(13, sum(heights)), layout="constrained")
    figure, *below = whole.subfigures(len(heights), height_ratios=heights, squeeze=False)[:, 0]
    median, tail, rate = panels = figure.subplots(1, 3)
    tail.sharey(median)
    series = _series(result)
    for (name, timings), style in zip(series.items(), _styles(list(series)), strict=True):
        batch = [t.batch for t in timings]
        median.plot(batch, [t.p50_us for t in timings], label=name, **style)
        tail.plot(batch, [t.p99_us for t in timings], **style)
        rate.plot(batch, [t.steps_per_second for t in timings], **style)
    sizes = sorted({t.batch for t in result.timings})
    for axes, (heading, unit) in zip(panels, _PANELS, strict=True):
        _axes(axes, heading, unit, sizes)
    for part in below:
        _bars(part.subplots(), layers)
    figure.suptitle(title, fontweight="bold")
    handles, labels = median.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    whole.savefig(path, dpi=144)


def _bars(axes: Any, layers: Sequence[Layer]) -> None:
    """A pair of bars a layer, in percent of its limits."""
    batch = layers[0].batch
    for k, (label, color, shares) in enumerate(
        (
            ("one stream: of reading its weights", "#c2410c", [f.of_stream for f in layers]),
            (f"batch {batch}: of the most multiply-adds", "#fdba74", [f.of_peak for f in layers]),
        )
    ):
        places = [i + 0.38 * k for i in range(len(layers))]
        bars = axes.barh(places, [100 * s for s in shares], 0.36, label=label, color=color)
        axes.bar_label(bars, [f"{s:.0%}" for s in shares], padding=4, fontsize=9)
    axes.set_yticks([i + 0.19 for i in range(len(layers))], [f"{f.name} ({f.op})" for f in layers])
    axes.invert_yaxis()
    axes.set_xlim(0, max(100, *(100 * f.of_stream for f in layers)) * 1.04)
    axes.axvline(100, color="#737373", linewidth=1, linestyle="--")
    axes.set_title("Each layer alone, in % of the limit of this core", fontsize=11, loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _series(result: Bench) -> dict[str, list[Timing]]:
    """The timings of each runtime, ours first."""
    series = {"edge-rnn": list(result.timings)}
    for c in result.compared:
        if c.timing is not None:
            series.setdefault(c.variant, []).append(c.timing)
    return series


def _styles(names: list[str]) -> list[dict[str, Any]]:
    """A line style for each name; exports of one peer share a hue and a marker."""
    styles: list[dict[str, Any]] = []
    families: dict[str, list[str]] = {}
    for name in names[1:]:
        family = name.split()[0]
        exports = families.setdefault(family, [])
        k = list(families).index(family) % len(_HUES)
        dashes = _DASHES[len(exports) % len(_DASHES)]
        exports.append(name)
        styles.append(
            {"color": _HUES[k], "marker": _MARKERS[k], "linestyle": dashes, "markersize": 5}
        )
    return [_OURS, *styles]


def _axes(axes: Any, title: str, unit: str, sizes: list[int]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_title(title, fontsize=11)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(s) for s in sizes])
    axes.set_xlabel("batch: streams stepped in one call")
    axes.set_ylabel(unit)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.grid(True, which="major", color="#d4d4d4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
