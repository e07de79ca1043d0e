"""How often the journal is written, and what waits for it."""

import logging
from itertools import pairwise
from pathlib import Path

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_rnn.daemon.pace import Pace
from edge_rnn.journal import Journal
from edge_rnn.messages import Message, Spec
from edge_rnn.pipeline import Pipeline
from tests.daemon.conftest import wait_until

DAY = 86400.0
SPEC = Spec(topics=["in/{device}"], output="out/{device}", sequence="q")


def written(days, budget, least=0.0, busy=lambda now: True):
    """Commits as often as allowed -> (time, bytes) of each: 28 kB, and SQLite's checkpoints."""
    total = 0
    pace = Pace(least, budget, 0.0, buys="{}", written=lambda: total)
    now, done = 0.0, []
    while now < days * DAY:
        if busy(now):
            cost = 28_672 + (2_000_000 if len(done) % 140 == 139 else 0)
            total += cost
            pace.committed(now)
            done.append((now, cost))
        now += max(pace.interval, 0.2)
    return done


@pytest.mark.parametrize("megabytes", [50, 500, 2000])
def test_no_day_exceeds_the_budget_and_little_of_it_is_left(megabytes):
    commits = written(3, megabytes * 1e6 / DAY)
    for hour in range(0, 48, 6):
        day = sum(b for t, b in commits if hour * 3600 <= t < hour * 3600 + DAY)
        assert 0.85 * megabytes * 1e6 < day <= megabytes * 1e6


def test_what_an_idle_time_leaves_is_used_but_not_more_than_an_hour_of_it():
    budget = 500e6 / DAY
    commits = written(2, budget, busy=lambda now: now > DAY)
    first = [b for t, b in commits if t < DAY + 3600]
    assert 1.3 * 3600 * budget < sum(first) < 2 * 3600 * budget
    assert 0.9 * 500e6 < sum(b for _, b in commits) <= 500e6


def test_a_budget_that_is_larger_than_what_is_written_changes_nothing():
    commits = written(0.01, 1e9, least=0.3)
    times = [t for t, _ in commits]
    assert all(0.299 < b - a < 0.301 for a, b in pairwise(times))


def test_the_log_says_what_a_budget_comes_to(caplog):
    caplog.set_level(logging.INFO)
    written(0.2, 500e6 / DAY)
    assert caplog.messages
    assert "writes 29 kB, so there is one about every 5.2 s: 5.2 s" in caplog.messages[0]
    assert len(caplog.messages) <= 2
    caplog.clear()
    uncounted = Pace(0.1, 1.0, 0.0, buys="{}", written=lambda: 0)
    for now in range(20):
        uncounted.committed(float(now))
    assert "no bytes written are counted here" in caplog.text
    assert uncounted.interval == 0.1


def test_answers_wait_an_hour_for_a_budget_and_no_longer(caplog):
    total = 0
    pace = Pace(0.0, 100e3 / DAY, 0.0, buys="{}", most=3600.0, written=lambda: total)
    for hour in range(1, 30):
        total += 28_672
        pace.committed(3600.0 * hour)
        assert pace.interval == 3600.0
    assert caplog.messages == ["state.write_budget can't be kept: a commit writes 29 kB, and there "
                               "is one every 3600 s, for answers wait no longer"]  # fmt: skip


def numbered(count, devices=2):
    return [
        (f"in/d{i % devices}", msgspec.json.encode({"a": 0.1 * i, "b": 1.0, "q": i // devices + 1}))
        for i in range(count)
    ]


def answers(model, messages):
    fed = Pipeline(model, SPEC).feed([Message(*m) for m in messages], 0.0)
    return sorted((p.topic, p.payload) for p in fed.predictions)


TOLD = 'stats_every = "100ms"'
"""What a daemon has taken is in its log then, answered or not."""


def seen(user):
    return sorted({m for m in user.messages if m[0].startswith("out/")})


def test_commits_in_groups_lose_and_double_nothing(
    mosquitto, client, daemon, write_config, model, tmp_path
):
    broker = mosquitto("allow_anonymous true\nmax_inflight_messages 0")
    user = client(broker.port)
    config = write_config(broker.port, input='sequence = "q"', state='commit_every = "400ms"')
    messages = numbered(90)
    d = daemon(config).wait_ready()
    for m in messages[:30]:
        user.publish(*m)
    user.wait(20, "out/")
    for m in messages[30:60]:
        user.publish(*m)
    d.kill()  # some are stepped and not committed: the broker sends them again
    d = daemon(config).wait_ready()
    for m in messages[60:]:
        user.publish(*m)
    wait_until("all answers", lambda: len(seen(user)) == 90)
    stats = d.stop()
    assert seen(user) == answers(model, messages)
    assert 1 <= stats["saves"] < stats["received"] / 2
    assert stats["written_bytes"] >= 0
    d = daemon(config).wait_ready()  # all was acknowledged: nothing comes again
    assert d.stop()["received"] == 0


def test_a_connection_lost_between_step_and_commit_costs_nothing(
    mosquitto, client, daemon, write_config, model
):
    broker = mosquitto("allow_anonymous true\nmax_inflight_messages 0")
    user = client(broker.port)
    identity = '[broker]\nclient_id = "us"\n'
    config = write_config(broker.port, input='sequence = "q"', state='commit_every = "5s"')
    config.write_text(config.read_text().replace("[broker]\n", identity))
    messages = numbered(60)
    d = daemon(config).wait_ready()
    user.publish(*messages[0])
    user.wait(1, "out/")  # from now on a commit is five seconds away
    for m in messages[1:40]:
        user.publish(*m)
    thief = paho.Client(CallbackAPIVersion.VERSION2, "us", clean_session=False, manual_ack=True)
    thief.connect("127.0.0.1", broker.port)
    thief.loop_start()
    d.wait_log("next try in")
    thief.disconnect()
    thief.loop_stop()
    for m in messages[40:]:
        user.publish(*m)
    wait_until("all answers", lambda: len(seen(user)) == 60)
    stats = d.stop()
    assert seen(user) == answers(model, messages)
    assert stats["duplicates"] > 0
    d = daemon(config).wait_ready()
    assert d.stop()["received"] == 0


def test_a_full_queue_does_not_wait_for_the_next_commit(
    mosquitto, client, daemon, write_config, model
):
    broker = mosquitto()
    user = client(broker.port)
    config = write_config(broker.port, input='sequence = "q"', state='commit_every = "1h"',
                          more="[queue]\nsize = 10\n", log=TOLD)  # fmt: skip
    messages = numbered(41)
    d = daemon(config).wait_ready()
    for m in messages:
        user.publish(*m)
    user.wait(37, "out/")  # a message and its answer are two of the ten: up to four wait
    d.wait_log("received=41 ")
    d.stop()
    wait_until("the last ones", lambda: seen(user) == answers(model, messages))


def test_a_stop_does_not_wait_for_the_next_commit(mosquitto, client, daemon, write_config, model):
    broker = mosquitto("allow_anonymous true\nmax_inflight_messages 0")
    user = client(broker.port)
    config = write_config(broker.port, input='sequence = "q"', state='commit_every = "1h"',
                          log=TOLD)  # fmt: skip
    messages = numbered(20)
    d = daemon(config).wait_ready()
    user.publish(*messages[0])
    user.wait(1, "out/")
    for m in messages[1:]:
        user.publish(*m)
    d.wait_log("received=20 ")
    assert len(seen(user)) < 20
    d.stop()
    wait_until("all answers", lambda: seen(user) == answers(model, messages))
    journal = Journal(Path(config).with_suffix(".state"), model=Pipeline(model, SPEC).digest,
                      pipeline="p")  # fmt: skip
    with journal:
        assert not journal.outbox()
