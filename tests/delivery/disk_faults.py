"""What a disk may do to a daemon: be full, fail, or be read-only."""

from __future__ import annotations

import errno
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.delivery import disks
from tests.delivery.bench import Bench, end, run

NOT_TAKEN = "configuration not taken, going on as before"


def full_disk(b: Bench) -> None:
    """On a file system of its own where one may be mounted, else by a limit on the file's size.
    Told to read its configuration meanwhile, the daemon goes on with the one that it has."""
    with _own_disk(b) as disk:
        run(b)
        if disk is None:
            limit = b.rig.state_file.with_name("p.state-wal").stat().st_size + 5000
            b.daemon.limit("RLIMIT_FSIZE", limit)
        else:
            disks.fill(disk / "filler")
        b.daemon.send(signal.SIGHUP)  # there is nothing to save
        b.busy(2.0)
        refused = b.rig.log.count(NOT_TAKEN)
        b.daemon.send(signal.SIGHUP)
        b.wait("a refusal", lambda: b.rig.log.count(NOT_TAKEN) > refused)
        if disk is None:
            b.daemon.limit("RLIMIT_FSIZE", resource.RLIM_INFINITY)
        else:
            (disk / "filler").unlink()
        end(b)


def read_only_disk(b: Bench) -> None:
    with _own_disk(b) as disk:
        assert disk is not None, "mounting a file system needs root"
        run(b)
        assert b.daemon.stop() == 0
        disks.remount(disk, "ro")
        b.rig.publish(5)
        assert b.start().status() == 1
        b.how = "stopped, exit code 1"
        disks.remount(disk, "rw")
        b.start()
        end(b)


def disk_errors(b: Bench) -> None:
    """What is written fails for a while: as on a bad card, then as on a read-only file system.
    Told to stop meanwhile, the daemon says that it has not saved all."""
    broken = b.rig.folder / "broken"
    run(b)
    assert b.daemon.stop() == 0
    for number in (errno.EIO, errno.EROFS):
        for stop in (True, False):
            b.start(["failing writes", str(broken), number])
            b.subscribed()
            b.busy(0.3)
            broken.touch()
            b.busy(1.5)
            if stop:
                assert b.daemon.stop() == 1
            broken.unlink()
        end(b)


def disk_turns_read_only(b: Bench) -> None:
    """The kernel makes it so after an error, with the files open, and until it is mounted anew."""
    with _own_disk(b, "ext4") as disk:
        assert disk is not None, "mounting a file system needs root"
        run(b)
        disks.break_ext4(disk)
        b.busy(2.0)
        assert b.daemon.stop() == 1
        assert b.start().status() == 1
        b.how = "stopped, exit code 1"
        disks.unmount(disk)
        assert disks.mount(disk, "ext4")
        b.start()
        end(b)


@contextmanager
def _own_disk(b: Bench, kind: str = "tmpfs") -> Iterator[Path | None]:
    """The state file is on a file system of its own, if this user may mount one."""
    disk = b.rig.folder / "disk"
    disk.mkdir()
    b.rig.state_file = disk / "p.state"
    if not disks.mount(disk, kind):
        yield None
        return
    try:
        yield disk
    finally:
        b.daemon.kill()
        saved = [(f.name, f.read_bytes()) for f in disk.glob("p.state*")]
        disks.unmount(disk)
        for name, content in saved:
            (disk / name).write_bytes(content)
