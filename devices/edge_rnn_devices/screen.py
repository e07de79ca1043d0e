"""The demo's terminal picture: a row a device."""

from __future__ import annotations

import re
import time
from io import StringIO

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from edge_rnn_devices.scoreboard import BARS, Device, Latencies, Scoreboard

_HEIGHTS = "▁▂▃▄▅▆▇█"
_OTHER_COLUMNS = 74


class Screen:
    """Draws a scoreboard as wide as the console is; print it, or hand it to `rich.live`."""

    def __init__(self, board: Scoreboard, title: str) -> None:
        self.board, self.title = board, title
        self._started = self._last = time.monotonic()
        self._counts: dict[str, int] = {}
        self._rates: dict[str, float] = {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The picture of this moment."""
        bars = max(6, min(BARS, options.max_width - _OTHER_COLUMNS))
        with self.board.lock:
            self._measure_rates()
            yield self._table(bars)
            yield self._footer()

    def picture(self, title: str) -> str:
        """The picture as SVG, a terminal window of that title."""
        console = Console(record=True, width=_OTHER_COLUMNS + BARS, file=StringIO())
        console.print(self)
        svg = console.export_svg(title=title)
        return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)  # they load from the web

    def _table(self, bars: int) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD,
            title=self.title,
            title_style="bold",
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for title, width in (("device", 8), ("prediction", 10), ("sure", 4), ("truth", 11)):
            table.add_column(title, min_width=width, no_wrap=True)
        table.add_column(f"last {bars} s", min_width=bars, no_wrap=True)
        for title, width in (("right", 6), ("msg/s", 5), ("p50", 5), ("p99", 5)):
            table.add_column(title, min_width=width, justify="right", no_wrap=True)
        for device in sorted(self.board.devices.values(), key=lambda d: (len(d.name), d.name)):
            table.add_row(*self._row(device, bars))
        return table

    def _row(self, d: Device, bars: int) -> tuple[Text | str, ...]:
        right = d.label == d.truth
        colour = "green" if right else "red"
        return (
            d.name,
            Text(d.label, style=f"bold {colour}"),
            f"{d.confidence:.0%}",
            Text(f"{'✓' if right else '✗'} {d.truth}", style=colour),
            _sparkline(d, bars),
            f"{d.accuracy:.1%}",
            f"{self._rates.get(d.name, 0):,.0f}",
            *_milliseconds(d.latencies),
        )

    def _footer(self) -> Text:
        b = self.board
        p50, p99 = _milliseconds(b.latencies)
        return Text.from_markup(
            f"[bold]{b.accuracy:.1%} right[/bold] of {b.messages:,} predictions on recordings "
            "never trained on,\nchanges of activity included; "
            f"[bold]{sum(self._rates.values()):,.0f} messages/s[/bold], "
            f"sensor to prediction [bold]p50 {p50} ms, p99 {p99} ms[/bold]"
        )

    def _measure_rates(self) -> None:
        now = time.monotonic()
        if now - self._last < 1 and self._counts:
            return
        for d in self.board.devices.values():
            new = d.messages - self._counts.get(d.name, 0)
            self._rates[d.name] = new / max(now - self._last, 1e-3)
            self._counts[d.name] = d.messages
        self._last = now


def _milliseconds(latencies: Latencies) -> tuple[str, str]:
    p50, p99 = (1e3 * latencies.percentile(q) for q in (50, 99))
    return f"{p50:,.1f}", f"{p99:,.1f}"


def _sparkline(d: Device, bars: int) -> Text:
    """A second of the recording a bar: confidence as height, how often right as colour."""
    line = Text()
    for confidence, right in list(d.bars)[-bars:]:
        bar = _HEIGHTS[min(int(confidence * len(_HEIGHTS)), len(_HEIGHTS) - 1)]
        line.append(bar, style="green" if right > 0.8 else "yellow" if right > 0.4 else "red")
    return line
