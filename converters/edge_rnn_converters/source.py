"""What a reader of one format hands to the conversion, and how it refuses."""

from __future__ import annotations

import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import EdgeRnnError, ModelError, UnsupportedError
from edge_rnn.graph import F32, Model

MAX_BYTES = 1 << 30

Progress: TypeAlias = Callable[[str], None]
"""Is told what is being done now."""

LAST_ONLY = (
    "{}: the source answers once, at a sequence's end; the stream answers at every step, each "
    "with what the source would say if the sequence ended there"
)
WINDOW = (
    "the source is made for windows of {} steps and starts each from the initial state; the "
    "stream carries its state on; --mode tumbling --window {} does as the source does"
)


class CannotRunError(EdgeRnnError):
    """The source framework is not installed, or it can't run this file; the text says why."""


class UndescribedError(UnsupportedError):
    """Arrays that may be of several networks; `template` is a description to edit, in TOML."""

    def __init__(self, text: str, template: str) -> None:
        super().__init__(text)
        self.template = template


@dataclass(frozen=True, slots=True, eq=False)
class SourceRun:
    """What the source framework computed: rows y (len(steps), O), each at its step of x; `notes`
    say what the run told of the source."""

    framework: str
    steps: NDArray[np.int64]
    y: F32
    notes: tuple[str, ...] = ()


class Runner(Protocol):
    """Runs the source with its own framework, one stream from the initial state."""

    def __call__(self, x: F32) -> SourceRun:
        """x (T, I) -> the outputs the source has for it. Raises CannotRunError."""


@dataclass(frozen=True, slots=True)
class Regime:
    """How the source was made to be used: on sequences of `window` steps, each from the initial
    state (None: of any length); `ends`: it answers once, at a sequence's end."""

    window: int | None = None
    ends: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A trained model as read from its file: float32, not described, not yet checked.

    `framework` is what the file says made it; `notes` what its user should know. A model with nodes
    that look ahead (`edge_rnn.graph.AHEAD`) needs a window, the regime's or its user's.
    """

    model: Model
    framework: str
    notes: tuple[str, ...]
    run: Runner
    regime: Regime = Regime()


@dataclass(frozen=True, slots=True)
class Options:
    """What a reader may need to be told besides the file: `description`, a TOML file that says
    what network the weights are of, or `network`, a line that says it; `window`, the steps of a
    sequence where the file has none; `inputs`, by name, the shape of an input that the file leaves
    open, or the number that an input always is; `example_inputs`, what a live PyTorch module is
    called with; `signature`, which of a SavedModel's is meant."""

    description: Path | None = None
    network: str = ""
    window: int | None = None
    inputs: Mapping[str, tuple[int, ...] | float] = field(default_factory=dict)
    example_inputs: tuple[Any, ...] = ()
    signature: str = ""


_TRIPS = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, tokenize.TokenError, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def reading(what: str) -> Iterator[None]:
    """What a reader of a stranger's file trips over is the file: a ModelError that names `what`."""
    try:
        yield
    except EdgeRnnError:
        raise
    except _TRIPS as e:
        raise ModelError(f"{what}: damaged, or in a form never seen: {e!r}") from e


def prefixes(T: int) -> list[int]:
    """Lengths of the sequences to ask a source for that answers at their ends only."""
    return sorted({1, max(1, T // 3), T})


def refuse(layer: str, attribute: str, why: str, way_out: str) -> UnsupportedError:
    """The one form of a refusal: which layer, what of it, why, and what to do instead."""
    return UnsupportedError(f"{layer}: {attribute}: {why}; {way_out}")


@dataclass(slots=True)
class Names:
    """Gives values the names a model file allows, each once."""

    taken: set[str] = field(default_factory=set)

    def unique(self, wanted: str) -> str:
        """`wanted` in letters, digits, '_', '.' and '-', numbered if it is taken."""
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", wanted).strip("_")[:100] or "value"
        name, n = base, 1
        while name in self.taken:
            n += 1
            name = f"{base}_{n}"
        self.taken.add(name)
        return name
