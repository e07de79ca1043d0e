"""The BasicMotions recordings: what they are, and how they are obtained and trusted."""

from __future__ import annotations

import os
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from edge_rnn_devices import recordings
from edge_rnn_devices.recordings import ACTIVITIES, RecordingsError, cache_dir, day, load

NAMES = ("BasicMotions_TRAIN.ts", "BasicMotions_TEST.ts")


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Both files, really fetched through pip, once a session."""
    folder = tmp_path_factory.mktemp("fetched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_RNN_CACHE", str(folder))
        patch.setattr(recordings, "find_spec", lambda name: None)
        load("train")
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)  # the wheel is gone
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, no aeon installed, and a package index with nothing in it."""
    monkeypatch.setenv("EDGE_RNN_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(recordings, "find_spec", lambda name: None)
    return tmp_path


@pytest.fixture
def full_cache(cache: Path, fetched: dict[str, bytes]) -> Path:
    """A cache folder that holds both files."""
    for name, content in fetched.items():
        (cache / name).write_bytes(content)
    return cache


def make_wheel(path: Path, contents: dict[str, bytes]) -> None:
    """Write a wheel with the given members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def members(fetched: dict[str, bytes]) -> dict[str, bytes]:
    """The files under the names they have inside the wheel."""
    return {f"aeon/datasets/data/BasicMotions/{name}": data for name, data in fetched.items()}


@pytest.mark.usefixtures("full_cache")
class TestContent:
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_shape_and_type(self, split: recordings.Split) -> None:
        got = load(split)
        assert got.samples.shape == (40, 100, 6)
        assert got.samples.dtype == np.float32
        assert got.labels.dtype == np.int64
        assert np.isfinite(got.samples).all()

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_ten_recordings_of_each_activity(self, split: recordings.Split) -> None:
        assert np.bincount(load(split).labels).tolist() == [10, 10, 10, 10]

    def test_first_sample_of_the_first_recording(self) -> None:
        got = load("train")
        assert ACTIVITIES[got.labels[0]] == "standing"
        expected = [0.079106, 0.394032, 0.551444, 0.351565, 0.02397, 0.633883]
        np.testing.assert_allclose(got.samples[0, 0], expected, rtol=1e-6)

    def test_last_three_columns_are_quantised_like_one_sensor(self) -> None:
        steps = load("train").samples.astype(float) / 0.002663373
        error = np.abs(steps - np.round(steps)).max(axis=(0, 1))
        assert (error[3:] < 0.01).all()
        assert (error[:3] > 0.4).all()

    def test_splits_share_no_recording(self) -> None:
        train, test = load("train").samples, load("test").samples
        assert not any((test == one).all(axis=(1, 2)).any() for one in train)

    def test_unknown_split(self) -> None:
        with pytest.raises(ValueError, match="'valid'"):
            load("valid")  # type: ignore[arg-type]


@pytest.mark.usefixtures("full_cache")
class TestDay:
    def test_every_recording_once(self) -> None:
        source = load("test")
        samples, labels = day(source, seed=3)
        assert samples.shape == (4000, 6)
        assert labels.shape == (4000,)
        pieces = {piece.tobytes() for piece in samples.reshape(40, 100, 6)}
        assert pieces == {piece.tobytes() for piece in source.samples}

    def test_labels_follow_their_recordings(self) -> None:
        source = load("test")
        samples, labels = day(source, seed=3)
        label_of = {
            piece.tobytes(): label
            for piece, label in zip(source.samples, source.labels, strict=True)
        }
        expected = [label_of[piece.tobytes()] for piece in samples.reshape(40, 100, 6)]
        assert (labels.reshape(40, 100) == np.array(expected)[:, None]).all()

    def test_seed_decides_the_order(self) -> None:
        source = load("test")
        np.testing.assert_array_equal(day(source, 1)[0], day(source, 1)[0])
        assert not np.array_equal(day(source, 1)[1], day(source, 2)[1])


class TestSources:
    def test_cache_needs_nothing_else(
        self, full_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recordings, "_pip_download", pytest.fail)
        assert len(load("test").labels) == 40

    def test_corrupted_cache_without_another_source(self, full_cache: Path) -> None:
        (full_cache / NAMES[0]).write_bytes(b"@data\n")
        with pytest.raises(RecordingsError, match=r"cache: BasicMotions_TRAIN\.ts has sha256"):
            load("train")

    def test_corrupted_cache_mends_itself(
        self, full_cache: Path, fetched: dict[str, bytes]
    ) -> None:
        (full_cache / NAMES[0]).write_bytes(b"@data\n")
        make_wheel(full_cache / recordings.WHEEL, members(fetched))
        load("train")
        assert (full_cache / NAMES[0]).read_bytes() == fetched[NAMES[0]]

    def test_installed_aeon_is_read_but_not_imported(
        self, cache: Path, fetched: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = cache / "site" / "aeon"
        for name, content in members(fetched).items():
            file = package.parent / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (package / "__init__.py").write_text("raise AssertionError('imported')")
        spec = ModuleSpec("aeon", None, is_package=True)
        spec.submodule_search_locations = [str(package)]
        monkeypatch.setattr(recordings, "find_spec", lambda name: spec)
        assert len(load("train").labels) == 40

    def test_wheel_put_there_by_hand(self, cache: Path, fetched: dict[str, bytes]) -> None:
        make_wheel(cache / recordings.WHEEL, members(fetched))
        load("train")
        assert (cache / recordings.WHEEL).exists()  # ours to read, not to delete
        assert {name: (cache / name).read_bytes() for name in NAMES} == fetched

    def test_wheel_with_other_data(self, cache: Path, fetched: dict[str, bytes]) -> None:
        changed = {name: data + b"\n" for name, data in members(fetched).items()}
        make_wheel(cache / recordings.WHEEL, changed)
        with pytest.raises(RecordingsError, match=r"by hand: .* has sha256"):
            load("train")
        assert not (cache / NAMES[0]).exists()

    def test_wheel_without_the_data(self, cache: Path) -> None:
        make_wheel(cache / recordings.WHEEL, {"aeon/__init__.py": b""})
        with pytest.raises(RecordingsError, match="not the expected wheel"):
            load("train")

    def test_file_that_is_no_wheel(self, cache: Path) -> None:
        (cache / recordings.WHEEL).write_bytes(b"not a zip")
        with pytest.raises(RecordingsError, match="not the expected wheel"):
            load("train")


class TestFailures:
    def test_no_index_says_what_was_tried_and_what_to_do(self, cache: Path) -> None:
        with pytest.raises(RecordingsError) as caught:
            load("train")
        message = str(caught.value)
        assert "pip download: ERROR: No matching distribution found for aeon==1.6.0" in message
        assert "installed aeon: not installed" in message
        assert f"put {recordings.WHEEL} into {cache}" in message
        assert list(cache.iterdir()) == []  # nothing half done left behind

    def test_no_pip(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        python = cache / "python"
        python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
        python.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(python))
        with pytest.raises(RecordingsError, match=r"pip download: .* No module named pip"):
            load("train")

    def test_pip_hangs(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        python = cache / "python"
        python.write_text("#!/bin/sh\nexec sleep 60\n")
        python.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(python))
        monkeypatch.setattr(recordings, "_PIP_SECONDS", 0.2)
        with pytest.raises(RecordingsError, match="no answer within"):
            load("train")

    def test_cache_folder_that_cannot_be_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("EDGE_RNN_CACHE", str(tmp_path / "file" / "below"))
        monkeypatch.setattr(recordings, "find_spec", lambda name: None)
        with pytest.raises(RecordingsError, match=r"pip download: .*Not a directory"):
            load("train")


class TestCacheDir:
    def test_own_variable_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGE_RNN_CACHE", "/a")
        monkeypatch.setenv("XDG_CACHE_HOME", "/b")
        assert cache_dir() == Path("/a")

    def test_then_xdg(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("EDGE_RNN_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", "/b")
        assert cache_dir() == Path("/b/edge-rnn")

    def test_then_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("EDGE_RNN_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/c")
        assert cache_dir() == Path("/c/.cache/edge-rnn")
