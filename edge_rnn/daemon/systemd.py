"""Telling systemd how we are; without systemd, nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send a state such as "READY=1" to the service manager named by $NOTIFY_SOCKET.

    "WATCHDOG=1" goes out only when the manager watches.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or (state == "WATCHDOG=1" and "WATCHDOG_USEC" not in os.environ):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.sendto(state.encode(), address)
