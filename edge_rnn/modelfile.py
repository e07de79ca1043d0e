"""Read and write `.ernn` files; `docs/format.md` is the specification."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Union, get_type_hints

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as to_safetensors

from edge_rnn.activations import Act
from edge_rnn.certificate import CERTIFICATE_VERSION, Certificate
from edge_rnn.container import parse_json, read_container
from edge_rnn.errors import ModelError, ModelFileError
from edge_rnn.graph import (
    NODES,
    Feature,
    Input,
    Matrix,
    Model,
    Node,
    Probe,
    Provenance,
    Window,
    attributes,
    reads,
    tensors,
)
from edge_rnn.validation import validate

METADATA, VERSION = "ernn", 1
_PROBE_IN, _PROBE_OUT = "probe/input", "probe/output"


def _struct(cls: type, tag: str | None = None) -> type[msgspec.Struct]:
    """The strict JSON form of a dataclass: every field required, no other allowed; tensors out.

    What is an activation `validate` knows.
    """
    hints = {name: str if kind == Act else kind for name, kind in get_type_hints(cls).items()}
    kept = [(f.name, hints[f.name]) for f in fields(cls) if "shape" not in f.metadata]
    return msgspec.defstruct(
        cls.__name__, kept, tag_field="op" if tag else None, tag=tag, forbid_unknown_fields=True
    )


_NODE: Any = Union[tuple(_struct(cls, op) for op, cls in NODES.items())]  # noqa: UP007 - built
_INPUT, _FEATURE = _struct(Input), _struct(Feature)
_PROVENANCE = msgspec.defstruct(
    "Provenance",
    [*((name, str) for name in ("framework", "source", "sha256", "converter")),
     ("exact", str | None, None)],
    forbid_unknown_fields=True,
)  # fmt: skip
_WINDOW = _struct(Window)
_PROBE = msgspec.defstruct("Probe", [("digest", str)], forbid_unknown_fields=True)
_DESCRIPTION = msgspec.defstruct(
    "Description",
    [
        ("version", int),
        ("inputs", list[_INPUT]),  # type: ignore[valid-type]
        ("nodes", list[_NODE]),
        ("outputs", list[str]),
        ("features", list[_FEATURE]),  # type: ignore[valid-type]
        ("targets", list[_FEATURE]),  # type: ignore[valid-type]
        ("classes", list[str]),
        ("rate_hz", float | None),
        ("provenance", _PROVENANCE | None),
        ("probe", _PROBE | None),
        ("certificate", Certificate | None, None),
        ("window", _WINDOW | None, None),
        ("mask", float | None, None),
    ],
    forbid_unknown_fields=True,
)


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model; the file appears whole or not at all. Raises ModelError, OSError."""
    validate(model)
    blob = to_safetensors(_collect(model), {METADATA: _describe(model)})
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(blob)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Model:
    """Read and validate a model. Raises ModelFileError naming the file and what is wrong."""
    file = Path(path)
    metadata, arrays = read_container(file)
    try:
        model = _model(_description(metadata), arrays)
        validate(model)
    except ModelError as e:
        raise ModelFileError(f"{file}: {e}") from e
    return model


def _describe(model: Model) -> str:
    probe = model.probe and {"digest": model.probe.digest}
    description: dict[str, Any] = {
        "version": VERSION,
        "inputs": [asdict(i) for i in model.inputs],
        "nodes": [{"op": n.OP, "name": n.name, **_reads(n), **attributes(n)} for n in model.nodes],
        "outputs": model.outputs,
        "features": [asdict(f) for f in model.features],
        "targets": [asdict(f) for f in model.targets],
        "classes": model.classes,
        "rate_hz": model.rate_hz,
        "provenance": model.provenance and _known(asdict(model.provenance)),
        "probe": probe,
    }
    if model.certificate is not None:
        description["certificate"] = model.certificate
    if model.window is not None:  # only then: a file without one is read by older versions too
        description["window"] = asdict(model.window)
    if model.mask is not None:
        description["mask"] = model.mask
    return msgspec.json.encode(description).decode()


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _reads(node: Node) -> dict[str, Any]:
    first, *others = reads(node)
    return {"input": first, "others": others} if hasattr(node, "others") else {"input": first}


def _collect(model: Model) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for node in model.nodes:
        for name, _, tensor in tensors(node):
            key = f"{node.name}/{name}"
            if not isinstance(tensor, Matrix):
                arrays[key] = tensor
                continue
            arrays[key] = _to_nibbles(tensor.data) if tensor.four_bit else tensor.data
            if tensor.scale is not None:
                arrays[f"{key}/scale"] = tensor.scale
    if model.probe is not None:
        arrays[_PROBE_IN], arrays[_PROBE_OUT] = model.probe.input, model.probe.output
    return {name: np.ascontiguousarray(a) for name, a in arrays.items()}


def _description(metadata: Mapping[str, str]) -> Any:
    if METADATA not in metadata:
        raise ModelFileError(f"not an .ernn file: its metadata has no {METADATA!r}")
    raw = parse_json(metadata[METADATA], "the description")
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != VERSION:
        raise ModelFileError(
            f"version {version!r}, this edge-rnn reads {VERSION}: "
            "upgrade edge-rnn, or convert the model again"
        )
    measured = raw.get("certificate")
    if isinstance(measured, dict) and measured.get("version") != CERTIFICATE_VERSION:
        raise ModelFileError(
            f"certificate of version {measured.get('version')!r}, this edge-rnn reads "
            f"{CERTIFICATE_VERSION}: upgrade edge-rnn"
        )
    try:
        return msgspec.convert(raw, _DESCRIPTION)
    except msgspec.ValidationError as e:
        hint = f"; known ops: {', '.join(NODES)}" if ".op" in str(e) else ""
        raise ModelFileError(f"description: {e}{hint}") from e


def _model(d: Any, arrays: dict[str, NDArray[Any]]) -> Model:
    left = dict(arrays)
    nodes = tuple(_node(n, left) for n in d.nodes)
    probe = None
    if d.probe is not None:
        probe = Probe(_take(left, _PROBE_IN), _take(left, _PROBE_OUT), d.probe.digest)
    if left:
        raise ModelFileError(f"tensor {min(left)!r} belongs to no node")
    return Model(
        inputs=tuple(Input(i.name, i.width) for i in d.inputs),
        nodes=nodes,
        outputs=tuple(d.outputs),
        features=tuple(Feature(f.name, f.unit) for f in d.features),
        targets=tuple(Feature(f.name, f.unit) for f in d.targets),
        classes=tuple(d.classes),
        rate_hz=d.rate_hz,
        provenance=d.provenance and Provenance(**msgspec.structs.asdict(d.provenance)),
        probe=probe,
        certificate=d.certificate,
        window=d.window and Window(**msgspec.structs.asdict(d.window)),
        mask=d.mask,
    )


def _node(struct: Any, left: dict[str, NDArray[Any]]) -> Node:
    """Build the node of this JSON, taking its tensors out of `left`."""
    cls = NODES[struct.__struct_config__.tag]
    values = msgspec.structs.asdict(struct)
    for f in fields(cls):
        if "shape" in f.metadata:
            key = f"{struct.name}/{f.name}"
            if f.metadata.get("optional") and key not in left:
                continue
            array, is_matrix = _take(left, key), len(f.metadata["shape"]) == 2
            values[f.name] = _matrix(key, array, left) if is_matrix else array
    return cls(**values)


def _matrix(key: str, array: NDArray[Any], left: dict[str, NDArray[Any]]) -> Matrix:
    scale = left.pop(f"{key}/scale", None)
    return Matrix(_from_nibbles(key, array) if array.dtype == np.uint8 else array, scale)


def _to_nibbles(w: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two weights a byte, 8 added, the first in the lower four bits; 0 ends an odd row."""
    rows, columns = w.shape
    full = np.full((rows, columns + columns % 2), -8, np.int8)
    full[:, :columns] = w
    even, odd = (full[:, i::2].astype(np.uint8) + np.uint8(8) for i in (0, 1))
    return np.asarray(even | odd << np.uint8(4), np.uint8)


def _from_nibbles(key: str, packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    if packed.ndim != 2:
        raise ModelFileError(f"tensor {key!r}: U8 of shape {packed.shape}, expected a matrix")
    w = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)
    columns = w.shape[1] - bool((w[:, -1] == 0).all())
    if not w[:, :columns].all():
        raise ModelFileError(f"tensor {key!r}: 4-bit weights must lie in [-7, 7], got -8")
    return w[:, :columns].astype(np.int8) - np.int8(8)


def _take(left: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in left:
        raise ModelFileError(f"tensor {name!r} is missing")
    return left.pop(name)
