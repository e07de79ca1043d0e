"""SavedModel folders that Keras 2 wrote, against what it computed; and damaged ones."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn import reference
from edge_rnn.errors import EdgeRnnError, ModelError
from edge_rnn.graph import digest
from edge_rnn_converters import bundle, convert, convert_with_report, wire
from edge_rnn_converters.crc32c import crc32c, masked
from edge_rnn_converters.detect import detect
from edge_rnn_converters.keras.source import read
from edge_rnn_converters.source import Options, Source, reading
from tests.converters.mutate import mutated
from tests.effort import examples, fewer

GOLDEN = Path(__file__).parents[1] / "golden"
SAVED = GOLDEN / "saved"
METADATA, INDEX = "keras_metadata.pb", "variables/variables.index"
DATA = "variables/variables.data-00000-of-00001"


def source(path: Path) -> Source:
    return read(path, detect(path), Options())


def copied(folder: Path, name: str = "bare") -> Path:
    return Path(shutil.copytree(SAVED / name, folder / "m"))


def test_a_model_of_what_keras_2_keeps_in_its_own_ways() -> None:
    found = source(SAVED / "model")
    assert found.framework == "keras 2.15.0"
    assert digest(found.model) == digest(source(GOLDEN / "keras2.h5").model)
    with np.load(GOLDEN / "keras2.npz") as golden:
        for x, y in zip(golden["x"], golden["y"], strict=True):
            np.testing.assert_allclose(reference.run(found.model, x)[-1], y, atol=1e-5)


def test_a_model_without_traces_and_with_its_optimizer() -> None:
    with np.load(SAVED / "bare.npz") as golden:
        y = reference.run(source(SAVED / "bare").model, golden["x"])
        np.testing.assert_allclose(y, golden["y"], atol=1e-5)


def test_a_folder_is_converted_and_known_by_all_its_files(tmp_path: Path) -> None:
    first = convert_with_report(SAVED / "bare", "float32")
    assert "keras 2.15.0" in first.report.notes[-1] and first.report.source_run is None
    path = copied(tmp_path)
    assert convert(path, "float32").provenance.sha256 == first.model.provenance.sha256
    (path / INDEX).with_name("more").write_bytes(b"x")
    assert convert(path, "float32").provenance.sha256 != first.model.provenance.sha256


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)


def compress(path: Path) -> None:
    """Say of the first block, which ends where the next begins, that it is compressed."""
    data = bytearray(path.read_bytes())
    offset, _ = wire.varint(memoryview(bytes(data[-48:])), 0)  # the block behind those of entries
    data[offset - 5] = 1
    data[offset - 4 : offset] = struct.pack("<I", masked(bytes(data[: offset - 4])))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (INDEX, Path.unlink, r"variables\.index: is missing"),
        (DATA, Path.unlink, "data-00000-of-00001: is missing"),
        (INDEX, cut, "is not the index of a checkpoint"),
        (DATA, cut, "lies outside the files of data"),
        (INDEX, flip, "checksum does not fit"),
        (DATA, flip, "checksum does not fit"),
        (INDEX, compress, "is compressed"),
        (METADATA, cut, "bytes, .* are left"),
    ],
)
def test_damage_is_named(
    name: str, change: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    path = copied(tmp_path)
    change(path / name)
    with pytest.raises(EdgeRnnError, match=says):
        convert(path)


class Fits(int):
    """A checksum that is any other."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


@pytest.mark.parametrize(("name", "kind"), [(METADATA, "onnx"), (METADATA, "raw"), (INDEX, "raw"),
                                            (DATA, "onnx"), (DATA, "raw")])  # fmt: skip
def test_changed_files_are_models_or_end_in_an_error_of_ours(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind the checksums, which a stranger would set right."""
    monkeypatch.setattr(bundle, "masked", lambda data: Fits())
    path, errors = copied(tmp_path), set()
    blob = (path / name).read_bytes()
    for number in range(fewer(60)):
        (path / name).write_bytes(mutated(blob, kind, random.Random(f"{name} {number}")))
        try:
            with reading("m"):
                source(path)
        except EdgeRnnError as e:
            errors.add(str(e))
    assert errors or name == DATA


def test_a_layer_that_the_checkpoint_does_not_have(tmp_path: Path) -> None:
    path = copied(tmp_path)
    data = (path / METADATA).read_bytes()
    (path / METADATA).write_bytes(data.replace(b'"name": "gru"', b'"name": "foo"', 1))
    with pytest.raises(ModelError, match=r"layer 'foo': keras_metadata\.pb does not describe it"):
        convert(path)


def test_the_checksum_of_the_standards_examples() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@examples(60)
@given(st.binary(max_size=3000))
def test_the_checksum_is_the_remainder_byte_by_byte(data: bytes) -> None:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF
