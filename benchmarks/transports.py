"""CPU time of the MQTT clients: a message received and acknowledged, a publication confirmed.

    python -m benchmarks.transports [--messages 20000] [--rounds 5] [--json]

A mosquitto on localhost holds QoS 1 messages of 80 bytes; a link takes and acknowledges them in
batches of 256, then publishes as many. Times are of this process alone, medians of rounds in which
the clients take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from edge_rnn.metrics import Metrics
from edge_rnn.mqtt import Inbox, Link, Settings
from edge_rnn_devices.broker import free_port

CLIENTS: dict[str, dict[str, Any]] = {
    "batch, MQTT 5": {"client": "batch", "protocol": "5"},
    "paho, MQTT 5": {"client": "paho", "protocol": "5"},
    "paho, MQTT 3.1.1": {"client": "paho", "protocol": "3.1.1"},
}
BATCH = 256
PAYLOAD = b'{"time": 1700000000.125, "x": 0.12345, "y": -1.23456, "z": 9.80665, "q": 123456}'


@contextmanager
def mosquitto(port: int) -> Iterator[None]:
    """A broker that bounds nothing."""
    found = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with tempfile.TemporaryDirectory() as folder:
        user = "user root\n" if os.geteuid() == 0 else ""
        config = Path(folder) / "mosquitto.conf"
        config.write_text(
            f"{user}listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            "max_queued_messages 0\nmax_inflight_messages 0\n"
        )
        process = subprocess.Popen(
            [found, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def link(port: int, client_id: str, inbox: Inbox, **settings: Any) -> Iterator[Link]:
    """A connection that is ready."""
    read, write = os.pipe()
    filters = ["in/+"] if inbox.size > 1 else []
    made = Link(
        Settings("127.0.0.1", port, client_id, filters, **settings),
        inbox,
        Metrics(),
        wakeup=read,
        clock=time.monotonic,
    )
    while not made.ready:
        made.poll(1.0, BATCH)
    yield made
    made.close()
    os.close(read)
    os.close(write)


def publish(port: int, topic: str, count: int, **settings: Any) -> float:
    """Publish so many, until all are confirmed -> microseconds of CPU each."""
    with link(port, "publisher", Inbox(1, "wait"), **settings) as to:
        start = time.process_time()
        left = count
        while left or to.busy:
            for _ in range(min(left, to.room, BATCH)):
                to.publish(topic, PAYLOAD, 1, False)
                left -= 1
            to.flush()
            to.poll(1.0 if not to.room or not left else 0.0, BATCH)
        return (time.process_time() - start) / count * 1e6


def receive(port: int, count: int, **settings: Any) -> float:
    """Let the broker keep so many, then take and acknowledge them -> microseconds of CPU each."""
    inbox = Inbox(65535, "wait")
    with link(port, "receiver", inbox, **settings):
        pass  # from now on the broker keeps our messages
    publish(port, "in/a", count, **CLIENTS["batch, MQTT 5"])
    start = time.process_time()
    with link(port, "receiver", inbox, **settings) as of:
        left = count
        while left:
            of.poll(0.0 if len(inbox) else 1.0, BATCH)
            batch = inbox.take(BATCH)
            of.ack(batch)
            of.flush()
            left -= len(batch)
        return (time.process_time() - start) / count * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    port = free_port()
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in CLIENTS}
    with mosquitto(port):
        for _ in range(options.rounds):
            for name, settings in CLIENTS.items():
                times[name][0].append(receive(port, options.messages, **settings))
                times[name][1].append(publish(port, "out/a", options.messages, **settings))
    rows = {
        name: {"received_us": round(median(r), 2), "published_us": round(median(p), 2)}
        for name, (r, p) in times.items()
    }
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'CPU time each, us':<20}{'received, acknowledged':>24}{'published':>12}")
    for name, row in rows.items():
        print(f"{name:<20}{row['received_us']:>24}{row['published_us']:>12}")


if __name__ == "__main__":
    main()
