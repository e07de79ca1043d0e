"""Which format a file is, by its content, never by its name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal, TypeAlias

from edge_rnn.errors import EdgeRnnError, UnsupportedError
from edge_rnn_converters import hdf5

Format: TypeAlias = Literal[
    "keras", "keras-h5", "saved-model", "signature", "onnx", "tflite", "torchscript", "pt2",
    "torch-checkpoint", "safetensors", "npz", "hf-folder", "h5-weights",
]  # fmt: skip

ACCEPTED = (
    "accepted: Keras .keras and .h5, SavedModel folders, ONNX .onnx, TFLite .tflite, PyTorch .pt2 "
    "and TorchScript .pt, and with a description of the network PyTorch .pt, .pth and .ckpt, "
    ".safetensors, .npz, weights-only .h5, Hugging Face folders"
)
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_LEGACY_TORCH = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The number that PyTorch pickled first of all before its files became zips, in 2020."""
_TFLITE = b"TFL3"
_ONNX_FIRST_FIELD = b"\x08"


def detect(path: Path) -> Format:
    """The file's format. ONNX is a guess from the first byte: parsing it tells.

    Raises UnsupportedError, saying what the file is and what is accepted instead.
    """
    if path.is_dir():
        if any((path / name).is_file() for name in _FOLDERS):
            return "hf-folder"
        if (path / "keras_metadata.pb").is_file():
            return "saved-model"
        if (path / "saved_model.pb").is_file():
            return "signature"
        raise _no(path, "is a folder")
    with path.open("rb") as f:
        head = f.read(64)
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    if head.startswith(_HDF5):
        return _hdf5(path)
    if head.startswith(_PICKLES) and head[2:].startswith(_LEGACY_TORCH):
        return "torch-checkpoint"
    if head[8:10] == b'{"':
        return "safetensors"
    if head[4:8] == _TFLITE:
        return "tflite"
    if head.startswith(_ONNX_FIRST_FIELD):
        return "onnx"
    raise _no(path, _known(head))


def _zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as z:
            names = set(z.namelist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as e:
        raise _no(path, f"is a damaged zip file ({e}): copy or save it again") from e
    if "config.json" in names and "model.weights.h5" in names:
        return "keras"
    inner = {name.partition("/")[2] for name in names}
    if "models/model.json" in inner or "serialized_exported_program.json" in names:
        return "pt2"
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    if any(name.endswith("data.pkl") for name in names):
        return "torch-checkpoint"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise _no(path, "is a zip file, but not a Keras model (config.json, model.weights.h5)")


def _hdf5(path: Path) -> Format:
    """A whole Keras model has its configuration in it; a damaged file is its reader's to name."""
    try:
        return "keras-h5" if hdf5.load(path).text("", "model_config") else "h5-weights"
    except EdgeRnnError:
        return "keras-h5"


_FOLDERS = ("model.safetensors", "model.safetensors.index.json")
_PICKLE = "which could run code and is never loaded: save arrays or a state_dict, or export to ONNX"


def _known(head: bytes) -> str:
    if not head:
        return "is empty"
    if head.startswith(_PICKLES):
        return f"is a pickle, {_PICKLE}"
    return "is not a model in a known format"


def _no(path: Path, what: str) -> UnsupportedError:
    return UnsupportedError(f"{path.name}: {what}; {ACCEPTED}")
