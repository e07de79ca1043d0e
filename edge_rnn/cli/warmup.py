"""`edge-rnn warmup`: compile now what a first start would wait for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from edge_rnn.cachedir import cache_dir, no_cache, writable
from edge_rnn.errors import ConfigError


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
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
def warmup(as_json: bool) -> None:
    """Compile all that a session needs into the cache folder, so that no start has to wait for it.

    Exits with 2 if the folder can't be written. EDGE_RNN_CACHE names another.

    \b
    Example:
      edge-rnn warmup
    """
    started = time.perf_counter()
    try:
        writable(cache_dir() / "kernels")  # before anything is compiled in vain
    except OSError as e:
        raise ConfigError(no_cache(cache_dir() / "kernels", e)) from e
    compiled: list[str] = []
    with _progress(quiet=as_json) as show:

        def tell(name: str) -> None:
            compiled.append(name)
            show(f"compiling {name}")

        level, folder = _compile_all(tell)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    seconds = round(time.perf_counter() - started, 3)
    result = Warm(str(folder), level, size, seconds, tuple(compiled))
    click.echo(msgspec.json.encode(asdict(result)).decode() if as_json else _sentence(result))


def _compile_all(tell: Callable[[str], None]) -> tuple[str, Path]:
    """(level, folder) of what was compiled; Numba is not imported before."""
    from edge_rnn.kernels.cache import compiling, kernels_dir, log
    from edge_rnn.kernels.cpu import LEVEL

    log.setLevel(logging.WARNING)  # the same is shown here, and more
    try:
        writable(kernels_dir())
    except OSError as e:
        raise ConfigError(no_cache(kernels_dir(), e)) from e
    with compiling(tell):
        rehearse()
    return LEVEL.name, kernels_dir()


def rehearse() -> None:
    """Have a session do all that runs compiled code: it is the same code for every model."""
    from edge_rnn.graph import Activation, Input, Model, Reverse, Window
    from edge_rnn.session import Session

    streamed = Model((Input("x", 1),), (Activation("y", "x"),), ("y",))
    ahead = Model((Input("x", 1),), (Reverse("y", "x"),), ("y",), window=Window(1, 1))
    for model in (streamed, ahead):
        session = Session(model, capacity=1)
        session.step(["one"], [[0.0]])
        session.step(["another, for which the one makes room"], [[0.0]])
        session.restore(session.snapshot())


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
