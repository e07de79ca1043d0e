"""Where compiled kernels are kept between starts: a file of object code for each library.

The folder's name carries a hash of all kernel sources and of the versions that compile them, and
the level of the processor that they are compiled for. A file is loaded only if it is whole and if
nobody but its reader (or root) can have written it, for what is in it is run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

from edge_rnn.cachedir import cache_dir, no_cache, writable
from edge_rnn.kernels.cpu import LEVEL, Level

log = logging.getLogger(__name__)
_COMPILERS = ("numba", "llvmlite", "numpy")
_DIGEST = hashlib.sha256().digest_size
_listeners: list[Callable[[str], None]] = []


@cache
def sources_hash() -> str:
    """16 hex digits over the kernels' sources and the versions of what compiles them."""
    h = hashlib.sha256(" ".join(version(package) for package in _COMPILERS).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        h.update(path.read_bytes())
    return h.hexdigest()[:16]


def kernels_dir(level: Level = LEVEL, parent: Path | None = None) -> Path:
    """Where what is compiled of these sources for a processor is kept; parent: `cache_dir`."""
    return (parent or cache_dir()) / "kernels" / f"{sources_hash()}-{level.name}"


def object_code(library: str) -> bytes:
    """The library's object code for this processor, from the cache, or compiled and kept there.

    Warns where it can't be kept. Raises RuntimeError if it does not compile.
    """
    folder = kernels_dir()
    if (code := _read(folder / library)) is not None:
        return code
    log.info("compiling the kernels, once: about half a minute, longer on a small board")
    try:
        writable(folder)
    except OSError as e:
        warnings.warn(no_cache(folder, e), RuntimeWarning, stacklevel=3)
        return _compiled(library, LEVEL)
    return _keep(folder / library, _compiled(library, LEVEL))


def compile_for(level: Level, library: str, parent: Path | None) -> Path:
    """Compile a library for a processor, which need not be this one, into the cache folder
    `parent`, unless it is there -> the file. Raises OSError, or RuntimeError as `object_code`."""
    path = writable(kernels_dir(level, parent)) / library
    if _read(path) is None:
        _keep(path, _compiled(library, level))
    return path


@contextmanager
def compiling(tell: Callable[[str], None]) -> Iterator[None]:
    """Have `tell` called with the name of each kernel that is compiled, when that begins; of those
    that are found in the cache it does not hear."""
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)


def _read(path: Path) -> bytes | None:
    """The code in a file of the cache, None if it is not there or not to be trusted."""
    try:
        with path.open("rb") as f:
            info, data = os.fstat(f.fileno()), f.read()
    except OSError:
        return None
    others = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if others or info.st_uid not in (0, os.geteuid()):
        warnings.warn(
            f"{path} is not loaded: it belongs to another user, or others can write it; remove it",
            RuntimeWarning,
            stacklevel=4,
        )
        return None
    code = data[_DIGEST:]
    return code if hashlib.sha256(code).digest() == data[:_DIGEST] else None


def _keep(path: Path, code: bytes) -> bytes:
    """Write the code so that no reader ever finds a part of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as f:
        os.fchmod(f.fileno(), 0o644)
        f.write(hashlib.sha256(code).digest() + code)
    Path(f.name).replace(path)
    return code


def _compiled(library: str, level: Level) -> bytes:
    """Compiled in a process of its own: Numba stays out of this one, and its settings out of a
    caller's."""
    environment = {
        **os.environ,
        "EDGE_RNN_CPU": level.name,
        "NUMBA_DISABLE_JIT": "0",
        "NUMBA_OPT": "0",  # all is optimised once, at the end
        "PYTHONHASHSEED": "0",  # the same code each time
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with tempfile.TemporaryDirectory(prefix="edge-rnn-") as folder:
        path = Path(folder) / library
        command = [sys.executable, "-P", "-m", "edge_rnn.kernels.build", library, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            for line in child.stdout or ():
                for tell in _listeners:
                    tell(line.strip())
        if child.returncode:
            raise RuntimeError(f"the kernels did not compile: exit code {child.returncode}")
        return path.read_bytes()
