"""A trained model's file or a live module, whatever its format, to a `Source`."""

from __future__ import annotations

import hashlib
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_rnn.errors import UnsupportedError
from edge_rnn_converters.detect import Format, detect
from edge_rnn_converters.guard import has_read
from edge_rnn_converters.source import Options, Progress, Source, reading
from edge_rnn_converters.weights import source as weights

_READERS: dict[Format, str] = {
    "keras": "keras.source",
    "keras-h5": "keras.source",
    "saved-model": "keras.source",
    "signature": "tensorflow.source",
    "onnx": "onnx.source",
    "tflite": "tflite.source",
    "torchscript": "torch.source",
    "pt2": "torch.source",
    **dict.fromkeys(
        ("torch-checkpoint", "safetensors", "npz", "hf-folder", "h5-weights"), "weights.source"
    ),
}
"""The module that reads a format, imported when a file of it comes."""


def read(path: Path, options: Options) -> Source:
    """The model in a file, not yet checked.

    Raises UnsupportedError naming what can't be run faithfully, ModelError for a damaged file,
    MissingExtraError when the format's reader is not installed.
    """
    form = detect(path)
    if options.signature and form == "saved-model":
        form = "signature"
    reader = import_module(f"edge_rnn_converters.{_READERS[form]}")
    with reading(path.name):
        source: Source = reader.read(path, form, options)
    has_read()
    return source


def opened(source: Any, options: Options, progress: Progress) -> tuple[str, str, Source]:
    """The source, a file's or a live module's, with its name and the SHA-256 of the file or of the
    module's weights. Raises as `read`."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        progress(f"reading {path.name}")
        found = read(path, options)
        return path.name, _sha256(path), found
    from edge_rnn_converters.torch.source import digest as digest_of
    from edge_rnn_converters.torch.source import read_module

    progress(f"reading {type(source).__name__}")
    with reading(type(source).__name__):
        found = read_module(source, options)
        return type(source).__name__, digest_of(source), found


def template(source: str | os.PathLike[str]) -> str:
    """A description, as TOML to edit, of the network whose arrays a file holds, as far as they
    tell. Raises UnsupportedError for a file that holds its network itself."""
    path = Path(source)
    form = detect(path)
    if _READERS[form] != "weights.source":
        raise UnsupportedError(f"{path.name}: holds its network itself; convert it as it is")
    with reading(path.name):
        return weights.template(path, form)


def _sha256(path: Path) -> str:
    """Of a folder, over the digests of its files in the order of their names; a SavedModel has
    its weights one folder further in."""
    if path.is_dir():
        files = sorted(p for p in (*path.iterdir(), *path.glob("variables/*")) if p.is_file())
        return hashlib.sha256("".join(map(_sha256, files)).encode()).hexdigest()
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
