"""PyTorch checkpoints, loaded as data alone."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_rnn.errors import ModelError, UnsupportedError
from edge_rnn_converters import convert
from edge_rnn_converters.weights.arrays import read_arrays
from edge_rnn_converters.weights.checkpoint import checkpoint as read_checkpoint
from tests.converters.test_hostile import Bomb
from tests.converters.test_weight_files import ARRAYS, checkpoint, same


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
