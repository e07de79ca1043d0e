"""A user's data: the columns that are meant, or an error that says which row is wrong."""

from __future__ import annotations

import io
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from edge_rnn.errors import EdgeRnnError, InputError, MissingExtraError, ModelError
from edge_rnn.graph import Feature, Model
from edge_rnn_converters.certificate import data
from edge_rnn_converters.certificate.data import read
from tests.converters.test_certificate import classifier
from tests.effort import examples

MODEL = classifier()
NAMED = replace(MODEL, features=(Feature("ax"), Feature("ay"), Feature("az")))
CSV = "activity,az,ay,ax\nwalk,3,2,1\nrun,6,5,4\n"
X = np.float32([[1, 2, 3], [4, 5, 6]])


def text(folder: Path, content: str | bytes, name: str = "d.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def npy(array: np.ndarray, **options: bool) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def test_columns_are_found_by_the_models_names(tmp_path: Path) -> None:
    found = read(text(tmp_path, CSV), NAMED, ["activity"], steps=2)
    np.testing.assert_array_equal(found.x, X)
    assert found.labels is not None and found.labels[:, 0].tolist() == ["walk", "run"]
    assert found.what.startswith("d.csv, 2 steps, sha256 ")


def test_without_names_the_columns_are_taken_in_order(tmp_path: Path) -> None:
    found = read(text(tmp_path, CSV), MODEL, ["activity"], steps=2)
    np.testing.assert_array_equal(found.x, X[:, ::-1])
    bare = read(text(tmp_path, "1;2;3\r\n\r\n4;5;6\r\n"), MODEL, steps=2)
    np.testing.assert_array_equal(bare.x, X)


def test_short_data_is_repeated(tmp_path: Path) -> None:
    found = read(text(tmp_path, "1,2,3\n4,5,6\n"), MODEL, steps=5)
    np.testing.assert_array_equal(found.x, np.tile(X, (3, 1)))
    assert "2 steps, 3 times over" in found.what


def test_arrays(tmp_path: Path) -> None:
    found = read(text(tmp_path, npy(np.c_[X, [0, 2]]), "d.npy"), MODEL, ["3"], steps=1)
    np.testing.assert_array_equal(found.x, X)
    assert found.labels is not None and found.labels[:, 0].tolist() == [0, 2]
    np.savez_compressed(tmp_path / "d.npz", x=np.asfortranarray(X), y=np.array(["run", "rest"]))
    found = read(tmp_path / "d.npz", MODEL, ["y"], steps=1)
    np.testing.assert_array_equal(found.x, X)
    assert found.labels is not None and found.labels[:, 0].tolist() == ["run", "rest"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"ax": X[:, 0], "ay": X[:, 1], "az": X[:, 2], "activity": ["walk", "run"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "d.parquet")
    found = read(tmp_path / "d.parquet", NAMED, ["activity"], steps=1)
    np.testing.assert_array_equal(found.x, X)
    assert found.labels is not None and found.labels[:, 0].tolist() == ["walk", "run"]


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"edge-rnn\[parquet\]"):
        read(text(tmp_path, b"PAR1", "d.parquet"), MODEL)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no rows"),
        ("a,b,c\n", "no rows"),
        ("a,b,c\n1,2,3\n4,x,6\n", "row 1: b is 'x'"),
        ("a,b,c\n1,2,3\n4,,6\n", "row 1: b is ''"),
        ("a,b,c\n1,2,nan\n", "row 0: c is nan"),
        ("a,b,c\n1,2,1e39\n", "row 0: c is inf"),
        ("a,b,c\n1,2\n", "row 0: 2 values, expected 3"),
        ("a,a,c\n1,2,3\n", "two columns have the same name"),
        ("a,b\n1,2\n", r"2 columns \(a, b\), the model reads 3"),
    ],
)
def test_what_is_no_data(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(InputError, match=rf"d.csv: {says}"):
        read(text(tmp_path, content), MODEL)


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'truth'; it has activity, az, ay, ax"):
        read(text(tmp_path, CSV), MODEL, ["truth"])


def test_no_pickle_and_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = npy(np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(InputError, match="expected numbers"):
        read(text(tmp_path, pickled, "d.npy"), MODEL)
    huge = npy(X).replace(b"(2, 3)", b"(9999999, 999999)")[:128] + bytes(24)
    with pytest.raises(EdgeRnnError):
        read(text(tmp_path, huge, "d.npy"), MODEL)
    monkeypatch.setattr(data, "MAX_BYTES", 4096)
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x.npy", npy(np.zeros((1000, 3), np.float32)))
    with pytest.raises(InputError, match="bytes unpacked"):
        read(tmp_path / "d.npz", MODEL)
    with pytest.raises(InputError, match="at most 4096"):
        read(text(tmp_path, "1,2,3\n" * 1000), MODEL)


def test_an_unknown_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a file that ends in .csv, .npy"):
        read(text(tmp_path, "1", "d.pkl"), MODEL)


@given(
    st.sampled_from(["d.csv", "d.npy", "d.npz"]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.integers(0, 400),
)
@examples(300)
def test_a_damaged_file_is_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[int, int]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("d")
    np.savez(folder / "d.npz", x=X, y=np.arange(2))
    whole = {"d.csv": CSV.encode(), "d.npy": npy(X), "d.npz": (folder / "d.npz").read_bytes()}
    content = bytearray(whole[name])
    for at, value in changes:
        content[at % len(content)] = value
    path = text(folder, bytes(content[: len(content) - cut % len(content)]), name)
    try:
        found = read(path, _model(), steps=1)
    except EdgeRnnError as e:
        assert isinstance(e, InputError | ModelError) and name in str(e)
    else:
        assert found.x.shape[1] == 3 and np.isfinite(found.x).all()


def _model() -> Model:
    return NAMED
