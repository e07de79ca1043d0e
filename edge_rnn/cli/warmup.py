"""`edge-rnn warmup`: compile now what a first start would wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from edge_rnn.cachedir import no_cache, writable
from edge_rnn.errors import ConfigError
from edge_rnn.kernels.cache import compile_for, compiling, kernels_dir
from edge_rnn.kernels.cpu import LEVEL, LEVELS, Level
from edge_rnn.kernels.entries import SESSION


@dataclass(frozen=True, slots=True)
class Warm:
    """What is in the cache `folder` now for instructions of `level`, and what had to be compiled
    for that: names of functions, in order."""

    folder: str
    level: str
    bytes: int
    seconds: float
    compiled: tuple[str, ...]


@click.command()
@click.option(
    "--for",
    "level",
    metavar="LEVEL",
    help="Compile for another processor: dotprod (Pi 5), neon (Pi 3, 4, Zero 2), sse, avx2, ...",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="A cache folder to compile into instead of one's own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
def warmup(level: str | None, output: Path | None, as_json: bool) -> None:
    """Compile all that a session needs into the cache folder, so that no start has to wait for it.

    Exits with 2 if the folder can't be written. EDGE_RNN_CACHE names another. Compiling for a
    small board here, and copying the folder there, spares it minutes; the versions of edge-rnn,
    numba, llvmlite and numpy must be the same there.

    \b
    Examples:
      edge-rnn warmup
      edge-rnn warmup --for neon -o pi-cache
    """
    started = time.perf_counter()
    chosen, compiled = _level(level), list[str]()
    folder = kernels_dir(chosen, output)
    try:
        writable(folder)  # before anything is compiled in vain
    except OSError as e:
        raise ConfigError(no_cache(folder.parent, e)) from e
    with _progress(quiet=as_json) as show:

        def tell(name: str) -> None:
            compiled.append(name)
            show(f"compiling {name}")

        with compiling(tell):
            compile_for(chosen, SESSION, output)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    seconds = round(time.perf_counter() - started, 3)
    result = Warm(str(folder), chosen.name, size, seconds, tuple(compiled))
    click.echo(msgspec.json.encode(asdict(result)).decode() if as_json else _sentence(result))


def _level(name: str | None) -> Level:
    """The level by its name, this processor's without one."""
    if name is None:
        return LEVEL
    if name not in LEVELS:
        raise ConfigError(f"--for {name}: expected one of {', '.join(LEVELS)}")
    return LEVELS[name]


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on stderr with what goes on and for how long it has."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task("looking into the cache", total=None)
        yield lambda text: progress.update(task, description=text)


def _sentence(w: Warm) -> str:
    done = f"compiled in {w.seconds:.1f} s" if w.compiled else f"all there ({w.seconds:.1f} s)"
    return f"kernels for {w.level}: {done}, {w.bytes / 1e6:.1f} MB in {w.folder}"
