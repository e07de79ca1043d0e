"""The specification is read: its tables, lists and example must be what the code does."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import Field, fields
from pathlib import Path

import numpy as np

import edge_rnn
from edge_rnn import activations, container, graph, modelfile, validation

SPEC = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


def table(title: str, nth: int = 0) -> list[list[str]]:
    """The rows of the nth table after a heading."""
    section = SPEC.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = re.findall(r"(?:^\|.+\|\n)+", section, re.M)[nth].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def code_words(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def tensor(f: Field) -> str:
    """A tensor as the table has it."""
    text = f"`{f.name}` ({', '.join(f.metadata['shape'])})"
    return text + (" optional" if f.metadata.get("optional") else "")


def test_nodes() -> None:
    rows = {code_words(r[0])[0]: r for r in table("Nodes")}
    assert list(rows) == list(graph.NODES)
    for op, cls in graph.NODES.items():
        _, attributes, tensors, state, width = rows[op]
        declared = [f for f in fields(cls) if "shape" in f.metadata]
        others = [f.name for f in fields(cls) if "shape" not in f.metadata]
        assert code_words(attributes) == others[2:]
        assert tensors == ", ".join(map(tensor, declared))
        assert state == ", ".join(f"`{n}` ({s})" for n, s in cls.STATE.items())
        assert width == cls.OUTPUT


def test_activations() -> None:
    listed = SPEC.split("Activations: ")[1].split("\n\n")[0]
    assert code_words(listed) == list(graph.ACTS)
    rows = [code_words(row[0])[0] for row in table("Nodes", nth=1)]
    assert rows == list(graph.ACTS)[1:], "every activation but linear has its equation"
    tuned = [code_words(row[0])[0] for row in table("Nodes", nth=2)]
    names = (("", "(alpha)", "(alpha, beta)")[n] for n in activations.TUNED.values())
    assert tuned == [a + b for a, b in zip(activations.TUNED, names, strict=True)]
    for example in ("elu(0.5)", "clip(-3.0, 3.0)", "sigmoid of clip(-3.0, 3.0)"):
        assert f"`{example}`" in SPEC
        assert activations.steps(example)


def test_description_fields() -> None:
    names = [name for row in table("Description") for name in code_words(row[0])]
    assert names == list(modelfile._DESCRIPTION.__struct_fields__)
    provenance = next(r[2] for r in table("Description") if "provenance" in r[0])
    assert code_words(provenance) == [f.name for f in fields(graph.Provenance)]


def test_dtypes_and_version() -> None:
    assert set(re.findall(r"`(F32|F16|I8|U8|BF16|I64)`", SPEC)) == set(container._DTYPES)
    assert f"version {modelfile.VERSION}\n" in SPEC.splitlines(keepends=True)[0]


def test_limits() -> None:
    limits = {row[0]: int(row[1]) for row in table("Limits")}
    assert limits == {
        "header bytes": container.MAX_HEADER,
        "tensor dimension": graph.MAX_DIM,
        "elements of a tensor, and the dimension of a `blob`": graph.MAX_ELEMENTS,
        "nodes": validation.MAX_NODES,
        "sum of the widths of all values": validation.MAX_WIDTHS,
        "numbers of all values of a window with `reverse` or `pad`": validation.MAX_WIDTHS,
        "numbers in a stream's state": validation.MAX_STATE,
        "first step and period of a value": graph.MAX_STEP,
    }


def test_a_file_made_by_hand_from_the_page_loads(tmp_path: Path) -> None:
    description = SPEC.split("```json\n")[1].split("```")[0]
    header = json.dumps(
        {
            "__metadata__": {"ernn": description},
            "double/w": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]},
            "double/b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        }
    ).encode()
    path = tmp_path / "double.ernn"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 2, 0))
    model = edge_rnn.load(path)
    assert edge_rnn.Session(model).step(["a"], np.array([[21.0]])).item() == 42
