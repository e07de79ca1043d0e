"""What a certificate is asked of: the stream to run, and the bounds to keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edge_rnn.errors import InputError
from edge_rnn.graph import Model
from edge_rnn_converters.certificate.data import STEPS, Data, generated, read
from edge_rnn_converters.certificate.measure import Bounds


@dataclass(frozen=True, slots=True)
class Request:
    """A file of data with its columns of labels, or a generated stream if None, of at least
    `steps` steps; the bounds; where to write a page for people."""

    data: Path | None = None
    labels: tuple[str, ...] = ()
    steps: int = STEPS
    bounds: Bounds = Bounds()
    page: Path | None = None

    def stream(self, model: Model) -> Data:
        """The stream for this model. Raises as `data.read`, InputError for labels of no data."""
        if self.data is not None:
            return read(self.data, model, self.labels, self.steps)
        if self.labels:
            raise InputError("labels are columns of data, and there is none")
        return generated(model, self.steps)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a request, for a command that gives them all to `request`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def request(
    data: Path | None,
    label: str | None,
    steps: int,
    max_error: float | None,
    min_agreement: float | None,
    report: Path | None,
) -> Request:
    """The request that these options make."""
    labels = tuple(part.strip() for part in label.split(",")) if label else ()
    return Request(data, labels, steps, Bounds(max_error, min_agreement), report)


_OPTIONS = (
    click.option(
        "--data", type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Measure on this stream (.csv, .npy, .npz, .parquet), not on a generated one.",
    ),
    click.option("--label", metavar="A,B", help="Its columns of labels."),
    click.option(
        "--steps", type=click.IntRange(1), default=STEPS, show_default=True,
        help="Steps of the stream, at least; shorter data is repeated.",
    ),
    click.option(
        "--max-error", type=click.FloatRange(0), help="The largest error that an output may have."
    ),
    click.option(
        "--min-agreement", type=click.FloatRange(0, 1), metavar="SHARE",
        help="The share of decisions that must not change, such as 0.99.",
    ),
    click.option(
        "--report", type=click.Path(dir_okay=False, path_type=Path),
        help="Write a page with plots, one .html file.",
    ),
)  # fmt: skip
