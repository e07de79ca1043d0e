"""Streams in a portable file: safetensors, without pickle or code.

Its metadata `edge_rnn_states` is JSON: `version`, `model`, `lineage`, `pipeline`. The tensor
`streams` (U8) is a JSON array of {stream, run, epoch, sequence, stopped, steps, state}, `state`
being the stream's row of the tensor `states` (F32, streams x numbers) or null.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from edge_rnn.container import read_container
from edge_rnn.errors import ModelFileError, StateError
from edge_rnn.journal import Mark
from edge_rnn.keeper.requests import Kept, Streams
from edge_rnn.ordering import Number

METADATA, VERSION = "edge_rnn_states", 1


class _About(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    model: str
    lineage: str
    pipeline: str


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    stream: str
    run: int
    epoch: int
    sequence: Number | None
    stopped: bool
    steps: int
    state: int | None


def write(path: Path, s: Streams) -> None:
    """Write a file that is readable by its owner only; it appears whole or not at all.

    Raises OSError."""
    about = _About(VERSION, s.model, s.lineage, s.pipeline)
    states = [k.state for k in s.streams if k.state is not None]
    rows = iter(range(len(states)))
    entries = [_entry(k, None if k.state is None else next(rows)) for k in s.streams]
    tensors = {"streams": np.frombuffer(msgspec.json.encode(entries), np.uint8)}
    if states and states[0]:
        words = np.frombuffer(b"".join(states), "<f4").reshape(len(states), -1)
        tensors["states"] = words
    blob = save(tensors, {METADATA: msgspec.json.encode(about).decode()})
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(blob)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> Streams:
    """The streams in a file. Raises StateError, naming it."""
    try:
        metadata, tensors = read_container(path)
        about = msgspec.json.decode(metadata[METADATA], type=_About)
        entries = msgspec.json.decode(tensors["streams"].tobytes(), type=list[_Entry])
    except KeyError as e:
        raise StateError(f"{path}: not a file of `edge-rnn state export`: no {e}") from e
    except msgspec.MsgspecError as e:
        raise StateError(f"{path}: {e}") from e
    except ModelFileError as e:
        raise StateError(str(e)) from e
    if about.version != VERSION:
        raise StateError(f"{path}: version {about.version}, this edge-rnn reads {VERSION}")
    states = tensors.get("states")
    try:
        kept = [_kept(e, states) for e in entries]
    except IndexError as e:
        raise StateError(f"{path}: {e}") from e
    return Streams(about.model, about.lineage, about.pipeline, kept)


def _entry(k: Kept, row: int | None) -> _Entry:
    m = k.mark
    return _Entry(m.stream, m.run, m.epoch, m.sequence, m.stopped, k.steps, row)


def _kept(e: _Entry, states: NDArray[np.float32] | None) -> Kept:
    mark = Mark(e.stream, e.run, e.epoch, e.sequence, e.stopped)
    if e.state is None:
        return Kept(mark)
    if e.state < 0:
        raise IndexError(f"stream {e.stream!r}: row {e.state} of the states")
    return Kept(mark, e.steps, b"" if states is None else bytes(states[e.state].tobytes()))
