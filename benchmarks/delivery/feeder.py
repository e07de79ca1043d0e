"""Feeds sensor messages and counts the answers, over one connection that carries MQTT.

    python -m benchmarks.delivery.feeder --port 1883 --listen

With --listen it is the broker itself, for one client, so that no broker's speed is measured; else
it is a client of one. `--about` messages are on their way at most, from here through the measured
process back to here: the queues between are never full, and every message must be answered. Prints
a JSON object. Versions 3.1.1 and 5 of MQTT; it knows the packets that the measured processes send
and no others.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import click
import msgspec

NAMES = ("ax", "ay", "az", "gx", "gy", "gz")
STREAMS = 1000
SILENCE = 30.0
"""Seconds without an answer after which the run has failed."""
AT_ONCE = 500
COMPARED = 5
"""Steps of each device after which its prediction is told."""


def readings(count: int) -> list[tuple[bytes, bytes]]:
    """(topic, payload) of 1,000 devices in turn: six signals and a number, 80 bytes of JSON."""
    rng = random.Random(0)  # noqa: S311 - no secret
    signals = [
        b",".join(b'"%s":%.4g' % (name.encode(), rng.gauss(0, 1)) for name in NAMES)
        for _ in range(997)
    ]
    return [
        (
            b"sensors/dev-%d/imu" % (i % STREAMS),
            b'{"q":%d,%s}' % (i // STREAMS + 1, signals[i % len(signals)]),
        )
        for i in range(count)
    ]


def publish(topic: bytes, payload: bytes, qos: int, mid: int, v5: bool) -> bytes:
    """A PUBLISH packet of at most 16 KB."""
    head = struct.pack(">H", len(topic)) + topic + (struct.pack(">H", mid) if qos else b"")
    return packet(0x30 | qos << 1, head + b"\0" * v5 + payload)


def packet(first: int, body: bytes) -> bytes:
    """A packet of at most 16 KB."""
    n = len(body)
    size = bytes([n]) if n < 128 else bytes([n & 127 | 128, n >> 7])
    return bytes([first]) + size + body


def cpu_seconds(pid: int) -> float:
    """CPU time that all threads of a process have had, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(t.read_text().split()[0]) for t in tasks) / 1e9


class Feeder:
    """One connection that is up. rate: messages a second, 0 for as many as are answered."""

    def __init__(self, sock: socket.socket, qos: int, count: int, about: int, rate: float) -> None:
        self.sock, self.qos, self.count, self.about, self.rate = sock, qos, count, about, rate
        self.v5, self.started = True, False
        self.sent = self.answered = 0
        self.last: dict[str, bytes] = {}
        self.waits: list[float] = []
        self._sent_at: deque[float] = deque()
        self._in, self._out = b"", b""
        self._packets: list[bytes] = []
        self._begin = 0.0

    def hello(self, wanted: bytes) -> None:
        """Be a client, which wants what comes to these topics."""
        body = b"\0\4MQTT\5\2\0\0" + b"\0" + b"\0\6feeder"
        self.sock.sendall(packet(0x10, body))
        topic = struct.pack(">H", len(wanted)) + wanted
        self.sock.sendall(packet(0x82, b"\0\1" + b"\0" + topic + bytes([self.qos])))

    def go(self, until: int) -> None:
        """Until so many messages are answered."""
        heard = time.monotonic()
        self._begin = time.perf_counter() - self.sent / self.rate if self.rate else 0.0
        while self.answered < until:
            may = self._may(until)
            timeout = self._due() if self.rate and self.started else 1.0
            ready = select.select([self.sock], [self.sock] if self._out or may else [], [], timeout)
            if ready[0]:
                self._read()
                heard = time.monotonic()
            if may:
                self._put(may)
            if self._out:
                self._write()
            if time.monotonic() - heard > SILENCE:
                raise SystemExit(f"{self.sent} sent, {self.answered} answered: no more come")

    def _may(self, until: int) -> int:
        """How many messages may be sent now."""
        if not self.started:
            return 0
        room = min(until - self.sent, self.about - (self.sent - self.answered))
        if self.rate:
            passed = time.perf_counter() - self._begin
            return min(room, max(0, int(passed * self.rate) + 1 - self.sent))
        return (
            room
            if room >= min(AT_ONCE, self.about // 4, until - self.sent) and not self._out
            else 0
        )

    def _due(self) -> float:
        return max(0.0, self._begin + self.sent / self.rate - time.perf_counter())

    def _put(self, n: int) -> None:
        n = min(n, AT_ONCE)
        if not self._packets:
            self._packets = [
                publish(topic, payload, self.qos, i % 65535 + 1, self.v5)
                for i, (topic, payload) in enumerate(readings(self.count))
            ]
            self._begin = time.perf_counter()
        self._out += b"".join(self._packets[self.sent : self.sent + n])
        if self.rate:
            self._sent_at.extend([time.perf_counter()] * n)
        self.sent += n

    def _write(self) -> None:
        with suppress(BlockingIOError):
            self._out = self._out[self.sock.send(self._out) :]

    def _read(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise SystemExit("the other side has closed the connection")
        buffer, at, replies = self._in + data, 0, []
        while (end := self._end(buffer, at)) <= len(buffer):
            size = 2 if buffer[at + 1] < 128 else 3
            replies.append(self._take(buffer[at], buffer[at + size : end]))
            at = end
        self._in = buffer[at:]
        self._out += b"".join(replies)

    def _end(self, buffer: bytes, at: int) -> int:
        """Where the packet ends; beyond the buffer, if that is not whole."""
        if len(buffer) - at < 3:
            return at + (2 if buffer[at + 1 : at + 2] == b"\0" else 3)
        n = buffer[at + 1]
        return at + 2 + n if n < 128 else at + 3 + (n & 127 | buffer[at + 2] << 7)

    def _take(self, first: int, body: bytes) -> bytes:
        """What to reply."""
        kind = first >> 4
        if kind == 3:
            return self._answer(first, body)
        if kind == 1:
            self.v5 = body[6] == 5
            return b"\x20\3\0\0\0" if self.v5 else b"\x20\2\0\0"
        if kind == 8:
            self.started = True
            filters = body[3:] if self.v5 else body[2:]
            granted = bytes([filters[-1] & 3])
            return packet(0x90, body[:2] + b"\0" * self.v5 + granted)
        if kind == 9:
            self.started = True
        return b"\xd0\0" if kind == 12 else b""

    def _answer(self, first: int, body: bytes) -> bytes:
        self.answered += 1
        if self.rate:
            self.waits.append(time.perf_counter() - self._sent_at.popleft())
        if self.answered <= COMPARED * STREAMS:
            payload = body[body.index(b'{"') :]
            self.last[body[2 : 2 + body[1]].decode()] = payload
        if not first & 6:
            return b""
        n = 2 + int.from_bytes(body[:2], "big")
        return b"\x40\2" + body[n : n + 2]


def connection(port: int, listen: bool) -> socket.socket:
    """To the broker, or from the one client."""
    if not listen:
        return socket.create_connection(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)) as server:
        click.echo("up")
        return server.accept()[0]


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--listen", is_flag=True)
@click.option("--alone", is_flag=True, help="Nobody answers: have the messages come back.")
@click.option("--qos", type=int, default=1)
@click.option("--count", type=int, default=100_000)
@click.option("--warm", type=int, default=10_000, help="Messages before the measured ones.")
@click.option("--about", type=int, default=1000)
@click.option("--rate", type=float, default=0.0)
@click.option("--pid", type=int, multiple=True, help="Whose CPU time to tell.")
@click.option("--pid-file", type=click.Path(path_type=Path), help="Where to find one.")
def main(
    port: int, listen: bool, alone: bool, qos: int, count: int, warm: int, about: int,
    rate: float, pid: tuple[int, ...], pid_file: Path | None,
) -> None:  # fmt: skip
    """Feed, and print what came of it."""
    sock = connection(port, listen)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    feeder = Feeder(sock, qos, warm + count, about, rate)
    if not listen:
        feeder.hello(b"sensors/#" if alone else b"predictions/#")
    sock.setblocking(False)
    feeder.go(warm)
    feeder.waits.clear()
    pids = [*pid, *([int(pid_file.read_text())] if pid_file else [])]
    start, before = time.perf_counter(), [cpu_seconds(p) for p in pids]
    feeder.go(warm + count)
    seconds, after = time.perf_counter() - start, [cpu_seconds(p) for p in pids]
    told = {
        "seconds": seconds,
        "cpu": [b - a for a, b in zip(before, after, strict=True)],
        "waits": feeder.waits,
        "last": {k: msgspec.json.decode(v).get("values") for k, v in feeder.last.items()},
    }
    click.echo(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
