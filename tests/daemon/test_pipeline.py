from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn import turns
from edge_rnn.graph import Pool
from edge_rnn.journal import Saved
from edge_rnn.messages import Message, Spec
from edge_rnn.ordering import Gap
from edge_rnn.pipeline import Pipeline
from edge_rnn.session import Session
from tests.effort import examples

BAD = [
    ("in/d0", b"nonsense", "not_json"),
    ("in/d0", b'{"a": 1}', "missing_field"),
    ("in/d0", b'{"a": 1, "b": true}', "wrong_type"),
    ("in/d0", b'{"a": 1, "b": 1e39}', "not_finite"),
    ("in/d0", b" " * 70_000, "too_large"),
    ("in/", b'{"a": 1, "b": 1}', "bad_topic"),
    ("elsewhere", b'{"a": 1, "b": 1}', "bad_topic"),
]


def feed(pipeline, messages, now=0.0):
    return pipeline.feed([Message(*m) for m in messages], now)


def bytes_out(results):
    return [(p.topic, p.payload) for r in results for p in r.predictions]


def values(answers):
    """The values of answers (stream, n, payload)."""
    return [msgspec.json.decode(payload)["values"] for _, _, payload in answers]


def cut(items, places):
    edges = [0, *sorted(places), len(items)]
    return [items[a:b] for a, b in pairwise(edges)]


def test_answers_are_the_sessions_bit_for_bit(model, spec, samples):
    messages = samples(30)
    answers = [
        msgspec.json.decode(p) for _, p in bytes_out([feed(Pipeline(model, spec), messages)])
    ]
    for d in range(3):
        own = [m for t, m in messages if t == f"in/d{d}"]
        x = [[m["a"], m["b"]] for m in map(msgspec.json.decode, own)]
        y = Session(model).run("alone", x)
        mine = [a for a in answers if a["stream"] == f"d{d}"]
        assert np.array_equal(np.array([a["values"] for a in mine], np.float32), y)
        assert [a["n"] for a in mine] == list(range(1, 11))
        assert [a["timestamp"] for a in mine] == list(range(d, 30, 3))
        assert [a["label"] for a in mine] == ["uvw"[i] for i in y.argmax(axis=1)]


def test_interleaved_streams_equal_separate_ones(model, spec, samples):
    messages = samples(30)
    together = bytes_out([feed(Pipeline(model, spec), messages)])
    for d in range(3):
        alone = bytes_out(
            [feed(Pipeline(model, spec), [m for m in messages if m[0] == f"in/d{d}"])]
        )
        assert [m for m in together if m[0] == f"out/d{d}"] == alone


@examples(40)
@given(places=st.lists(st.integers(0, 60), max_size=8), capacity=st.integers(1, 5))
def test_any_cut_into_batches_gives_the_same_answers(model, spec, samples, places, capacity):
    messages = samples(60, devices=4)
    order = np.random.default_rng(1).permutation(60)
    messages = [messages[i] for i in order]
    spec = replace(spec, capacity=capacity)
    whole, pieces = Pipeline(model, spec), Pipeline(model, spec)
    one = feed(whole, messages)
    many = [feed(pieces, part) for part in cut(messages, places)]
    assert bytes_out([one]) == bytes_out(many)
    assert one.evictions == [e for r in many for e in r.evictions]
    assert whole.changes() == pieces.changes()


@pytest.mark.parametrize(("topic", "payload", "reason"), BAD)
def test_a_bad_message_changes_nothing_but_its_own_count(
    model, spec, samples, topic, payload, reason
):
    messages = samples(9)
    clean = feed(Pipeline(model, spec), messages)
    dirty = feed(Pipeline(model, spec), [*messages[:4], (topic, payload), *messages[4:]])
    assert dirty.predictions == clean.predictions
    assert [(r.reason, r.message.payload) for r in dirty.rejected] == [(reason, payload)]


def test_a_bad_index_never_reaches_the_session(vocabulary_model):
    spec = Spec(topics=["in/{d}"], output="out/{d}", array="$")
    pipeline = Pipeline(vocabulary_model, spec)
    result = feed(pipeline, [("in/a", b"[1, 4]"), ("in/a", b"[1, 5]"), ("in/b", b"[1, 0]")])
    assert [p.stream for p in result.predictions] == ["a", "b"]
    assert [r.reason for r in result.rejected] == ["bad_index"]


def test_retained_messages_are_taken_only_when_asked_for(model, spec):
    old = Message("in/a", b'{"a": 1, "b": 2}', True)
    ignored = Pipeline(model, spec).feed([old], 0.0)
    assert ([r.reason for r in ignored.rejected], ignored.predictions) == (["retained"], [])
    taken = Pipeline(model, replace(spec, retained=True)).feed([old], 0.0)
    assert (taken.rejected, len(taken.predictions)) == ([], 1)


@pytest.mark.parametrize("places", [[], [64], [65], [66], [10, 65, 80]])
def test_a_stream_that_diverges_starts_anew_alone(diverging_model, places):
    spec = Spec(topics=["in/{d}"], output="out/{d}", fields=["$"])
    messages = [(f"in/{d}", b"1") for _ in range(70) for d in "ab"]
    messages = [m for i, m in enumerate(messages) if m[0] == "in/a" or i < 40]
    pipeline = Pipeline(diverging_model, spec)
    results = [feed(pipeline, part) for part in cut(messages, places)]
    answers = [(p.stream, p.n, p.payload) for r in results for p in r.predictions]
    a = [x for x in answers if x[0] == "a"]
    rejected = [r for result in results for r in result.rejected]
    assert [r.reason for r in rejected] == ["diverged"]
    assert [n for _, n, _ in a] == [*range(1, 65), *range(1, 6)]
    assert values(a[64:]) == values(a[:5])
    assert [msgspec.json.decode(p).get("run", 0) for _, _, p in a] == [0] * 64 + [1] * 5
    assert [n for s, n, _ in answers if s == "b"] == list(range(1, 21))
    states = {s.stream: s.steps for s in pipeline.changes().states}
    assert states == {"a": 5, "b": 20}


@examples(40)
@given(places=st.lists(st.integers(0, 60), max_size=8), capacity=st.integers(2, 4))
def test_a_message_at_a_step_without_output_is_counted_and_not_answered(
    strided_model, spec, samples, places, capacity
):
    """Two streams of steps 0 to 29, answered at steps 3, 6, 9, ... counted from 0."""
    messages = samples(60, devices=2)
    pipeline = Pipeline(strided_model, replace(spec, capacity=capacity))
    results = [feed(pipeline, part) for part in cut(messages, places)]
    assert [r for result in results for r in result.rejected] == []
    answers = [msgspec.json.decode(p) for _, p in bytes_out(results)]
    for d in range(2):
        own = [msgspec.json.decode(m) for _, m in messages[d::2]]
        y = Session(strided_model).run("alone", [[m["a"], m["b"]] for m in own])
        mine = [a for a in answers if a["stream"] == f"d{d}"]
        assert [a["n"] for a in mine] == list(range(4, 31, 3))
        assert [a["timestamp"] for a in mine] == [own[a["n"] - 1]["t"] for a in mine]
        assert np.array_equal(np.array([a["values"] for a in mine], np.float32), y)
    assert {s.stream: s.steps for s in pipeline.changes().states} == {"d0": 30, "d1": 30}


def test_a_stream_without_an_output_yet_is_saved_and_continues(strided_model, spec, samples):
    messages = samples(5, devices=1)
    first, second = Pipeline(strided_model, spec), Pipeline(strided_model, spec)
    assert feed(first, messages[:2]).predictions == []
    states = first.changes().states
    assert [(s.stream, s.steps) for s in states] == [("d0", 2)]
    second.load(Saved(states))
    whole = feed(Pipeline(strided_model, spec), messages)
    assert feed(second, messages[2:]).predictions == whole.predictions
    assert [p.n for p in whole.predictions] == [4]


@pytest.mark.parametrize("places", [[], [60], [64], [65], [66, 67], [10, 65, 80]])
def test_a_stream_that_diverges_between_outputs_starts_anew_at_the_next(diverging_model, places):
    """The cell overflows at step 64, counted from 0, and is read at 63 and at 66."""
    pool = Pool("p", "r", "max", 1, 3)
    model = replace(diverging_model, nodes=(*diverging_model.nodes, pool), outputs=("p",))
    pipeline = Pipeline(model, Spec(topics=["in/{d}"], output="out/{d}", fields=["$"]))
    messages = [(f"in/{d}", b"1") for _ in range(73) for d in "ab"]
    messages = [m for i, m in enumerate(messages) if m[0] == "in/a" or i < 40]
    results = [feed(pipeline, part) for part in cut(messages, places)]
    answers = [(p.stream, p.n, p.payload) for r in results for p in r.predictions]
    a = [x for x in answers if x[0] == "a"]
    assert [r.reason for result in results for r in result.rejected] == ["diverged"]
    assert [n for _, n, _ in a] == [*range(1, 65, 3), 1, 4]
    assert values(a[22:]) == values(a[:2])
    assert [n for s, n, _ in answers if s == "b"] == list(range(1, 21, 3))
    assert {s.stream: s.steps for s in pipeline.changes().states} == {"a": 6, "b": 20}


def test_eviction_is_reported_and_forgotten_in_the_journal(model, spec, samples):
    pipeline = Pipeline(model, replace(spec, capacity=2))
    assert feed(pipeline, samples(6)[:1]).predictions[0].n == 1
    pipeline.saved()
    result = feed(pipeline, samples(6)[1:])
    assert {e.reason for e in result.evictions} == {"capacity"}
    assert [e.stream for e in result.evictions] == ["d0", "d1", "d2", "d0"]
    assert all(p.n == 1 for p in result.predictions)
    changes = pipeline.changes()  # d1 was forgotten too, but the journal never knew it
    assert ([s.stream for s in changes.states], changes.forgotten) == (["d1", "d2"], ["d0"])


def test_idle_streams_are_forgotten_with_and_without_a_message(model, spec, samples):
    pipeline = Pipeline(model, replace(spec, ttl=10.0))
    feed(pipeline, samples(2, devices=2), now=0.0)
    assert pipeline.expire(10.0) == []
    pipeline.saved()
    feed(pipeline, samples(1), now=5.0)
    assert [e.stream for e in pipeline.expire(12.0)] == ["d1"]
    again = feed(pipeline, samples(1), now=100.0)
    assert [(e.stream, e.reason) for e in again.evictions] == [("d0", "idle")]
    assert again.predictions[0].n == 1
    assert pipeline.changes().forgotten == ["d1"]


def test_changes_carry_only_what_changed_and_load_continues(model, spec, samples):
    messages = samples(30)
    first, whole = Pipeline(model, spec), Pipeline(model, spec)
    feed(first, messages[:15])
    states = first.changes().states
    first.saved()
    assert first.changes().states == []
    feed(first, messages[15:16])
    assert [s.stream for s in first.changes().states] == ["d0"]

    second = Pipeline(model, spec)
    assert second.load(Saved(states)) == []
    feed(whole, messages[:15])
    assert bytes_out([feed(second, messages[15:])]) == bytes_out([feed(whole, messages[15:])])


def test_loading_more_streams_than_fit_keeps_the_latest(model, spec, samples):
    pipeline = Pipeline(model, spec)
    feed(pipeline, samples(5, devices=5))
    small = Pipeline(model, replace(spec, capacity=2))
    evicted = small.load(Saved(pipeline.changes().states))
    assert [e.stream for e in evicted] == ["d0", "d1", "d2"]
    assert small.changes().forgotten == ["d0", "d1", "d2"]
    assert small.streams == 2


def test_names_with_dots_are_names_when_they_come_from_the_model(model, spec):
    odd = replace(
        model, features=tuple(replace(f, name=f"imu.{f.name}[g]") for f in model.features)
    )
    result = feed(Pipeline(odd, spec), [("in/a", b'{"imu.a[g]": 1, "imu.b[g]": 2}')])
    assert len(result.predictions) == 1


def test_a_model_without_names_needs_fields(model, spec):
    with pytest.raises(ValueError, match="does not name its 2 features"):
        Pipeline(replace(model, features=()), spec)


@pytest.fixture(scope="module")
def numbered(spec):
    return replace(spec, sequence="q", hold=5.0)


def counted(samples, n=12, devices=2):
    """Messages of numbered streams: device d's k-th has the number k."""
    found = []
    for i, (topic, payload) in enumerate(samples(n, devices=devices)):
        found.append((topic, payload[:-1] + b', "q": %d}' % (i // devices + 1)))
    return found


@examples(25)
@given(data=st.data())
def test_whatever_the_broker_repeats_and_swaps_the_answers_are_the_same(
    model, numbered, samples, data
):
    messages = counted(samples)
    again = data.draw(st.lists(st.sampled_from(messages), max_size=12))
    shuffled = messages[:2] + data.draw(st.permutations(messages[2:] + again))
    places = data.draw(st.lists(st.integers(2, len(shuffled)), max_size=6))
    clean = feed(Pipeline(model, numbered), messages)
    pipeline = Pipeline(model, numbered)
    results = [feed(pipeline, part) for part in cut(shuffled, places)]
    for device in range(2):
        topic = f"out/d{device}"
        expected = [m for m in bytes_out([clean]) if m[0] == topic]
        assert [m for m in bytes_out(results) if m[0] == topic] == expected
    assert sum(len(r.duplicates) for r in results) == len(again)
    assert not [g for r in results for g in r.gaps]


@examples(25)
@given(data=st.data())
def test_killed_between_any_commits_nothing_is_lost_or_stepped_twice(
    model, numbered, samples, data
):
    """Each transaction is kept; what came after the last one comes again, in any order."""
    messages = counted(samples)
    clean = sorted(bytes_out([feed(Pipeline(model, numbered), messages)]))
    todo, states, marks, held, out = list(messages), {}, {}, {}, []
    while todo:
        pipeline = Pipeline(model, numbered)
        pipeline.load(Saved(list(states.values()), list(marks.values()), list(held.values())))
        for _ in range(data.draw(st.integers(1, 3))):
            first = [m for m in messages[:2] if m in todo]
            batch = first or [m for m in todo if data.draw(st.booleans())] or todo[:1]
            result = feed(pipeline, batch)
            if data.draw(st.booleans()):
                break  # killed before the commit
            commit = pipeline.changes()
            pipeline.saved()
            states.update((s.stream, s) for s in commit.states)
            marks.update((m.stream, m) for m in commit.marks)
            held.update(((h.stream, h.epoch, h.sequence), h) for h in commit.held)
            for key in commit.released:
                del held[key]
            out += bytes_out([result])
            if data.draw(st.booleans()):
                break  # killed before the acknowledgement
            todo = [m for m in todo if m not in batch]
    assert sorted(out) == clean and not held


def test_a_message_that_never_comes_is_told_and_the_policy_applied(model, numbered, samples):
    messages = [m for m in counted(samples, devices=1) if b'"q": 4}' not in m[1]]
    alone = [m for _, m in bytes_out([feed(Pipeline(model, numbered), messages[:3])])]
    for policy in ("flag", "reset", "stop"):
        pipeline = Pipeline(model, replace(numbered, on_gap=policy))
        now = feed(pipeline, messages, now=1.0)
        assert [m for _, m in bytes_out([now])] == alone and pipeline.due() == 6.0
        late = feed(pipeline, [], now=6.0)
        assert late.gaps == [Gap("d0", 0, 4, 4)]
        answers = [msgspec.json.decode(p) for _, p in bytes_out([late])]
        steps = [(a.get("run", 0), a["n"], a["sequence"]) for a in answers]
        if policy == "flag":
            assert steps == [(0, n, n + 1) for n in range(4, 12)]
        elif policy == "reset":
            assert steps == [(1, n, n + 4) for n in range(1, 9)]
            x = [msgspec.json.decode(m) for _, m in messages[3:]]
            y = Session(model).run("alone", [[m["a"], m["b"]] for m in x])
            assert np.array_equal(np.array([a["values"] for a in answers], np.float32), y)
        else:
            assert steps == [] and {r.reason for r in late.rejected} == {"stopped"}
            assert [m.stopped for m in pipeline.changes().marks] == [True]


def test_a_message_that_can_not_be_used_is_not_missing(model, numbered):
    bad = ("in/a", b'{"a": true, "b": 1, "q": 2}')
    messages = [("in/a", b'{"a": 1, "b": 1, "q": %d}' % q) for q in (1, 3)]
    result = feed(Pipeline(model, numbered), [messages[0], bad, messages[1]])
    assert [p.n for p in result.predictions] == [1, 2]
    assert [r.reason for r in result.rejected] == ["wrong_type"]


@pytest.mark.parametrize("number", ["-1", "1.5", '"3"', "true", "null", "9223372036854775808"])
def test_a_number_that_is_none(model, numbered, number):
    payload = b'{"a": 1, "b": 1, "q": %s}' % number.encode()
    result = feed(Pipeline(model, numbered), [("in/a", payload)])
    assert [r.reason for r in result.rejected] == ["wrong_type"]


def test_a_late_duplicate_of_a_forgotten_stream_opens_none(model, numbered, samples):
    messages = counted(samples, 9, devices=3)
    pipeline = Pipeline(model, replace(numbered, capacity=2))
    feed(pipeline, messages)
    assert len(feed(pipeline, messages).duplicates) == 9
    again = feed(pipeline, [("in/d0", b'{"a": 1, "b": 1, "t": 0, "q": 4}')])
    assert [(p.stream, p.run > 0, p.n) for p in again.predictions] == [("d0", True, 1)]


def test_times_tell_duplicates(model, spec, samples):
    pipeline = Pipeline(model, replace(spec, increasing="t", timestamp="t"))
    messages = samples(6, devices=1)
    first = feed(pipeline, messages)
    assert [p.n for p in first.predictions] == [1, 2, 3, 4, 5, 6]
    assert len(feed(pipeline, messages).duplicates) == 6


def test_a_stream_that_lives_again_keeps_its_run(model, spec, monkeypatch):
    """However many others are forgotten meanwhile: a mark may go only while there is no state."""
    monkeypatch.setattr(turns, "_REMEMBERED", 0)
    pipeline = Pipeline(model, replace(spec, capacity=2))
    names = ["d0", "d1", "d2"] + [name for i in range(3, 60) for name in ("d0", f"d{i}")]
    result = feed(pipeline, [(f"in/{name}", b'{"a": 1, "b": 1}') for name in names])
    assert [p.run for p in result.predictions if p.stream == "d0"] == [0] + 57 * [1]
    assert len(pipeline.changes().dropped) == 58 - 20


def test_a_restart_is_a_sign_of_life(model, spec, samples):
    """A monotonic clock may have run for long."""
    spec = replace(spec, ttl=10.0)
    before, after = Pipeline(model, spec), Pipeline(model, spec)
    feed(before, samples(3), 5000.0)
    after.load(Saved(before.changes().states), 9000.0)
    assert after.expire(9009.0) == []
    assert [p.n for p in feed(after, samples(3), 9009.0).predictions] == [2, 2, 2]
    assert len(after.expire(9020.0)) == 3


def test_numbers_in_user_properties_are_as_good_as_those_in_payloads(model, spec):
    """Out of order, twice, useless in between, and with a restart while messages wait."""
    order = [1, 3, 3, 2, 2, 6, 5, 8, 4, 7, 9, 1]
    stamped = replace(spec, sequence="property:q", epoch="property:e", hold=60.0)
    plain = replace(spec, sequence="q", epoch="e", hold=60.0)

    def message(n, number):
        bad = {"a": "useless"} if n == 5 else {"a": n, "b": -n}
        return Message("in/d", msgspec.json.encode(bad | number[0]), properties=number[1])

    ours = [message(n, ({}, (("q", str(n)), ("x", "y"), ("e", "3")))) for n in order]
    theirs = [message(n, ({"q": n, "e": 3}, ())) for n in order]
    expected = Pipeline(model, plain).feed(theirs, 0.0)
    first, again = Pipeline(model, stamped), Pipeline(model, stamped)
    early = first.feed(ours[:7], 0.0)
    c = first.changes()
    assert c.held
    again.load(Saved(c.states, c.marks, c.held), 0.0)
    late = again.feed(ours[7:], 0.0)
    assert early.predictions + late.predictions == expected.predictions
    assert [r.reason for r in [*early.rejected, *late.rejected]] == ["wrong_type"]
    assert len(early.duplicates) + len(late.duplicates) == len(expected.duplicates) == 3


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ((), "missing_field"),
        ((("q", "-1"),), "wrong_type"),
        ((("q", "1.5"),), "wrong_type"),
        ((("q", "9" * 5000),), "wrong_type"),
        ((("q", "\u0661"),), "wrong_type"),
    ],
)
def test_a_user_property_that_is_no_number_changes_nothing(model, spec, properties, reason):
    pipeline = Pipeline(model, replace(spec, sequence="property:q"))
    result = pipeline.feed([Message("in/d", b'{"a": 1, "b": 2}', properties=properties)], 0.0)
    assert [r.reason for r in result.rejected] == [reason]
    assert not pipeline.changes()
