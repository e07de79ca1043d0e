"""The processor, the model on it, and the clock."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from edge_rnn.cli.checks import Finding, error, note, ok, warning
from edge_rnn.config import Config
from edge_rnn.errors import EdgeRnnError, ModelError

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
    from edge_rnn.kernels.cache import compiling, kernels_dir, log
    from edge_rnn.kernels.cpu import LEVEL
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
        return
    except EdgeRnnError as e:
        yield error("model", str(e), "name the model's features in input.fields, in its order")
        return
    if result is None:
        yield note("model", f"{config.model_file.name} has no recorded run to compare with",
                   "convert it again to have one")  # fmt: skip
    elif result.accepted:
        yield ok("model", f"{config.model_file.name}: {result.steps} recorded steps come out "
                 f"{'bit-identical' if result.identical else 'the same within 1e-4'}")  # fmt: skip
    else:
        yield error("model", f"{config.model_file.name} computes other bits here",
                    "run edge-rnn verify on it, and please report what it says")  # fmt: skip
    products = _INTEGER.get(LEVEL.dot, LEVEL.dot)
    yield ok("cpu", f"{LEVEL.name}: {LEVEL.lanes} float32 at once, integers by {products}")
    if compiled:
        took = time.perf_counter() - start
        yield warning("cpu", f"no compiled kernels in {kernels_dir()}: that took {took:.0f} s",
                      "run edge-rnn warmup as the user that runs the daemon")  # fmt: skip
    else:
        yield ok("cpu", f"the compiled kernels are in {kernels_dir()}")


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
