"""Models that another engine runs: found by name, fed and asked, a stream's state kept by us.

The engines are found through the entry point group `edge_rnn.backends`; an entry is an `Opener`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import EdgeRnnError, MissingExtraError, ModelError
from edge_rnn.graph import F32, Foreign, Model
from edge_rnn.stepper import Marks

EXTRAS = {"litert": "litert", "onnxruntime": "onnx"}


class Tensor(NamedTuple):
    """A tensor that an engine is fed: None stands for an open size; `real`: every number that it
    can hold, as the engine means it, is a float32."""

    name: str
    shape: tuple[int | None, ...]
    real: bool


class Interpreter(Protocol):
    """A model file in its engine. `engine` is that with its version."""

    engine: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]

    def __call__(self, feed: Mapping[str, F32], names: Sequence[str]) -> list[NDArray[Any]]:
        """Run it once: the numbers fed, of the inputs' shapes, and those asked for, are as the
        engine means them, not as it may store them."""

    def reset(self) -> None:
        """Forget what an engine keeps inside from call to call."""


Opener: TypeAlias = Callable[[bytes, Mapping[str, tuple[int, ...]]], Interpreter]
"""(a model file's bytes, shapes of inputs whose size is open) -> it, loaded. Raises
MissingExtraError where the engine is not installed, and whatever the engine does of damage."""

Call: TypeAlias = Callable[[list[F32]], list[F32]]
"""[x, *states], in the shapes of the node's tensors -> [y (width,), *their next values]."""


def interpreter(engine: str, blob: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Interpreter:
    """The model in its engine. Raises MissingExtraError or ModelError."""
    found = {e.name: e for e in entry_points(group="edge_rnn.backends")}
    if engine not in found:
        raise MissingExtraError(
            "edge_rnn_converters", extra=EXTRAS[engine], need=f"to run models with {engine}"
        )
    opener: Opener = found[engine].load()
    with theirs(engine, "load"):
        return opener(blob, shapes)


@contextmanager
def theirs(engine: str, verb: str) -> Iterator[None]:
    """What an engine raises is about the model: a ModelError."""
    try:
        yield
    except EdgeRnnError:
        raise
    except Exception as e:
        # Engines have no base class of their own for what a file may do wrong.
        raise ModelError(f"{engine} can't {verb} the model: {' '.join(str(e).split())}") from e


def load(node: Foreign) -> Call:
    """The node's model in its engine, run once from zeros. Raises MissingExtraError or ModelError.

    Never of one engine for two sessions: each loads its own.
    """
    opened = interpreter(node.engine, node.blob.tobytes(), node.fed)
    fixed = {f.tensor: np.full(f.shape, f.value, np.float32) for f in node.fixed}
    fed = [node.x.tensor, *(s.before for s in node.states)]
    fetched = [node.y.tensor, *(s.after for s in node.states)]
    width, fresh = node.width, node.messages > 1

    def call(arrays: list[F32]) -> list[F32]:
        if fresh:
            opened.reset()
        y, *after = opened(fixed | dict(zip(fed, arrays, strict=True)), fetched)
        return [y.reshape(-1)[-width:], *after]

    with theirs(node.engine, "run"):
        zeros = [np.zeros(node.fed[name], np.float32) for name in fed]
        y, *after = call(zeros)
    got = [y.shape, *(a.shape for a in after)]
    expected = [(width,), *(s.shape for s in node.states)]
    if got != expected:
        raise ModelError(f"node {node.name!r}: {node.engine} answers {got}, expected {expected}")
    return call


class Hosted:
    """An `Engine` for a valid model that another engine runs message by message.

    A stream's state, the tensors side by side, is fed with its message and kept from the answer,
    so that nothing of it is left in the one engine that runs all streams. Raises ModelError where
    that fails at a message; the rows before it were stepped then.
    """

    def __init__(self, model: Model) -> None:
        node = model.foreign
        assert node is not None  # noqa: S101 - its caller looked
        self._call, self._node = load(node), node
        self.input_width, self.output_width = model.input_width, model.output_width
        ends = np.cumsum([0, *(s.size for s in node.states)]).tolist()
        self._places = [slice(a, b) for a, b in pairwise(ends)]
        self.state_width = ends[-1]
        self.state_words = np.arange(self.state_width)
        self.vocabularies = np.empty((0, 2), np.int64)

    def run(
        self, states: F32, slots: NDArray[np.int64], steps: NDArray[np.int64], x: F32, out: F32,
        emitted: Marks,
    ) -> None:  # fmt: skip
        """See `Engine`."""
        shapes = [s.shape for s in self._node.states]
        emitted[:] = True
        with theirs(self._node.engine, "run"):
            for i, slot in enumerate(slots.tolist()):
                own = [states[slot, place] for place in self._places]
                before = [a.reshape(shape) for a, shape in zip(own, shapes, strict=True)]
                out[i], *after = self._call([x[i].reshape(self._node.x.shape), *before])
                for words, tensor in zip(own, after, strict=True):
                    words[:] = tensor.reshape(-1)


class HostedWindows:
    """A model that another engine runs window by window, as a part of `Buffered`."""

    def __init__(self, node: Foreign) -> None:
        self._call, self._node = load(node), node

    def run(self, values: dict[str, F32]) -> None:
        """Add the answers (1, W, N) to the values, of which it reads one (n, W, I)."""
        node, windows = self._node, values[self._node.input].transpose(1, 0, 2)
        y = np.empty((1, len(windows), node.width), np.float32)
        with theirs(node.engine, "run"):
            for i, window in enumerate(windows):
                (y[0, i],) = self._call([np.ascontiguousarray(window).reshape(node.x.shape)])
        values[node.name] = y
