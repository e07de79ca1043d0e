"""Recordings of a wrist watch (BasicMotions), the signal behind the simulated devices.

Four students stood, ran, walked and played badminton wearing a watch; each of the 80
recordings holds ten seconds of its accelerometer and gyroscope. The data are not shipped:
they are taken from the ``aeon`` wheel (BSD-3-Clause), which pip fetches once, and every
byte used is checked against a pinned SHA-256.

Source: BasicMotions, UEA multivariate time series classification archive, as carried by
aeon 1.6.0 in ``aeon/datasets/data/BasicMotions``.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edge_rnn.cachedir import cache_dir
from edge_rnn.errors import EdgeRnnError

Split = Literal["train", "test"]

RATE_HZ: Final = 10
"""Samples per second of every recording."""

FEATURES: Final = ("ax", "ay", "az", "gx", "gy", "gz")
"""The six columns: accelerometer x, y, z, then gyroscope x, y, z.

The archive documents "3D accelerometer and a 3D gyroscope" in this order. The figures agree:
the last three columns are whole multiples of one step (0.0026634), the first three are not.
"""

UNITS: Final = ("unknown",) * len(FEATURES)
"""Units of ``FEATURES``: the archive does not document them.

The ranges would fit m/s² with gravity removed and rad/s, but that is inference, not record.
"""

ACTIVITIES: Final = ("badminton", "running", "standing", "walking")
"""Class names in alphabetical order; a label is an index into this tuple."""

WHEEL: Final = "aeon-1.6.0-py3-none-any.whl"
"""File name of the wheel that carries the recordings."""

_WHEEL_SHA256: Final = "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409"
_REQUIREMENT: Final = f"aeon==1.6.0 --hash=sha256:{_WHEEL_SHA256}\n"
_FOLDER: Final = "aeon/datasets/data/BasicMotions"
_FILES: Final[dict[Split, str]] = {
    "train": "BasicMotions_TRAIN.ts",
    "test": "BasicMotions_TEST.ts",
}
SHA256: Final[dict[Split, str]] = {
    "train": "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
    "test": "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
}
"""SHA-256 of the two files the recordings are read from."""

_PIP_SECONDS: Final = 300


class RecordingsError(EdgeRnnError, RuntimeError):
    """The recordings could not be obtained, or are not the pinned ones."""


@dataclass(frozen=True, eq=False)
class Recordings:
    """Labelled recordings of equal length.

    ``samples`` is float32 ``(N, 100, 6)``, columns as in ``FEATURES``, ``RATE_HZ`` rows a
    second; ``labels`` is int64 ``(N,)``, indices into ``ACTIVITIES``.
    """

    samples: NDArray[np.float32]
    labels: NDArray[np.int64]


def load(split: Split) -> Recordings:
    """Return the 40 recordings of ``split``, fetching them at the first call.

    Looked for in this order: the cache folder, an installed ``aeon``, the wheel put into the
    cache folder by hand, the package index (through pip). A copy with the wrong SHA-256
    counts as missing, so a damaged cache mends itself.

    Raises:
        ValueError: ``split`` is neither ``"train"`` nor ``"test"``.
        RecordingsError: no source had the pinned file; the message says what was tried, why
            it failed, and what to do.
    """
    if split not in _FILES:
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    return _parse(_read(split).decode("ascii"))


def day(recordings: Recordings, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return one stream made of every recording once, in an order drawn from ``seed``.

    Returns samples ``(T, 6)`` and a label for each, ``(T,)``, with T the total number of
    samples (4000, or 400 seconds, for either split).
    """
    count, length, features = recordings.samples.shape
    order = np.random.default_rng(seed).permutation(count)
    samples = recordings.samples[order].reshape(count * length, features)
    return samples, np.repeat(recordings.labels[order], length)


def _read(split: Split) -> bytes:
    failures: list[str] = []
    for name, source in _SOURCES.items():
        try:
            return _verified(split, source(split))
        except (RecordingsError, OSError) as error:
            failures.append(f"  {name}: {error}")
    raise RecordingsError(
        f"cannot get the BasicMotions recordings ({_FILES[split]}); tried:\n"
        + "\n".join(failures)
        + f"\nEither make a package index reachable by pip, or put {WHEEL}"
        + f" into {cache_dir()} and run again."
    )


def _verified(split: Split, content: bytes) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[split]:
        raise RecordingsError(f"{_FILES[split]} has sha256 {digest}, expected {SHA256[split]}")
    return content


def _cached(split: Split) -> bytes:
    return (cache_dir() / _FILES[split]).read_bytes()


def _installed(split: Split) -> bytes:
    # Only found, never imported: importing aeon takes seconds and needs its dependencies.
    spec = find_spec("aeon")
    if spec is None or not spec.submodule_search_locations:
        raise RecordingsError("not installed in this environment")
    root = Path(spec.submodule_search_locations[0]).parent
    return (root / _FOLDER / _FILES[split]).read_bytes()


def _by_hand(split: Split) -> bytes:
    return _extract(cache_dir() / WHEEL, split)


def _downloaded(split: Split) -> bytes:
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        _pip_download(Path(folder))
        return _extract(Path(folder) / WHEEL, split)


_SOURCES: Final[dict[str, Callable[[Split], bytes]]] = {
    "cache": _cached,
    "installed aeon": _installed,
    "wheel put there by hand": _by_hand,
    "pip download": _downloaded,
}


def _pip_download(folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(_REQUIREMENT, encoding="ascii")
    # The wheel is only unpacked, so the Python versions it supports do not matter.
    options = "--no-deps --require-hashes --only-binary=:all: --ignore-requires-python --no-input"
    command = [sys.executable, "-m", "pip", "download", *options.split()]
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RecordingsError(f"no answer within {_PIP_SECONDS} s") from error
    if done.returncode != 0:
        raise RecordingsError(_last_error(done.stderr) or f"exit status {done.returncode}")


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or [""])[-1]


def _extract(wheel: Path, wanted: Split) -> bytes:
    """Copy both splits out of ``wheel`` into the cache and return the ``wanted`` one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            contents = {
                split: _verified(split, archive.read(f"{_FOLDER}/{name}"))
                for split, name in _FILES.items()
            }
    except (zipfile.BadZipFile, KeyError) as error:
        raise RecordingsError(f"{wheel} is not the expected wheel: {error}") from error
    for split, content in contents.items():
        _write_atomically(cache_dir() / _FILES[split], content)
    return contents[wanted]


def _write_atomically(path: Path, content: bytes) -> None:
    # Several processes may start at once; each sees the whole file or none.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


def _parse(text: str) -> Recordings:
    """Read the ``.ts`` format: a line a recording, ``channel:...:channel:class``."""
    lines = text.partition("@data\n")[2].splitlines()
    cases = [line.split(":") for line in lines]
    channels = [[channel.split(",") for channel in case[:-1]] for case in cases]
    samples = np.array(channels, dtype=np.float32).transpose(0, 2, 1)
    labels = [ACTIVITIES.index(case[-1].lower()) for case in cases]
    return Recordings(np.ascontiguousarray(samples), np.array(labels, dtype=np.int64))
