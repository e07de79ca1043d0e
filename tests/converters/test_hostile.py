"""Files that are not models, or pretend to be: one clear error each, nothing run, nothing huge."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_rnn.errors import EdgeRnnError, ModelError, UnsupportedError
from edge_rnn_converters import convert
from edge_rnn_converters.detect import ACCEPTED, detect
from edge_rnn_converters.keras import file as keras_file
from tests.converters.keras_models import H, keras2_file, layers, made, recurrent_config
from tests.converters.onnx_models import Graph, I
from tests.converters.test_keras2 import weights
from tests.converters.test_onnx import saved


class Bomb:
    """Unpickling this would fail the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr(name, data)
    return buffer.getvalue()


NOT_MODELS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "is empty"),
    "text": (lambda _: b"hello, I am a model", "is not a model in a known format"),
    "pickle": (lambda _: pickle.dumps(Bomb()), "is a pickle, which could run code"),
    "zip": (lambda _: zipped("read.me", b""), "is a zip file, but not a Keras model"),
    "half a zip": (lambda _: zipped("read.me", bytes(80))[:60], "is a damaged zip file"),
    "eight": (lambda _: b"\x08" + b"\xff" * 40, "is not a readable ONNX model"),
    "graphless": (lambda _: b"\x08\x07", "it has no graph"),
}


@pytest.mark.parametrize(("make", "says"), NOT_MODELS.values(), ids=NOT_MODELS)
def test_what_is_not_a_model_is_named(
    make: Callable[[Path], bytes], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"  # the name is not believed
    path.write_bytes(make(tmp_path))
    with pytest.raises(UnsupportedError) as caught:
        convert(path)
    assert says in str(caught.value)
    assert str(caught.value).startswith("model.onnx: ") and str(caught.value).endswith(ACCEPTED)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="is a folder; accepted: Keras"):
        convert(tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "none.onnx")


def test_formats_by_content_whatever_the_name(tmp_path: Path) -> None:
    made(layers.GRU(H)).save(tmp_path / "a.keras")
    g = Graph()
    onnx_path = saved(g.model({"x": ["T", 1, I]}, [g.cell("GRU", "x")[0]]), tmp_path)
    files = {
        "keras": tmp_path / "a.keras",
        "keras-h5": keras2_file(tmp_path / "b.h5", []),
        "onnx": onnx_path,
    }
    for form, path in files.items():
        assert detect(path.rename(path.with_suffix(".bin"))) == form


def keras_zip(path: Path, config: bytes, weights: bytes = b"", version: str = "3.5.0") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("config.json", config)
        z.writestr("metadata.json", json.dumps({"keras_version": version}))
        z.writestr("model.weights.h5", weights)
    return path


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (b"{", "config.json is not JSON"),
        (b"[1]", "config.json holds a list"),
        (b"[" * 100_000, "config.json is not JSON"),
        (b"\xff\xfe", "config.json is not JSON"),
        (b"{}", "HDF5: damaged"),
    ],
)
def test_configurations_that_are_none(config: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=says):
        convert(keras_zip(tmp_path / "m.keras", config))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keras_zip(tmp_path / "m.keras", b" " * (keras_file.MAX_JSON + 1))
    with pytest.raises(UnsupportedError, match=r"config\.json: 16777217 bytes unpacked"):
        convert(path)
    monkeypatch.setattr(keras_file, "MAX_BYTES", 1000)
    path = keras_zip(tmp_path / "n.keras", b"{}", bytes(1001))
    with pytest.raises(UnsupportedError, match=r"model\.weights\.h5: 1001 bytes unpacked"):
        convert(path)


def lstm_file(path: Path) -> Path:
    return keras2_file(path, [("LSTM", recurrent_config(), weights("LSTM"))])


KERNEL = "model_weights/layer_1/layer_1/kernel:0"


def huge(f: h5py.File, folder: Path) -> None:
    f.create_dataset(KERNEL, (1 << 20, 1 << 20), "f4", chunks=(64, 64))


def external_storage(f: h5py.File, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(I * 4 * H * 4))
    f.create_dataset(KERNEL, (I, 4 * H), "f4", external=[(str(folder / "raw"), 0, I * 4 * H * 4)])


def double(f: h5py.File, folder: Path) -> None:
    f[KERNEL] = np.zeros((I, 4 * H))


def text(f: h5py.File, folder: Path) -> None:
    f[KERNEL] = [b"kernel"]


@pytest.mark.parametrize("plant", [huge, external_storage, double, text])
def test_weights_are_read_from_the_file_itself_and_in_bounds(
    plant: Callable[[h5py.File, Path], None], tmp_path: Path
) -> None:
    path = lstm_file(tmp_path / "m.h5")
    with h5py.File(path, "r+") as f:
        del f[KERNEL]
        plant(f, tmp_path)
    with pytest.raises(UnsupportedError, match="weight 'model_weights/layer_1/layer_1/kernel:0'"):
        convert(path)


def test_a_link_to_another_file_is_not_followed(tmp_path: Path) -> None:
    path = lstm_file(tmp_path / "m.h5")
    with h5py.File(path, "r+") as f:
        del f[KERNEL]
        f[KERNEL] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")
    with pytest.raises(ModelError, match="HDF5: damaged, or in a form never seen"):
        convert(path)


def test_a_text_that_is_none(tmp_path: Path) -> None:
    path = lstm_file(tmp_path / "m.h5")
    with h5py.File(path, "r+") as f:
        f.attrs["model_config"] = np.bytes_(b"\x8f{}")
    with pytest.raises(ModelError, match="attribute 'model_config' of '': damaged"):
        convert(path)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    w = {**weights("LSTM"), "bias": np.zeros(7)}
    path = keras2_file(tmp_path / "m.h5", [("LSTM", recurrent_config(), w)])
    with pytest.raises(ModelError, match=r"LSTM 'layer_1': its weights have shapes .*\(7,\)"):
        convert(path)


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    w = {**weights("LSTM"), "bias": np.full(4 * H, np.nan)}
    path = keras2_file(tmp_path / "m.h5", [("LSTM", recurrent_config(), w)])
    with pytest.raises(ModelError, match="node 'layer_1': b: nan"):
        convert(path)


def test_weights_kept_under_another_layers_name(tmp_path: Path) -> None:
    model = made(layers.GRU(H, name="first"))
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as z:
        config = z.read("config.json").replace(b'"first"', b'"other"')
        path = keras_zip(tmp_path / "n.keras", config, z.read("model.weights.h5"))
    with pytest.raises(ModelError, match=r"layer 'other': its weights .* say they are 'first'"):
        convert(path)


def variants(blob: bytes, n: int) -> list[bytes]:
    """The file cut short, and with bytes changed, n times each, always the same."""
    rng = random.Random(0)
    out = [blob[: rng.randrange(len(blob))] for _ in range(n)]
    for _ in range(n):
        broken = bytearray(blob)
        for _ in range(8):
            broken[rng.randrange(len(blob))] = rng.randrange(256)
        out.append(bytes(broken))
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["keras", "h5", "onnx"])
def test_damaged_files_end_in_an_error_of_ours_or_a_model(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{kind}"
    if kind == "keras":
        made(layers.GRU(H)).save(path)
    elif kind == "h5":
        lstm_file(path)
    else:
        g = Graph()
        saved(g.model({"x": ["T", 1, I]}, [g.cell("GRU", "x")[0]]), tmp_path)
    for blob in variants(path.read_bytes(), 40):
        path.write_bytes(blob)
        try:
            convert(path, check="skip")
        except EdgeRnnError:
            continue
