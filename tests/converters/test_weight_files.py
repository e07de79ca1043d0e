"""Files of weights in every format that is read, and files that pretend to be."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from edge_rnn import Session
from edge_rnn.errors import EdgeRnnError, ModelError, UnsupportedError
from edge_rnn_converters import convert
from edge_rnn_converters.detect import detect
from edge_rnn_converters.weights import arrays as arrays_module
from edge_rnn_converters.weights.arrays import read_arrays
from tests.converters.test_hostile import variants
from tests.converters.test_weights import cell, file
from tests.effort import fewer

ARRAYS = cell("rnn", 3, 5, 6)


def same(path: Path, form: str, *, prefix: str | None = None, names: Any = str) -> None:
    """The file has ARRAYS, and one GRU is made of them."""
    assert detect(path) == form
    found = read_arrays(path, detect(path)).under(prefix).values
    assert set(found) == {names(n) for n in ARRAYS}
    for name, a in ARRAYS.items():
        np.testing.assert_array_equal(found[names(name)], a)


def test_npz_safetensors_and_folders(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    same(tmp_path / "a.npz", "npz")
    same(file(ARRAYS, tmp_path), "safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(ARRAYS, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gru", "hidden_size": 6}))
    same(folder, "hf-folder")
    model = convert(folder, "float32", check="skip")
    assert model.provenance is not None and model.provenance.source == "folder"
    assert Session(model).step(["s"], np.zeros((1, 5))).shape == (1, 6)


def test_a_folder_of_shards(tmp_path: Path) -> None:
    places = {}
    for k, name in enumerate(ARRAYS):
        places[name] = f"model-{k % 2}.safetensors"
    for shard in set(places.values()):
        save_file({n: ARRAYS[n] for n, at in places.items() if at == shard}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    same(tmp_path, "hf-folder")
    index.write_text(json.dumps({"weight_map": places | {"more": "model-0.safetensors"}}))
    with pytest.raises(ModelError, match="no shard holds 'more'"):
        convert(tmp_path)
    index.write_text(json.dumps({"weight_map": {"more": "../model-0.safetensors"}}))
    with pytest.raises(UnsupportedError, match="is outside the folder"):
        convert(tmp_path)


def test_config_json_is_shown_in_the_template(tmp_path: Path) -> None:
    save_file(cell("rnn", 1, 5, 6), tmp_path / "model.safetensors")
    told = {"model_type": "elman", "hidden_size": 6, "auto_map": {"AutoModel": "code.py"}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(UnsupportedError) as caught:
        convert(tmp_path)
    assert "# config.json says: model_type elman, hidden_size 6\n" in caught.value.template  # type: ignore[attr-defined]
    assert 'or "relu"? the arrays don\'t tell' in caught.value.template  # type: ignore[attr-defined]


def test_numbers_of_other_widths_become_float32(tmp_path: Path) -> None:
    wide = {n: a.astype(np.float64) / 3 for n, a in ARRAYS.items()}
    np.savez(tmp_path / "wide.npz", **wide)
    found = read_arrays(tmp_path / "wide.npz", "npz")
    assert found.notes == ("arrays of float64 were rounded to float32",)
    for name, a in wide.items():
        np.testing.assert_array_equal(found.values[name], a.astype(np.float32))
    half = {n: a.astype(np.float16) for n, a in ARRAYS.items()}
    exact = read_arrays(file(half, tmp_path), "safetensors")
    assert exact.notes == ()
    for name, a in half.items():
        np.testing.assert_array_equal(exact.values[name], a)


def test_bfloat16(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save

    values = torch.randn(3, 7).bfloat16()
    save({"w": values}, tmp_path / "w.safetensors")
    torch.save({"w": values}, tmp_path / "w.pt")
    for path, form in (("w.safetensors", "safetensors"), ("w.pt", "torch-checkpoint")):
        found = read_arrays(tmp_path / path, form).values["w"]  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, values.float().numpy())


def checkpoint(values: Any, path: Path, **options: Any) -> Path:
    torch = pytest.importorskip("torch")

    def tensors(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {k: tensors(v) for k, v in tree.items()}
        if isinstance(tree, list):
            return [tensors(v) for v in tree]
        return torch.from_numpy(tree.copy()) if isinstance(tree, np.ndarray) else tree

    torch.save(tensors(values), path, **options)
    return path


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


HEADERS: dict[str, tuple[str, str]] = {
    "huge": ("{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 40,)}", "damaged"),
    "more": ("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999,)}", "is not what its"),
    "negative": ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", "is not what its"),
    "objects": ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "holds Python objects"),
    "text": ("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", "save arrays of numbers"),
}


@pytest.mark.parametrize(("header", "says"), HEADERS.values(), ids=HEADERS)
def test_npz_headers_are_checked_before_memory_is_taken(
    header: str, says: str, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as z:
        z.writestr("w.npy", npy(header, bytes(16)))
    with pytest.raises(ModelError, match=says):
        convert(tmp_path / "w.npz")


def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "w.npz", w=np.zeros((1000, 1000), np.float32))
    monkeypatch.setattr(arrays_module, "MAX_BYTES", 1_000_000)
    with pytest.raises(UnsupportedError, match="more than the 1000000 bytes"):
        convert(tmp_path / "w.npz")
    big = file({"w": np.zeros((1000, 1000), np.float32)}, tmp_path)
    with pytest.raises(UnsupportedError, match="more than the 1000000 bytes"):
        convert(big)


def h5(path: Path) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as f:
        for name, shape in {
            "kernel:0": (5, 18),
            "recurrent_kernel:0": (6, 18),
            "bias:0": (2, 18),
        }.items():
            f[f"gru/gru_cell/{name}"] = rng.normal(0, 0.4, shape).astype(np.float32)
        f["optimizer_weights/m"] = np.zeros(3)
    return path


def test_weights_that_keras_2_saved(tmp_path: Path) -> None:
    assert detect(h5(tmp_path / "w.h5")) == "h5-weights"
    model = convert(tmp_path / "w.h5", "float32", network="gru", check="require")
    assert model.nodes[0].reset == "after"  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedError, match="arrays and no network"):
        convert(tmp_path / "w.h5")


def test_h5_arrays_lie_in_the_file_itself(tmp_path: Path) -> None:
    with h5py.File(h5(tmp_path / "w.h5"), "r+") as f:
        del f["gru/gru_cell/bias:0"]
        (tmp_path / "raw").write_bytes(bytes(144))
        f.create_dataset(
            "gru/gru_cell/bias:0", (2, 18), "f4", external=[(str(tmp_path / "raw"), 0, 144)]
        )
    with pytest.raises(UnsupportedError, match="kept outside"):
        convert(tmp_path / "w.h5", network="gru")


def torch_zip(path: Path) -> Path:
    return checkpoint(ARRAYS, path)


def torch_legacy(path: Path) -> Path:
    return checkpoint(ARRAYS, path, _use_new_zipfile_serialization=False)


def npz(path: Path) -> Path:
    np.savez(path.open("wb"), **ARRAYS)
    return path


def safetensors(path: Path) -> Path:
    return file(ARRAYS, path.parent).rename(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [torch_zip, torch_legacy, npz, safetensors])
def test_damaged_files_end_in_an_error_of_ours_or_a_model(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path / "w")
    for blob in variants(path.read_bytes(), fewer(150)):
        path.write_bytes(blob)
        try:
            convert(path, check="skip", quantize="float32")
        except EdgeRnnError:
            continue
