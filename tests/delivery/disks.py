"""File systems that can be filled, made read-only and broken; for root."""

from __future__ import annotations

import subprocess
from pathlib import Path


def mount(folder: Path, kind: str) -> bool:
    """16 MB of a tmpfs, or of an ext4 in a file beside the folder, which stays; whether we may."""
    source, options = "tmpfs", "size=16m"
    if kind == "ext4":
        image = folder.with_suffix(".ext4")
        source, options = str(image), "loop,errors=remount-ro"
        if not image.exists():
            image.touch()
            subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", kind, image, "16M"], check=True)
    command = ["mount", "-t", kind, "-o", options, source, str(folder)]
    return not subprocess.run(command, capture_output=True).returncode


def remount(folder: Path, how: str) -> None:
    """ "ro" or "rw"; no file may be open for writing."""
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True)


def fill(file: Path) -> None:
    """With all that its file system takes."""
    with file.open("wb", buffering=0) as f:
        try:
            while f.write(bytes(4096)):
                pass
        except OSError:
            return


def break_ext4(folder: Path) -> None:
    """Have it meet an error: it becomes read-only, open files too, until it is mounted anew."""
    device = subprocess.run(
        ["findmnt", "-no", "SOURCE", folder], stdout=subprocess.PIPE, check=True
    )
    name = Path(device.stdout.decode().strip()).name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("x")
