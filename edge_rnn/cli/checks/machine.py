"""The processor, the model on it, and the clock."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edge_rnn.cli.checks import Finding, error, note, ok, warning
from edge_rnn.config import Config
from edge_rnn.errors import EdgeRnnError, ModelError

if TYPE_CHECKING:
    from edge_rnn.cli.verify import Verification

_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
_INTEGER = {
    "vnni": "VNNI", "sdot": "dot product", "maddubs": "AVX2", "pmaddwd": "SSE2",
    "smull": "no dot product",
}  # fmt: skip


def model(config: Config) -> Iterator[Finding]:
    """Does the model load, fit the fields and compute the recorded bits here?"""
    from edge_rnn.cli.verify import replay
    from edge_rnn.kernels import step
    from edge_rnn.kernels.cache import compiling, log
    from edge_rnn.modelfile import load

    log.setLevel(logging.WARNING)  # what it would say is a finding
    compiled: list[str] = []
    start = time.perf_counter()
    try:
        network = load(config.model_file)
        config.check_model(network)
        with compiling(compiled.append):
            _ = step.function
            result = replay(network) if network.probe else None
    except ModelError as e:
        fix = "convert the model again, or copy it again to this machine"
        yield error("model", f"{config.model_file}: {e}", fix)
    except EdgeRnnError as e:
        yield error("model", str(e), "name the model's features in input.fields, in its order")
    else:
        yield _replayed(config.model_file.name, result)
        yield from _processor(time.perf_counter() - start if compiled else None)


def _replayed(name: str, result: Verification | None) -> Finding:
    if result is None:
        fix = "convert it again to have one"
        return note("model", f"{name} has no recorded run to compare with", fix)
    if not result.accepted:
        fix = "run edge-rnn verify on it, and please report what it says"
        return error("model", f"{name} computes other bits here", fix)
    how = "bit-identical" if result.identical else "the same within 1e-4"
    return ok("model", f"{name}: {result.steps} recorded steps come out {how}")


def _processor(compiling: float | None) -> Iterator[Finding]:
    """Which instructions are used, and whether kernels had to be compiled, for so many seconds."""
    from edge_rnn.kernels.cache import kernels_dir
    from edge_rnn.kernels.cpu import LEVEL

    products = _INTEGER.get(LEVEL.dot, LEVEL.dot)
    yield ok("cpu", f"{LEVEL.name}: {LEVEL.lanes} float32 at once, integers by {products}")
    if compiling is None:
        yield ok("cpu", f"the compiled kernels are in {kernels_dir()}")
        return
    text = f"no compiled kernels in {kernels_dir()}: that took {compiling:.0f} s"
    yield warning("cpu", text, "run edge-rnn warmup as the user that runs the daemon")


def clock(synchronised: Path = _SYNCHRONISED) -> Iterator[Finding]:
    """Is the time of day right? Order, states and ttl do not depend on it."""
    if synchronised.exists() or _adjtimex() not in (_UNSYNCHRONISED, -1):
        yield ok("clock", "synchronised; order, states and ttl don't depend on it")
        return
    rtc = "" if Path("/dev/rtc0").exists() else ", and there is no clock chip: it is wrong at boot"
    yield warning(
        "clock",
        f"not synchronised{rtc}: certificates may seem expired, and the times in the log and of "
        "set-aside messages be wrong; order, states and ttl don't depend on it",
        "timedatectl set-ntp true",
    )


def _adjtimex() -> int:
    """The state of the kernel's clock, -1 if it doesn't tell; changes nothing (modes = 0)."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)))
