"""The tables of the manual, made from what the converters really do."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeAlias

from edge_rnn.graph import ACTS
from edge_rnn_converters import gates
from edge_rnn_converters.keras.graph import TAKEN_APART
from edge_rnn_converters.keras.source import LAYERS
from edge_rnn_converters.refused import (
    KERAS_REFUSED,
    KERAS_REFUSED_VALUES,
    ONNX_CELL_REFUSED,
    ONNX_REFUSED,
    SAVED_REFUSED,
    TFLITE_REFUSED,
    TORCH_REFUSED,
    Why,
)
from edge_rnn_converters.tensorflow.allowed import COMPUTES
from edge_rnn_converters.tensors.execute import OPERATORS
from edge_rnn_converters.tflite.source import OPERATORS as TFLITE
from edge_rnn_converters.torch.translate import OPERATORS as ATEN
from edge_rnn_converters.weights import schema
from edge_rnn_converters.weights.schema import KEYS

Row: TypeAlias = tuple[str, str]

MARKERS = ("<!-- generated: {} -->", "<!-- end: {} -->")


def tables() -> dict[str, str]:
    """Each table of `docs/converting.md` and its pages as Markdown, by the name in its markers."""
    keras_values = {f"any layer, `{a}={v}`": why for (a, v), why in KERAS_REFUSED_VALUES.items()}
    cell_values = {f"RNN, LSTM, GRU: `{a}`": why for a, why in ONNX_CELL_REFUSED.items()}
    return {
        "keras supported": _supported("layer", {k: v.doc for k, v in LAYERS.items()} | TAKEN_APART),
        "keras refused": _refused("layer", {**KERAS_REFUSED, **keras_values}),
        "onnx supported": _supported("operator", _public({k: v.doc for k, v in OPERATORS.items()})),
        "onnx refused": _refused("operator", {**cell_values, **ONNX_REFUSED}),
        "tflite supported": _supported("operator", {k: v.doc for k, v in TFLITE.items()}),
        "tflite refused": _refused("operator", TFLITE_REFUSED),
        "signature operations": ", ".join(sorted(COMPUTES)),
        "signature refused": _refused("operation", SAVED_REFUSED),
        "torch supported": _supported("operator", _aten({k: v.doc for k, v in ATEN.items()})),
        "torch refused": _refused("operator", TORCH_REFUSED),
        "activations": _activations(),
        "description layers": _table(("`type`", "layer, and its keys"), _layers()),
        "description keys": _table(("key", "meaning"), ((f"`{k}`", v) for k, v in KEYS.items())),
    }


def fill(text: str) -> str:
    """A page's text with what stands between each of its pairs of markers made anew."""
    for name, table in tables().items():
        start, end = (m.format(name) for m in MARKERS)
        if start in text:
            before, _, rest = text.partition(start)
            _, _, after = rest.partition(end)
            text = f"{before}{start}\n{table}\n{end}{after}"
    return text


def _public(docs: Mapping[str, str]) -> dict[str, str]:
    """Without operators of our own, which no file has."""
    return {kind: doc for kind, doc in docs.items() if not kind.startswith("edge_rnn.")}


def _aten(docs: Mapping[str, str]) -> dict[str, str]:
    """ATen's names as users know them: once, without overloads and the in-place underscore."""
    names = ((target.split(".")[1], doc) for target, doc in docs.items())
    return {name.rstrip("_"): doc for name, doc in names if not name.startswith("_")}


def _supported(what: str, docs: Mapping[str, str]) -> str:
    return _table((what, "how"), _grouped(docs.items()))


def _refused(what: str, reasons: Mapping[str, Why]) -> str:
    rows = ((name, f"{why}; {way_out}") for name, (why, way_out) in reasons.items())
    return _table((what, "why, and what to do instead"), _grouped(rows))


def _grouped(rows: Iterable[Row]) -> list[Row]:
    """Rows that say the same, as one."""
    names: dict[str, list[str]] = {}
    for name, text in rows:
        names.setdefault(text, []).append(name)
    return [(", ".join(group), text) for text, group in names.items()]


def _activations() -> str:
    keras = ((f"Keras {major} `{n}`", gates.keras_act(n, major)) for n in gates.KERAS_ACTS
             for major in (2, 3))  # fmt: skip
    onnx = ((f"ONNX `{n}`", gates.onnx_form(n)) for n in gates.ONNX_ACTS)
    usual = ("ONNX `HardSigmoid` with alpha 0.2", gates.onnx_act("HardSigmoid", 0.2, 0.5))
    sixth = ("ONNX `HardSigmoid` with alpha 1/6", gates.onnx_act("HardSigmoid", 1 / 6, 0.5))
    rows = ((name, f"`{act}`") for name, act in (*keras, *onnx, usual, sixth))
    return _table(("source", "edge-rnn"), _grouped(rows))


def _layers() -> Iterator[Row]:
    for kind, cls in schema.LAYERS.items():
        keys = ", ".join(map(_key, fields(cls)))
        yield f"`{kind}`", f"{cls.__doc__}{f': {keys}' if keys else ''}"
    yield ", ".join(f"`{act}`" for act in ACTS if act not in schema.LAYERS), "that activation"


def _key(key: Field[Any]) -> str:
    """A key, with its default if it has one."""
    default = {MISSING: "", None: ""}.get(key.default, f" = {str(key.default).lower()}")
    return f"`{key.name}{default}`"


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [f"| {a} | {b} |" for a, b in (head, ("---", "---"), *rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.write_text(fill(page.read_text()))
