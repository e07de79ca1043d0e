"""ONNX weights kept in other files: read from beside the model, from nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.converters.onnx_models import Graph, I, answer, inputs
from tests.converters.runtime import refusal, run


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A model in a folder of its own, its weights in w.bin beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    g = Graph()
    model = g.model({"x": ["T", 1, I]}, [g.cell("GRU", "x")[0]])
    onnx.save(model, folder / "m.onnx")
    np.save(tmp_path / "y.npy", answer(model, x=inputs()[:, None])[0].reshape(len(inputs()), -1))
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="w.bin",
              size_threshold=0)  # fmt: skip
    return folder / "m.onnx"


def changed(path: Path, change: Callable[[onnx.TensorProto], None]) -> Path:
    model = onnx.load(path, load_external_data=False)
    change(model.graph.initializer[0])
    path.write_bytes(model.SerializeToString())
    return path


def put(key: str, value: str) -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        entries = {e.key: e.value for e in tensor.external_data} | {key: value}
        del tensor.external_data[:]
        for k, v in entries.items():
            tensor.external_data.add(key=k, value=v)

    return change


def test_weights_beside_the_model(beside: Path) -> None:
    y = run(beside, inputs(), check="require")
    np.testing.assert_allclose(y, np.load(beside.parents[1] / "y.npy"), atol=1e-5)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "sub/w.bin", "..", "", "a\\w.bin", "."]
)
def test_no_other_place_is_looked_at(location: str, beside: Path) -> None:
    (beside.parents[1] / "secret.bin").write_bytes((beside.parent / "w.bin").read_bytes())
    message = refusal(changed(beside, put("location", location)))
    assert "is kept in" in message and "not" in message


def test_no_link_is_followed_elsewhere(beside: Path) -> None:
    away = beside.parents[1] / "w.bin"
    (beside.parent / "w.bin").rename(away)
    (beside.parent / "w.bin").symlink_to(away)
    assert "a link to elsewhere" in refusal(beside)


def test_a_missing_file(beside: Path) -> None:
    (beside.parent / "w.bin").unlink()
    assert "which is not there" in refusal(beside)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("offset", "99999999", "does not fit"),
        ("offset", "-4", "does not fit"),
        ("length", "3", "does not fit"),
        ("length", "99999999999", "does not fit"),
        ("offset", "first", "has no readable place"),
    ],
)
def test_sizes_are_checked_before_anything_is_read(
    key: str, value: str, says: str, beside: Path
) -> None:
    assert says in refusal(changed(beside, put(key, value)))


def test_dimensions_larger_than_the_file(beside: Path) -> None:
    def grow(tensor: onnx.TensorProto) -> None:
        tensor.dims[0] = 1 << 40
        entries = [e for e in tensor.external_data if e.key != "length"]
        del tensor.external_data[:]
        tensor.external_data.extend(entries)

    assert "does not fit" in refusal(changed(beside, grow))
