"""Files of weights in every format that is read, and files that pretend to be."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
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
from edge_rnn_converters.weights.checkpoint import checkpoint as read_checkpoint
from tests.converters.test_hostile import Bomb, variants
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


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_of_every_shape(legacy: bool, tmp_path: Path) -> None:
    options = {"_use_new_zipfile_serialization": not legacy}
    wrapped = {f"module.model.{n}": a for n, a in ARRAYS.items()}
    moments = {k: {"step": np.array(3.0), "exp_avg": a} for k, a in enumerate(ARRAYS.values())}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99)}]}
    best = {"best_model_score": np.array(0.5), "monitor": "loss"}
    for k, tree in enumerate((
        ARRAYS,
        wrapped,
        {"epoch": 3, "model_state": ARRAYS, "optimizer_state": optimizer},
        {"state_dict": wrapped, "optimizer_states": [optimizer], "callbacks": {"best": best}},
    )):  # fmt: skip
        path = checkpoint(tree, tmp_path / f"{k}.pt", **options)
        same(path, "torch-checkpoint")
        model = convert(path, "float32", check="require" if not k else "skip")
        assert [n.name for n in model.nodes] == ["rnn"]


def test_a_checkpoint_saved_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:1")
    for legacy in (False, True):
        options = {"_use_new_zipfile_serialization": not legacy}
        path = checkpoint(ARRAYS, tmp_path / f"{legacy}.pt", **options)
        assert b"cuda:1" in path.read_bytes()
        same(path, "torch-checkpoint")


def test_two_models_in_a_checkpoint_need_a_prefix(tmp_path: Path) -> None:
    tree = {"ema": ARRAYS, "model": ARRAYS}
    path = checkpoint(tree, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"several sets of arrays, under ema\., model\.; say"):
        convert(path)
    (tmp_path / "net.toml").write_text('prefix = "ema"\n[[layer]]\ntype = "gru"\nweights = "rnn"\n')
    assert convert(path, description=tmp_path / "net.toml", check="skip").input_width == 5
    assert convert(path, network="prefix=model, gru", check="skip").input_width == 5


def test_a_pickled_module_is_not_loaded(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 3), tmp_path / "m.pt")
    with pytest.raises(UnsupportedError, match=r"of torch\.nn.*Linear, which could run code"):
        convert(tmp_path / "m.pt")
    torch.save({"w": np.zeros((2, 2))}, tmp_path / "n.pt")
    with pytest.raises(UnsupportedError, match=r"_reconstruct, .*save\(model\.state_dict"):
        convert(tmp_path / "n.pt")
    for legacy in (False, True):
        torch.save({"x": Bomb()}, tmp_path / "b.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UnsupportedError, match="could run code"):
            convert(tmp_path / "b.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_of_numpy_beside_the_weights(legacy: bool, tmp_path: Path) -> None:
    numbers = {"loss": np.float64(0.5), "epoch": np.int64(3), "best": [np.float32(1), np.True_]}
    tree = {"state_dict": ARRAYS, "seen": numbers, **numbers}
    options = {"_use_new_zipfile_serialization": not legacy}
    path = checkpoint(tree, tmp_path / "w.pt", **options)
    assert b"scalar" in path.read_bytes()
    same(path, "torch-checkpoint")


def test_numpy_makes_nothing_of_a_checkpoint(tmp_path: Path) -> None:
    """Numbers whose dtype says that they hold objects, and a size that no number has."""
    torch = pytest.importorskip("torch")
    made = next(iter(np.float64(0.5).__reduce__()))

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return made, (np.dtype("O"), b"x"), None

    torch.save({"w": torch.zeros(2, 2), "a": Hostile()}, tmp_path / "w.pt")
    values, _ = read_checkpoint(tmp_path / "w.pt")
    assert list(values) == ["w"]
    with pytest.raises(pickle.UnpicklingError, match="scalar"):  # allowed here alone
        torch.load(tmp_path / "w.pt", weights_only=True)


def test_tensors_that_are_not_plain(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    w = torch.randn(4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # once a process torch says that this is deprecated
        quantized = torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)
    for tensor, says in (
        (quantized, "quantized already"),
        (w.to_sparse(), "not a plain tensor"),
        (w.to("meta"), "not a plain tensor"),
        (w.to(torch.complex64), "dtype torch.complex64"),
        (w.to(torch.float8_e5m2), "dtype torch.float8_e5m2"),
        (torch.zeros(1).expand(1 << 20, 1 << 12), "more than the 1073741824 bytes"),
    ):
        torch.save({"w": tensor}, tmp_path / "w.pt")
        with pytest.raises(UnsupportedError, match=says):
            convert(tmp_path / "w.pt")
    torch.save({"lr": 1.0}, tmp_path / "n.pt")
    with pytest.raises(UnsupportedError, match="holds no state_dict"):
        convert(tmp_path / "n.pt")


def test_a_file_that_refers_to_itself_is_read_once(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    inner: dict[str, Any] = {"w": torch.zeros(2, 2)}
    tree = inner
    for _ in range(60):
        tree = {"a": tree, "b": tree}
    tree["c"] = inner["self"] = tree
    torch.save(tree, tmp_path / "w.pt")
    assert len(read_arrays(tmp_path / "w.pt", "torch-checkpoint").values) == 1


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
