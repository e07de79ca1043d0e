"""What a model file's tensors are, from what its engine says of them and one run of it."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np

from edge_rnn import hosted
from edge_rnn.graph import F32, Backend, Fixed, Foreign, Port
from edge_rnn.hosted import Interpreter, Tensor
from edge_rnn_converters.backends.tensors import Roles, roles
from edge_rnn_converters.source import Names, refuse


def described(
    blob: bytes,
    backend: Backend,
    states: Mapping[str, str],
    told: Mapping[str, tuple[int, ...] | float],
    window: int,
) -> tuple[Foreign, str]:
    """(the node, the engine with its version), of what `host` takes; `window` messages are fed
    at once where the file leaves that open. Raises as it does."""
    opened = hosted.interpreter(backend, blob, {})
    _known(opened, told)
    shapes = {t.name: _shape(t, told.get(t.name), window) for t in opened.inputs}
    opened = hosted.interpreter(backend, blob, shapes)
    numbers = {k: v for k, v in told.items() if isinstance(v, float | int)}
    fixed = tuple(Fixed(name, shapes[name], float(v)) for name, v in numbers.items())
    fed = {name: shape for name, shape in shapes.items() if name not in numbers}
    found = roles(fed, _answers(opened, backend, fed, fixed), states)
    _real(opened, found)
    y_shape = _answers(opened, backend, fed, fixed)[found.y]
    x_shape = fed[found.x]
    messages = _messages(found.x, x_shape)
    if messages == 1 and not found.states:
        _no_time(opened, found.x, told)
    names = Names()
    return Foreign(
        input=names.unique(found.x),
        name=names.unique(found.y),
        blob=np.frombuffer(blob, np.uint8),
        sha256=hashlib.sha256(blob).hexdigest(),
        engine=backend,
        messages=messages,
        width=_width(y_shape, messages),
        x=Port(found.x, x_shape),
        y=Port(found.y, y_shape),
        states=found.states,
        fixed=fixed,
    ), opened.engine


def _known(opened: Interpreter, told: Iterable[str]) -> None:
    names = [t.name for t in opened.inputs]
    for name in told:
        if name not in names:
            why = "the model has no such input"
            raise refuse(f"input {name!r}", "name", why, f"it has {', '.join(names)}")


def _shape(tensor: Tensor, told: tuple[int, ...] | float | None, window: int) -> tuple[int, ...]:
    """Sizes that are open: as told; else one stream, and as many messages as a window has. The
    last axis, a message's numbers, must be known."""
    if isinstance(told, tuple):
        fits = len(told) == len(tensor.shape) and all(
            n in (None, m) for n, m in zip(tensor.shape, told, strict=True)
        )
        if not fits:
            why = f"{list(told)} does not fit {list(tensor.shape)}"
            raise refuse(f"input {tensor.name!r}", "shape", why, "give each open size a number")
        return told
    if told is None and len(tensor.shape) > 0 and tensor.shape[-1] is None:
        why = f"{list(tensor.shape)} leaves open how many numbers a message has"
        raise refuse(f"input {tensor.name!r}", "shape", why, f"say --input {tensor.name}=1x512")
    time = _time_axis(tensor)
    return tuple(
        n if n is not None else window if axis == time else 1 for axis, n in enumerate(tensor.shape)
    )


def _time_axis(tensor: Tensor) -> int | None:
    """The open axis that may be time: the last of those before the features, of three axes or of
    two whose first is not the streams'."""
    return next((a for a in (len(tensor.shape) - 2,) if a >= 0 and tensor.shape[a] is None), None)


def _no_time(opened: Interpreter, x: str, told: Container[str]) -> None:
    """A model without states is fed a message at a time only if it can't be fed several."""
    tensor = next(t for t in opened.inputs if t.name == x)
    if x not in told and len(tensor.shape) > 2 and _time_axis(tensor) is not None:
        raise refuse(
            f"input {x!r}", "time",
            "is open, and no state is carried: message by message nothing would be remembered",
            "give it windows: --mode tumbling --window N, or --mode sliding --window N --hop K",
        )  # fmt: skip


def _answers(
    opened: Interpreter, backend: Backend, fed: Mapping[str, tuple[int, ...]],
    fixed: Sequence[Fixed],
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """The shapes of what it answers to zeros."""
    feed: dict[str, F32] = {name: np.zeros(shape, np.float32) for name, shape in fed.items()}
    feed |= {f.tensor: np.full(f.shape, f.value, np.float32) for f in fixed}
    with hosted.theirs(backend, "run"):
        found = opened(feed, opened.outputs)
    return {name: a.shape for name, a in zip(opened.outputs, found, strict=True)}


def _real(opened: Interpreter, found: Roles) -> None:
    names = {found.x, *(s.before for s in found.states)}
    for t in opened.inputs:
        if t.name in names and not t.real:
            why = "its numbers are not all float32 numbers"
            raise refuse(f"input {t.name!r}", "type", why, "convert the model, or fix the input")


def _messages(name: str, shape: tuple[int, ...]) -> int:
    """How many messages x has: the only size before the last axis that is not 1."""
    several = [n for n in shape[:-1] if n != 1]
    if len(several) > 1:
        why = f"{list(shape)} is of several streams or of a picture"
        raise refuse(f"input {name!r}", "shape", why, "a message is the last axis, streams are 1")
    return several[0] if several else 1


def _width(shape: tuple[int, ...], messages: int) -> int:
    """The answer's numbers: the last row's where there is one for each message."""
    size = int(np.prod(shape, dtype=np.int64))
    rows = size // shape[-1] if shape else 1
    return size // rows if messages > 1 and rows == messages else size
