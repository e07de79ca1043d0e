"""Where the state file is: room, durability, speed, wear."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_rnn.cli.checks import Finding, error, ok, warning
from edge_rnn.config import Config
from edge_rnn.config.schema import LONGEST_WAIT
from edge_rnn.daemon.pace import bytes_written
from edge_rnn.database import Synchronous
from edge_rnn.journal import Commit, Journal
from edge_rnn.state import StreamState

LEAST_FREE = 100e6
SLOW = 0.1
_COMMITS = 30
_STATE = 1024
_DAY = 86400
_IN_MEMORY = {"tmpfs", "ramfs"}
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"}
_MOUNTS = Path("/proc/self/mountinfo")


def disk(config: Config) -> Iterator[Finding]:
    """Is the state file's place fit for it?"""
    folder = config.state_file.absolute().parent
    try:
        took, wrote = _commits(folder, config.tables.state.synchronous)
    except OSError as e:
        yield error("disk", f"{folder}: a state file can't be written: {e}",
                    "make the folder, owned by the user that runs the daemon, or set state.file"
                    )  # fmt: skip
        return
    yield from _room(folder)
    yield from _file_system(folder)
    p50, p99 = 1e3 * np.quantile(took, [0.5, 0.99])
    text = f"a commit takes {p50:.1f} ms (median), {p99:.1f} ms (99th percentile)"
    if p50 > 1e3 * SLOW:
        yield warning("disk", text, "use a faster disk, or state.commit_every to commit less often")
    else:
        yield ok("disk", text)
    yield _wear(config, wrote, on_card=memory_card(folder))


def _commits(folder: Path, synchronous: Synchronous) -> tuple[list[float], float]:
    """(seconds of each, bytes written by one) of commits of a single small state, in a journal
    beside where ours is."""
    took = []
    with tempfile.TemporaryDirectory(prefix=".edge-rnn-doctor-", dir=folder) as scratch:
        path = Path(scratch) / "state"
        with Journal(path, model="0", pipeline="doctor", synchronous=synchronous) as j:
            before = bytes_written()
            for n in range(_COMMITS):
                start = time.perf_counter()
                j.commit(Commit(states=[StreamState("s", n, os.urandom(_STATE))]))
                took.append(time.perf_counter() - start)
            wrote = (bytes_written() - before) / _COMMITS
    return took, wrote


def _room(folder: Path) -> Iterator[Finding]:
    v = os.statvfs(folder)
    free = v.f_bavail * v.f_frsize
    if free < LEAST_FREE:
        yield warning("disk", f"{free / 1e6:.0f} MB free in {folder}", "make room: a full disk "
                      "stops all answers")  # fmt: skip
    else:
        yield ok("disk", f"{free / 1e9:.1f} GB free in {folder}")


def _file_system(folder: Path) -> Iterator[Finding]:
    kind = file_system(folder, _MOUNTS.read_text())
    if kind in _IN_MEMORY:
        yield error("disk", f"{folder} is in memory ({kind}): a reboot forgets all states",
                    "set state.file to a place on a disk")  # fmt: skip
    elif kind in _REMOTE:
        yield warning("disk", f"{folder} is on another machine ({kind}), where neither locks nor "
                      "saved data are certain", "set state.file to a place on this machine's disk"
                      )  # fmt: skip
    elif kind == "overlay":
        yield warning("disk", f"{folder} is a container's own layer: it goes with the container",
                      "mount a volume there")  # fmt: skip
    else:
        yield ok("disk", f"{folder} is on {kind}")


def file_system(folder: Path, mounts: str) -> str:
    """The type of what is mounted there, from the text of /proc/self/mountinfo (see proc(5))."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")  # a space is \\040
        if Path(folder).is_relative_to(point) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def memory_card(folder: Path, sys: Path = Path("/sys")) -> bool:
    """Is it on an SD card or eMMC?"""
    device = folder.stat().st_dev
    block = sys / "dev/block" / f"{os.major(device)}:{os.minor(device)}"
    return block.exists() and "/mmcblk" in str(block.resolve())


def _wear(config: Config, wrote: float, *, on_card: bool) -> Finding:
    state = config.tables.state
    where = "a memory card" if on_card else "this disk"
    if not wrote:
        return ok("wear", "no bytes written are counted here: see df, and docs/pipeline.md, Wear")
    each = f"{wrote / 1e3:.0f} kB a commit on {where}"
    if state.write_budget:
        wait = max(wrote / state.write_budget, state.commit_every or state.save_every or 0)
        budget = state.write_budget * _DAY / 1e6
        if state.save_every is None and wait > LONGEST_WAIT:
            text = f"{each}, one every hour at least: {budget:g} MB/day can't be kept"
            return warning("wear", text, "raise state.write_budget, or give state.save_every")
        return ok("wear", f"{each}: within {budget:g} MB/day there is one about every {wait:.2g} s")
    if least := state.commit_every or state.save_every:
        daily = _DAY / least * wrote / 1e9
        return ok("wear", f"{each}, at most every {least:g} s: up to {daily:.2g} GB/day")
    text = f"{each}, one with each batch: {_DAY * wrote / 1e9:.2g} GB/day at one batch a second"
    if on_card:
        return warning("wear", text, 'set state.write_budget, such as "500 MB/day"')
    return ok("wear", text)
