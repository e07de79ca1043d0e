"""The `.ernn` file: what is written comes back; what is hostile is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

import edge_rnn
from edge_rnn.cli.inspect import describe
from edge_rnn.errors import ModelError, ModelFileError
from edge_rnn.graph import Feature, Matrix, Model, Probe, Provenance, digest, output_digest, tensors
from tests.core import models
from tests.effort import examples


def described(model: Model) -> Model:
    x = models.inputs(8)
    y = edge_rnn.Session(model).run("probe", x)
    return dataclasses.replace(
        model,
        features=tuple(Feature(f"a{i}", "m/s²") for i in range(5)),
        targets=tuple(Feature(f"p{i}") for i in range(4)),
        classes=("a", "b", "c", "d"),
        rate_hz=12.5,
        provenance=Provenance("keras 3", "m.keras", "ab" * 32, "edge-rnn 0"),
        probe=Probe(x, y, output_digest(y)),
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "m.ernn"
    edge_rnn.save(described(models.stack("int8")), path)
    return path


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_round_trip(weights: str, tmp_path: Path) -> None:
    model = described(models.stack(weights))
    edge_rnn.save(model, tmp_path / "m.ernn")
    again = edge_rnn.load(tmp_path / "m.ernn")
    assert digest(again) == digest(model)
    for name in ("inputs", "outputs", "features", "targets", "classes", "rate_hz", "provenance"):
        assert getattr(again, name) == getattr(model, name)
    y = edge_rnn.Session(again).run("a", again.probe.input)
    assert output_digest(y) == model.probe.digest


STORED = ("float32", "float16", "int8", "int4 int16")
"""One of each form that weights have in a file."""


@pytest.mark.parametrize(
    ("kind", "weights"),
    [(kind, w) for kind in models.NODES for w in STORED if w in models.formats(kind)],
)
def test_round_trip_of_every_node(kind: str, weights: str, tmp_path: Path) -> None:
    model, x = models.single(kind, weights), models.inputs(30)
    edge_rnn.save(model, tmp_path / "m.ernn")
    again = edge_rnn.load(tmp_path / "m.ernn")
    assert digest(again) == digest(model)
    same = [edge_rnn.Session(m).run("a", x).tobytes() for m in (model, again)]
    assert same[0] == same[1]
    assert describe(again)[0].op == model.nodes[0].OP


def test_the_same_model_makes_the_same_bytes(good: Path, tmp_path: Path) -> None:
    edge_rnn.save(edge_rnn.load(good), tmp_path / "again.ernn")
    assert (tmp_path / "again.ernn").read_bytes() == good.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.ernn"], "no partial file is left"


def test_any_safetensors_reader_opens_it(good: Path) -> None:
    with safe_open(good, framework="np") as f:
        assert json.loads(f.metadata()["ernn"])["version"] == 1
        assert f.get_tensor("lstm/w").dtype == np.int8


def test_an_int8_weight_takes_a_byte_and_a_row_a_scale(tmp_path: Path) -> None:
    model = models.stack()
    for weights in ("int8", "float32"):
        edge_rnn.save(models.stack(weights), tmp_path / weights)
    shapes = [t.data.shape for n in model.nodes for _, _, t in tensors(n) if isinstance(t, Matrix)]
    saved = sum(3 * rows * columns - 4 * rows for rows, columns in shapes)
    small, large = (len(split(tmp_path / w)[1]) for w in ("int8", "float32"))
    assert large - small == saved > 0


# Hostile files: a good one, altered.


def split(path: Path) -> tuple[dict, bytes]:
    blob = path.read_bytes()
    n = int.from_bytes(blob[:8], "little")
    return json.loads(blob[8 : 8 + n]), blob[8 + n :]


def join(header: dict | bytes, data: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def edit_header(change) -> object:
    def make(path: Path) -> bytes:
        header, data = split(path)
        return join(change(header) or header, data)

    return make


def edit_model(change) -> object:
    def edit(header: dict) -> None:
        model = json.loads(header["__metadata__"]["ernn"])
        model = change(model) or model
        header["__metadata__"]["ernn"] = model if isinstance(model, str) else json.dumps(model)

    return edit_header(edit)


def edit_tensor(name: str, value: object, index: int = 0, dtype: str = "<f4") -> object:
    def make(path: Path) -> bytes:
        header, data = split(path)
        changed = bytearray(data)
        raw = np.array([value], dtype).tobytes()
        at = header[name]["data_offsets"][0] + index * len(raw)
        changed[at : at + len(raw)] = raw
        return join(header, bytes(changed))

    return make


def put(path: str, value: object):
    """Set an entry of nested JSON: 'nodes/0/op'."""

    def change(tree):
        *way, last = [int(p) if p.isdigit() else p for p in path.split("/")]
        for step in way:
            tree = tree[step]
        tree[last] = value

    return change


def tensor_entry(key: str, value: object):
    return edit_header(lambda h: h["lstm/b"].__setitem__(key, value))


def shift_places(by: int):
    """Move every tensor after the first by some bytes: a hole, or an overlap."""

    def change(header: dict) -> None:
        for name, entry in header.items():
            if name != "__metadata__" and entry["data_offsets"][0]:
                entry["data_offsets"] = [o + by for o in entry["data_offsets"]]

    return change


def duplicate_tensor(header: dict) -> bytes:
    raw = json.dumps(header).encode()
    entry = json.dumps({"lstm/b": header["lstm/b"]}).encode()
    return raw[:-1] + b"," + entry[1:]


def duplicate_key(model: dict) -> str:
    return json.dumps(model)[:-1] + ', "outputs": []}'


def huge_values(model: dict) -> None:
    model["inputs"][0]["width"] = 1 << 20
    model["nodes"] = [
        {"op": "softmax", "name": f"s{i}", "input": f"s{i - 1}" if i else "x"} for i in range(99)
    ]
    model["outputs"], model["probe"] = ["s98"], None


HOSTILE = {
    "empty": (lambda p: b"", "truncated: 0 bytes"),
    "truncated length": (lambda p: p.read_bytes()[:5], "truncated: 5 bytes"),
    "truncated header": (lambda p: p.read_bytes()[:100], "truncated: header of"),
    "truncated data": (lambda p: p.read_bytes()[:-10], "truncated: tensors need"),
    "bytes left over": (lambda p: p.read_bytes() + b"x", "1 bytes after the last tensor"),
    "oversized header": (lambda p: b"\xff" * 7 + b"\0" + b"{}", "at most 8388608 allowed"),
    "not json": (lambda p: join(b"not json", b""), "the header is not valid JSON"),
    "nested json": (lambda p: join(b"[" * 100_000, b""), "not valid JSON"),
    "not utf-8": (lambda p: join(b'{"\xff": 1}', b""), "not valid JSON"),
    "not an object": (lambda p: join(b"[]", b""), "not a JSON object"),
    "a zip": (lambda p: b"PK\x03\x04" + b"\0" * 100, "allowed|truncated"),
    "no metadata": (edit_header(lambda h: h.pop("__metadata__") and None), "not an .ernn file"),
    "metadata not strings": (edit_header(put("__metadata__/ernn", 1)), "must map names to strings"),
    "duplicate tensor": (edit_header(duplicate_tensor), "duplicate name 'lstm/b'"),
    "duplicate key": (edit_model(duplicate_key), "duplicate name 'outputs'"),
    "hole": (edit_header(shift_places(4)), "leaves a hole before it"),
    "overlap": (edit_header(shift_places(-4)), "overlaps the tensor before it"),
    "negative place": (tensor_entry("data_offsets", [-28, 84]), "expected begin and end"),
    "places as floats": (tensor_entry("data_offsets", [0.0, 112.0]), "expected begin and end"),
    "unknown dtype": (tensor_entry("dtype", "BF16"), "dtype 'BF16', allowed: F32, F16, I8"),
    "shape and size differ": (tensor_entry("shape", [29]), "needs 116"),
    "huge dimension": (tensor_entry("shape", [1 << 40]), "dimensions may be 1 to 1048576"),
    "huge product": (tensor_entry("shape", [1 << 20, 1 << 20]), "elements at most 1073741824"),
    "empty dimension": (tensor_entry("shape", [0]), "dimensions may be"),
    "three dimensions": (tensor_entry("shape", [1, 2, 14]), "expected one or two numbers"),
    "entry with code": (tensor_entry("exec", "import os"), "expected dtype, shape and data_off"),
    "unknown version": (edit_model(put("version", 2)), "version 2, this edge-rnn reads 1: upgrade"),
    "description not json": (edit_model(lambda m: "{"), "the description is not valid JSON"),
    "description nan": (edit_model(put("rate_hz", float("nan"))), "NaN is not a JSON number"),
    "unknown field": (edit_model(put("pickle", "x")), "unknown field `pickle`"),
    "missing field": (edit_model(lambda m: m.pop("outputs") and None), "required field `outputs`"),
    "unknown op": (edit_model(put("nodes/0/op", "lambda")), "'lambda'.*known ops: rnn, lstm, gru"),
    "unknown attribute": (edit_model(put("nodes/1/clip", 3)), r"unknown field `clip`.*nodes\[1\]"),
    "unknown activation": (
        edit_model(put("nodes/1/gate", "mush")),
        "'lstm': gate is 'mush', allowed",
    ),
    "not a number in an activation": (edit_model(put("nodes/1/gate", "elu(nan)")), "'elu.nan.'"),
    "no activation": (edit_model(put("nodes/1/gate", 1)), r"Expected `str`.*nodes\[1\].gate"),
    "wrong type": (edit_model(put("inputs/0/width", "5")), r"Expected `int`, got `str`.*inputs"),
    "cycle": (edit_model(put("nodes/0/input", "rnn")), "'norm' reads 'rnn', which comes after it"),
    "reads itself": (edit_model(put("nodes/0/input", "norm")), "comes after it"),
    "reads nothing": (edit_model(put("nodes/0/input", "y")), "reads 'y', which nothing makes"),
    "duplicate node": (edit_model(put("nodes/5/name", "lstm")), "is missing|duplicate name"),
    "duplicate feature": (edit_model(put("features/0/name", "a1")), "duplicate feature name 'a1'"),
    "bad name": (edit_model(put("inputs/0/name", "../x")), r"name '\.\./x'"),
    "unknown output": (edit_model(put("outputs/0", "y")), "output 'y'"),
    "widths disagree": (edit_model(put("inputs/0/width", 6)), r"'norm': offset has shape \(5,\)"),
    "negative width": (edit_model(put("inputs/0/width", -5)), "-5"),
    "too few classes": (edit_model(put("classes", ["a"])), "1 classes for a width of 4"),
    "huge values": (edit_model(huge_values), "belongs to no node|wide in all"),
    "no nodes": (edit_model(put("nodes", [])), "belongs to no node|at least one"),
    "probe altered": (edit_tensor("probe/output", 0.5), "the probe's digest is not"),
    "probe missing": (edit_model(put("probe", None)), "tensor 'probe/input' belongs to no node"),
    "weight -128": (edit_tensor("lstm/w", -128, dtype="i1"), r"'lstm': w.*-128"),
    "scale nan": (edit_tensor("lstm/w/scale", np.nan), r"'lstm': w: scale: nan at index 0"),
    "scale inf": (edit_tensor("lstm/w/scale", np.inf, 3), r"'lstm': w: scale: inf at index 3"),
    "scale zero": (edit_tensor("lstm/w/scale", 0), "scales must be positive"),
    "bias nan": (edit_tensor("lstm/b", np.nan, 2), r"'lstm': b: nan at index 2"),
    "matrix as vector": (edit_header(lambda h: h["dense/w"].update(shape=[28])), "expected .N, I."),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file(kind: str, good: Path, tmp_path: Path) -> None:
    make, text = HOSTILE[kind]
    path = tmp_path / "hostile.ernn"
    path.write_bytes(make(good))
    with pytest.raises(ModelFileError, match=f"hostile.ernn: .*({text})") as e:
        edge_rnn.load(path)
    assert "\n" not in str(e.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        edge_rnn.load(tmp_path / "none.ernn")
    with pytest.raises(ModelFileError, match="not a file"):
        edge_rnn.load(tmp_path)


def test_huge_widths_are_refused_before_memory_is_taken() -> None:
    chain = [models.Softmax(f"s{i}", f"s{i - 1}" if i else "x") for i in range(99)]
    with pytest.raises(ModelError, match="wide in all, at most 16777216"):
        edge_rnn.Session(models.model(*chain, width=1 << 20))


def test_float_weights_with_a_scale_are_refused(tmp_path: Path) -> None:
    model = models.stack()
    dense = model.nodes[5]
    scaled = dataclasses.replace(dense, w=Matrix(dense.w.data, np.ones(4, np.float32)))
    nodes = (*model.nodes[:5], scaled, model.nodes[6])
    with pytest.raises(ModelError, match="float32 weights take no scale"):
        edge_rnn.save(dataclasses.replace(model, nodes=nodes), tmp_path / "m.ernn")


@examples(300)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_load_or_are_refused(changes, good_bytes: bytes, scratch: Path) -> None:
    blob = bytearray(good_bytes)
    for place, value in changes:
        blob[int(place * (len(blob) - 1))] = value
    scratch.write_bytes(blob)
    try:
        model = edge_rnn.load(scratch)
    except ModelFileError:
        return
    x = models.inputs(2, model.input_width)
    assert edge_rnn.Session(model, capacity=1).run("a", x).shape == (2, model.output_width)


@pytest.fixture(scope="module")
def good_bytes(good: Path) -> bytes:
    return good.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flipped") / "m.ernn"
