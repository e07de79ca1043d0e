"""`edge-rnn verify`: does this machine compute what the file says?"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_rnn import reference
from edge_rnn.errors import ModelError
from edge_rnn.graph import F32, Model, Probe, answer_steps, output_digest
from edge_rnn.modelfile import load
from edge_rnn.session import Session

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Verification:
    """A probe's replay: bits against the recorded output, values against the reference.

    `first_difference` is (step, column, value here, value in the file) or None, the step counted
    in messages. Errors are absolute maxima; there is no reference of a model that another `engine`
    runs. `accepted`: the bits are the same, or another engine's, which are not promised, and the
    values are within 1e-4 and 1e-4 of their size.
    """

    accepted: bool
    engine: str | None
    identical: bool
    digest: str
    steps: int
    first_difference: tuple[int, int, float, float] | None
    max_difference: float
    reference_error: float | None


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
@click.pass_context
def verify(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Replay the run recorded in FILE on this machine and compare the bits.

    Exits with 0 if they are identical, with 3 if not. Of a model that another engine runs the
    values count, for only our own kernels promise the same bits on every machine.

    \b
    Example:
      edge-rnn verify activity.ernn
    """
    result = replay(load(file))
    if as_json:
        click.echo(msgspec.json.encode({"file": str(file), **asdict(result)}).decode())
    else:
        click.echo(_sentence(result))
    if not result.accepted:
        ctx.exit(3)


def replay(model: Model) -> Verification:
    """Step the model's probe from the initial state. Raises ModelError if it has none."""
    if model.probe is None:
        raise ModelError("the model carries no probe, so there is nothing to verify against")
    expected = model.probe.output
    y = Session(model, capacity=1).run("probe", model.probe.input)
    difference = np.abs(y.astype(np.float64) - expected)
    identical = output_digest(y) == model.probe.digest
    engine = None if model.foreign is None else model.foreign.engine
    near = bool((difference <= TOLERANCE + TOLERANCE * np.abs(expected)).all())
    steps = answer_steps(model, model.probe.input)
    return Verification(
        accepted=identical or (engine is not None and near),
        engine=engine,
        identical=identical,
        digest=output_digest(y),
        steps=len(y),
        first_difference=_first_difference(y, expected, steps),
        max_difference=float(difference.max()),
        reference_error=None if engine else _error(model, model.probe, y),
    )


def _error(model: Model, probe: Probe, y: F32) -> float:
    return float(np.abs(y - reference.answers(model, probe.input)[1]).max())


def _first_difference(
    y: F32, expected: F32, steps: NDArray[np.int64]
) -> tuple[int, int, float, float] | None:
    places = np.argwhere(y.view(np.int32) != np.ascontiguousarray(expected).view(np.int32))
    if not len(places):
        return None
    row, column = places[0]
    return int(steps[row]), int(column), float(y[row, column]), float(expected[row, column])


def _sentence(v: Verification) -> str:
    here = f"{platform.machine()}, {v.steps} steps"
    error = (
        f"error against the float64 reference {v.reference_error:.2g}"
        if v.reference_error is not None
        else f"run by {v.engine}: the same bits on every machine are promised of our kernels only"
    )
    if v.identical:
        return f"bit-identical to the machine that made this file ({here}; {error})"
    if v.accepted:
        return f"the same within {v.max_difference:.2g}, not bit for bit ({here}; {error})"
    step, column, ours, theirs = v.first_difference or (0, 0, 0.0, 0.0)
    return (
        f"NOT identical ({here}): first differs at step {step}, column {column}: {ours:.9g} here, "
        f"{theirs:.9g} in the file; largest difference {v.max_difference:.2g}; {error}"
    )
