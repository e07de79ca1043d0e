"""The demo's terminal picture: a row a device."""

from __future__ import annotations

import time

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edge_rnn_devices.scoreboard import Device, Scoreboard

_BARS = "▁▂▃▄▅▆▇█"


class Screen:
    """Draws a scoreboard; keeps what a rate needs from one picture to the next."""

    def __init__(self, board: Scoreboard, title: str) -> None:
        self.board, self.title = board, title
        self._started = self._last = time.monotonic()
        self._counts: dict[str, int] = {}
        self._rates: dict[str, float] = {}

    def render(self) -> Group:
        """The picture of this moment."""
        with self.board.lock:
            return self._render()

    def _render(self) -> Group:
        self._measure_rates()
        table = Table(box=box.SIMPLE_HEAD, title=self.title, title_style="bold", expand=False)
        table.add_column("device")
        table.add_column("prediction", min_width=10)
        table.add_column("sure", justify="right")
        table.add_column("truth", min_width=10)
        table.add_column("", width=1)
        table.add_column("last predictions", min_width=24)
        table.add_column("right", justify="right")
        table.add_column("msgs", justify="right")
        table.add_column("msg/s", justify="right")
        for device in sorted(self.board.devices.values(), key=lambda d: (len(d.name), d.name)):
            table.add_row(*self._row(device))
        return Group(table, self._footer())

    def _row(self, d: Device) -> tuple[Text | str, ...]:
        right = d.label == d.truth
        colour = "green" if right else "red"
        return (
            d.name,
            Text(d.label, style=f"bold {colour}"),
            f"{d.confidence:.0%}",
            d.truth,
            Text("✓" if right else "✗", style=colour),
            _sparkline(d),
            f"{d.accuracy:.1%}",
            f"{d.messages:,}",
            f"{self._rates.get(d.name, 0):,.0f}",
        )

    def _footer(self) -> Text:
        b = self.board
        p50, p99 = (1e3 * b.latencies.percentile(q) for q in (50, 99))
        text = Text("  ")
        text.append(f"{b.accuracy:.1%} right", style="bold")
        text.append(f" of {b.messages:,} predictions on recordings never trained on; ")
        text.append(f"{sum(self._rates.values()):,.0f} msg/s", style="bold")
        text.append("; sensor to prediction ")
        text.append(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", style="bold")
        text.append(f"; {time.monotonic() - self._started:.0f} s")
        return text

    def _measure_rates(self) -> None:
        now = time.monotonic()
        if now - self._last < 1 and self._counts:
            return
        for d in self.board.devices.values():
            new = d.messages - self._counts.get(d.name, 0)
            self._rates[d.name] = new / max(now - self._last, 1e-3)
            self._counts[d.name] = d.messages
        self._last = now


def _sparkline(d: Device) -> Text:
    """Confidence as height, right or wrong as colour."""
    line = Text()
    for confidence, right in d.recent:
        bar = _BARS[min(int(confidence * len(_BARS)), len(_BARS) - 1)]
        line.append(bar, style="green" if right else "red")
    return line
