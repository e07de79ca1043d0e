"""ONNX Runtime, as an engine that runs a model for a session."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edge_rnn.errors import MissingExtraError
from edge_rnn.graph import F32
from edge_rnn.hosted import Interpreter, Tensor

_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16",
    "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip
_QUIET = 3
_WEIGHTS_BESIDE = "session.model_external_initializers_file_folder_path"
"""Nowhere: a model is all in its bytes, whatever files lie where it is run."""


def load(blob: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Interpreter:
    """See `edge_rnn.hosted.Opener`; ONNX Runtime takes the shapes that it is fed."""
    try:
        import onnxruntime
    except ImportError as e:
        need = "to run models with ONNX Runtime"
        raise MissingExtraError("onnxruntime", extra="onnx", need=need) from e
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    options.add_session_config_entry(_WEIGHTS_BESIDE, os.devnull)
    session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    return _Loaded(f"onnxruntime {onnxruntime.__version__}", session)


class _Loaded:
    def __init__(self, engine: str, session: Any) -> None:
        self.engine, self._session = engine, session
        inputs = session.get_inputs()
        self._types = {i.name: _TYPES.get(i.type) for i in inputs}
        self.inputs = tuple(
            Tensor(i.name, tuple(map(_size, i.shape)), self._types[i.name] in _REAL) for i in inputs
        )
        self.outputs = tuple(o.name for o in session.get_outputs())

    def __call__(self, feed: Mapping[str, F32], names: Sequence[str]) -> list[NDArray[Any]]:
        given = {name: a.astype(self._types[name], copy=False) for name, a in feed.items()}
        found: list[NDArray[Any]] = self._session.run(names, given)
        return found

    def reset(self) -> None:
        """It keeps nothing."""


_REAL = ("float32", "float16")


def _size(n: Any) -> int | None:
    """A name, or nothing, stands for an open size."""
    return n if isinstance(n, int) and n > 0 else None
