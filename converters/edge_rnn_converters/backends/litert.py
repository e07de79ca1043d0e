"""LiteRT (TensorFlow Lite), or its older tflite-runtime, as an engine that runs a model for a
session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_rnn.errors import MissingExtraError
from edge_rnn.graph import F32
from edge_rnn.hosted import Interpreter, Tensor
from edge_rnn_converters import litert

_WHOLE = (np.int8, np.uint8, np.int16)


def load(blob: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Interpreter:
    """See `edge_rnn.hosted.Opener`."""
    if (found := litert.found()) is None:
        raise MissingExtraError("ai-edge-litert", extra="litert", need="to run models with LiteRT")
    engine, kind = found
    if blob[4:8] != b"TFL3":
        raise ValueError("not a TFLite file")
    loaded = kind(model_content=blob, num_threads=1)
    inputs = _named(loaded, "input")
    for name, shape in shapes.items():
        if name in inputs and tuple(inputs[name]["shape"]) != shape:
            loaded.resize_tensor_input(inputs[name]["index"], shape, strict=True)
    loaded.allocate_tensors()
    return _Loaded(engine, loaded)


def _named(loaded: Any, side: str) -> dict[str, dict[str, Any]]:
    """The tensors fed ("input") or asked for ("output"), by their names in the file's signature
    if it has one, for those are its author's."""
    details = {d["name"]: d for d in getattr(loaded, f"get_{side}_details")()}
    signatures = loaded.get_signature_list()
    if len(signatures) != 1:
        return details
    runner = loaded.get_signature_runner(next(iter(signatures)))
    return dict(getattr(runner, f"get_{side}_details")())


class _Loaded:
    def __init__(self, engine: str, loaded: Any) -> None:
        self.engine, self._loaded = engine, loaded
        self._fed, self._asked = _named(loaded, "input"), _named(loaded, "output")
        self.inputs = tuple(_tensor(name, d) for name, d in self._fed.items())
        self.outputs = tuple(self._asked)

    def __call__(self, feed: Mapping[str, F32], names: Sequence[str]) -> list[NDArray[Any]]:
        for name, a in feed.items():
            self._loaded.set_tensor(self._fed[name]["index"], litert.stored(a, self._fed[name]))
        self._loaded.invoke()
        asked = [self._asked[name] for name in names]
        return [litert.meant(self._loaded.get_tensor(d["index"]), d) for d in asked]

    def reset(self) -> None:
        """Zero the states that it keeps in variable tensors."""
        self._loaded.reset_all_variables()


def _tensor(name: str, details: dict[str, Any]) -> Tensor:
    open_ = details.get("shape_signature", details["shape"])
    shape = tuple(int(n) if n > 0 else None for n in open_)
    whole = details["dtype"] in _WHOLE and details["quantization"][0] > 0
    return Tensor(name, shape, whole or details["dtype"] in (np.float32, np.float16))
