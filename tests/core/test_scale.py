"""A million streams: what each costs in memory, and work that does not grow with their number."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from edge_rnn import Session
from edge_rnn.graph import Gru, Model
from edge_rnn.state import Eviction
from tests.core import models
from tests.effort import fewer

STREAMS, BLOCK = fewer(1_000_000), 10_000
H, I, TTL = 32, 6, 1e6


def gru() -> Model:
    """An int8 GRU with int8 activations, 128 bytes of state."""
    r = models.Random(0, "int8 int8")
    tensors = (r.matrix(3 * H, I), r.matrix(3 * H, H), r.vector(3 * H), r.vector(H))
    return models.model(Gru("gru", "x", *tensors, activations="int8"), width=I)


class Site:
    """A session full of streams, a second between one block of them and the next."""

    def __init__(self, streams: int) -> None:
        self.now, self.events = 0.0, list[Eviction]()
        self.session = Session(
            gru(), streams, ttl=TTL, clock=lambda: self.now, on_evict=self.events.append
        )
        self.table = self.session._store.table
        for first in range(0, streams, BLOCK):
            self.now += 1
            self.session.slots([sensor(k) for k in range(first, min(first + BLOCK, streams))])

    def work(self, action: Callable[[], Any]) -> tuple[int, int]:
        """How many calls an action makes and how many of the table's records it changes, without
        those of a garbage collection, which asks whoever wants to know of it."""
        calls, before = [0], self.table.copy()

        def count(frame: FrameType, event: str, arg: object) -> None:
            calls[0] += event in ("call", "c_call")

        gc.disable()
        sys.setprofile(count)
        try:
            action()
        finally:
            sys.setprofile(None)
            gc.enable()
        return calls[0], int(np.count_nonzero(before != self.table))


def sensor(k: int) -> str:
    return f"site/sensor-{k:07d}"


@pytest.fixture(scope="module")
def site() -> Site:
    return Site(STREAMS)


@pytest.mark.jit
@pytest.mark.process
def test_a_stream_takes_its_state_and_200_bytes() -> None:
    """Its id, the way from the id to the slot and the slot's bookkeeping included."""
    script = (
        "from tests.core import test_scale\n"
        "test_scale.Site(1000)\n"
        "before = test_scale.resident()\n"
        "site = test_scale.Site(1_000_000)\n"
        "print(test_scale.resident() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
    )
    state = Session(gru()).state_bytes
    assert state == 4 * H
    assert int(done.stdout) / 1e6 <= state + 200


def resident() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def test_sampled_streams_have_the_bits_of_a_small_session(site: Site) -> None:
    rng = np.random.default_rng(0)
    sample = [sensor(k) for k in rng.choice(STREAMS - 1000, fewer(500), replace=False) + 1000]
    x = rng.normal(0, 1, (3, len(sample), I)).astype(np.float32)
    small = Session(gru())
    for rows in x:
        assert site.session.step(sample, rows).tobytes() == small.step(sample, rows).tobytes()
    assert site.session.states(sample) == small.states(sample)
    assert len(site.session.streams) == STREAMS


def test_an_eviction_is_the_same_work_among_a_million(site: Site) -> None:
    few = Site(100)
    oldest = site.session.streams[:20]
    for k in range(20):
        work = site.work(lambda k=k: site.session.slots([f"new-{k}"]))
        assert work == few.work(lambda k=k: few.session.slots([f"new-{k}"]))
        assert work[1] <= 4  # the slot and its old neighbours, the newest, the ring's end
    assert [e.stream for e in site.events[-20:]] == oldest
    assert {e.reason for e in site.events[-20:]} == {"capacity"}


def test_expiry_is_work_for_each_expired_stream_only(site: Site) -> None:
    few, still, before = Site(100), Site(100), site.session.streams
    site.events.clear()
    few.now = few.now + TTL + 0.5
    calls, _ = few.work(lambda: few.session.slots([]))
    assert len(few.events) == 100
    site.now = 1 + TTL + 0.5  # only the first block was last seen before
    idle = site.table["open"].astype(bool) & (site.now - site.table["seen"] > TTL)
    expired = np.count_nonzero(idle)
    found, changed = site.work(lambda: site.session.slots([]))
    assert BLOCK // 2 < expired <= BLOCK
    assert [e.stream for e in site.events] == before[:expired]
    assert {e.reason for e in site.events} == {"idle"}
    assert changed == expired + 2  # the oldest that stays, and the ring's end
    assert found / expired <= calls / 100
    nothing = still.work(lambda: still.session.slots([]))
    assert site.work(lambda: site.session.slots([])) == nothing
