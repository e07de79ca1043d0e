"""Recordings and tables through the pure pipeline: the same bits in any batches, at any speed."""

import os
import struct
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replay import main as benchmark
from edge_rnn.cli import cli
from edge_rnn.errors import RecordingError
from edge_rnn.messages import Message, Outgoing, Spec
from edge_rnn.pipeline import Pipeline
from edge_rnn.replay import Event, Header, Player, Reader, Table, Verifier, Writer
from edge_rnn.session import Session
from tests.effort import examples

HEADER = Header("p", 1e9, ["in/+"], ["out/+"])


def record(path, events, header=HEADER):
    with Writer(path, header) as w:
        w.append(events)
    return path


def events_of(samples, rate=10.0, start=1e9):
    return [Event("in", start + i / rate, t, p) for i, (t, p) in enumerate(samples)]


def played(pipeline, events, max_batch=1024):
    player = Player(pipeline, max_batch)
    return [p for part in player.play(events) for p in part], player.summary


def command(*args):
    return CliRunner().invoke(cli, ["replay", *map(str, args)])


def test_what_was_written_is_read(tmp_path):
    events = [
        Event("in", 1.5, "in/a", b"\0\xff", True, (("k", "v"),)),
        Event("break", 2.0),
        Event("out", 2.5, "out/ä", b""),
    ]
    path = record(tmp_path / "r", events)
    reader = Reader(path)
    assert (list(reader), reader.header, reader.torn) == (events, HEADER, 0)
    assert reader.position == reader.size and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        Writer(path, HEADER)


@examples(60)
@given(data=st.data())
def test_a_torn_or_damaged_end_is_left_out(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("torn") / "r"
    events = [Event("in", float(i), "in/a", b"x" * i) for i in range(20)]
    whole = record(path, events).read_bytes()
    start = len(record(path.with_name("empty"), []).read_bytes())
    cut = data.draw(st.integers(start, len(whole)))
    tail = data.draw(st.sampled_from([b"", b"\0" * 50, b"\xff" * 50, os.urandom(50)]))
    path.write_bytes(whole[:cut] + tail)
    reader = Reader(path)
    found = list(reader)
    assert found == events[: len(found)]
    kept = len(record(path.with_name("again"), found).read_bytes())
    assert reader.torn == cut + len(tail) - kept and kept <= cut


def test_no_size_is_believed(tmp_path):
    path = record(tmp_path / "r", [])
    with path.open("ab") as f:
        f.write(struct.pack("<II", 2**31, 0))
    assert list(Reader(path)) == []
    (tmp_path / "no").write_bytes(b"anything else")
    with pytest.raises(RecordingError, match="not a recording"):
        Reader(tmp_path / "no")


@examples(30)
@given(
    order=st.randoms(),
    max_batch=st.integers(1, 70),
    ttl=st.sampled_from([None, 0.35, 2.0]),
    capacity=st.integers(2, 5),
)
def test_any_batches_give_the_same_bytes(model, samples, order, max_batch, ttl, capacity):
    """With holds and idle streams that depend on time, too."""
    sent = [
        (t, msgspec.json.encode({**msgspec.json.decode(p), "s": 1 + i // 4}))
        for i, (t, p) in enumerate(samples(60, devices=4))
    ]
    moved = sorted(range(60), key=lambda i: i + order.choice([0, 0, 0, 3, 9, 1000]))
    spec = Spec(
        ["in/{device}"], "out/{device}", timestamp="t", sequence="s", hold=0.5, ttl=ttl,
        capacity=capacity,
    )  # fmt: skip
    events = events_of([sent[i] for i in moved], order.choice([5, 40, 1000]))
    one, whole = played(Pipeline(model, spec), events, 1)
    many, parts = played(Pipeline(model, spec), events, max_batch)
    assert [(p.topic, p.payload) for p in one] == [(p.topic, p.payload) for p in many]
    assert whole == parts


def test_time_is_the_recordings(model, spec, samples):
    x = samples(6, devices=1)
    ages = [0, 1, 2, 8, 9, 9.05]
    events = [Event("in", 1e9 + at, t, p) for at, (t, p) in zip(ages, x, strict=True)]
    answers, summary = played(Pipeline(model, replace(spec, ttl=5.0)), events)
    assert [(p.run, p.n) for p in answers] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    assert summary.evicted == {"idle": 1} and summary.seconds == pytest.approx(9.05)


def test_a_held_message_is_given_up_by_the_recordings_time(model, spec, samples):
    spec = replace(spec, sequence="s", hold=5.0)
    numbers, ages = [1, 3, 2, 4], [0, 1, 7, 8]
    events = [
        Event("in", 1e9 + at, t, msgspec.json.encode({**msgspec.json.decode(p), "s": s}))
        for s, at, (t, p) in zip(numbers, ages, samples(4, devices=1), strict=True)
    ]
    answers, summary = played(Pipeline(model, spec), events)
    assert [msgspec.json.decode(p.payload)["sequence"] for p in answers] == [1, 3, 4]
    assert (summary.gaps, summary.missing, summary.duplicates, summary.waiting) == (1, 1, 1, 0)


@pytest.fixture
def config(write_config):
    return write_config(1)


def recorded_run(tmp_path, model, spec, samples, change=None):
    events = events_of(samples(30))
    answers, _ = played(Pipeline(model, spec), events)
    out = [Event("out", 1e9 + 4, p.topic, p.payload) for p in answers]
    if change:
        change(out)
    return record(tmp_path / "r.rec", [*events, *out])


def test_verify_says_bit_identical(tmp_path, config, model, spec, samples):
    path = recorded_run(tmp_path, model, spec, samples, lambda out: out.append(out[3]))
    result = command(path, "--pipeline", config, "--verify")
    assert result.exit_code == 0, result.output
    assert "bit-identical: 30 predictions" in result.output and "recorded again" in result.output
    report = command(path, "--pipeline", config, "--verify", "--json", "--max-batch", 7).output
    found = msgspec.json.decode(report)
    assert found["verdict"]["compared"] == 30 and found["summary"]["messages"] == 30


def test_verify_names_the_first_difference(tmp_path, config, model, spec, samples):
    def change(out):
        p = out[17]
        out[17] = Event("out", p.at, p.topic, p.payload.replace(b'"label":"', b'"label":"x'))

    path = recorded_run(tmp_path, model, spec, samples, change)
    result = command(path, "--pipeline", config, "--verify")
    assert result.exit_code == 3
    assert "1 of 30 predictions differ, first at stream 'd2', run 0, n 6" in result.output


def test_verify_is_not_content_with_nothing(tmp_path, config, model, spec, samples):
    path = recorded_run(tmp_path, model, spec, samples, lambda out: out.clear())
    result = command(path, "--pipeline", config, "--verify")
    assert result.exit_code == 3 and "NOT verified: 0 predictions compared" in result.output
    quiet = record(tmp_path / "quiet", [], Header("p", 1e9, ["in/+"]))
    result = command(quiet, "--pipeline", config, "--verify")
    assert isinstance(result.exception, RecordingError) and "--output" in str(result.exception)

    def later(out):
        n = [b'"n":%d' % i for i in (1, 99)]
        out[0] = Event("out", 1e9, out[0].topic, out[0].payload.replace(*n))

    (tmp_path / "r.rec").unlink()
    path = recorded_run(tmp_path, model, spec, samples, later)
    result = command(path, "--pipeline", config, "--verify")
    assert result.exit_code == 3 and "recorded, but not replayed" in result.output


@examples(40)
@given(order=st.randoms(use_true_random=False), again=st.lists(st.integers(0, 19), max_size=9))
def test_predictions_meet_in_any_order(order, again):
    """Of both sides, resent ones too, as long as a stream's own come in order."""
    made = [Outgoing("out/a", b'{"stream":"a","n":%d}' % n, "a", n) for n in range(1, 21)]
    sides = [(p, "replayed") for p in made]
    for p in made:
        sides.insert(order.randrange(len(sides) + 1), (p, "recorded"))
    sides += [(made[i], "recorded") for i in again]
    verifier = Verifier()
    for p, side in sides:
        if side == "replayed":
            verifier.replayed(p)
        else:
            verifier.recorded(Event("out", 0.0, p.topic, p.payload))
    v = verifier.verdict()
    assert v.identical and (v.compared, v.repeated) == (20, len(again))


def test_a_table_gives_the_sessions_bits(tmp_path, config, model):
    x = np.random.default_rng(5).normal(size=(40, 2)).astype(np.float32)
    streams = ["d0", "d1"] * 20
    (tmp_path / "t.csv").write_text(
        "stream,timestamp,b,a\n"
        + "".join(f"{s},{1e9 + i},{float(b)!r},{float(a)!r}\n"
                  for i, (s, (a, b)) in enumerate(zip(streams, x, strict=True)))
    )  # fmt: skip
    np.savez(tmp_path / "t.npz", x=x, stream=np.array(streams), timestamp=1e9 + np.arange(40.0))
    outputs = []
    for name in ("t.csv", "t.npz"):
        out = tmp_path / f"{name}.ndjson"
        result = command(tmp_path / name, "--pipeline", config, "-o", out)
        assert result.exit_code == 0, result.output
        outputs.append([msgspec.json.decode(line) for line in out.read_bytes().splitlines()])
    assert outputs[0] == outputs[1] and len(outputs[0]) == 40
    for d in range(2):
        y = Session(model).run("alone", x[d::2])
        own = [a for a in outputs[0] if a["stream"] == f"d{d}"]
        assert np.array_equal(np.array([a["values"] for a in own], np.float32), y)
        assert [a["timestamp"] for a in own] == [1e9 + i for i in range(d, 40, 2)]


def test_predictions_as_a_table(tmp_path, config):
    (tmp_path / "t.csv").write_text("device,a,b\np1,1,2\np1,,2\np1,3,4\n")
    result = command(tmp_path / "t.csv", "--pipeline", config, "-o", tmp_path / "o.csv")
    assert "missing_field" in result.output
    lines = (tmp_path / "o.csv").read_text().splitlines()
    assert lines[0] == "stream,run,n,sequence,timestamp,label,u,v,w"
    assert [line.split(",")[:3] for line in lines[1:]] == [["p1", "0", "1"], ["p1", "0", "2"]]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,c\n1,2\n", "no column 'b'; it has a, c"),
        ("a,b\n1,2,3\n", "line 2: 3 values, expected 2"),
        ("a,a\n1,2\n", "each once"),
        ("a,b,timestamp\n1,2,1700000000000\n", "row 1: timestamp 1700000000000"),
        ("", "each once"),
    ],
)
def test_a_bad_table_is_explained(tmp_path, config, text, problem):
    (tmp_path / "t.csv").write_text(text)
    result = command(tmp_path / "t.csv", "--pipeline", config)
    assert isinstance(result.exception, RecordingError) and problem in str(result.exception)


def test_paths_and_numbers_of_a_table(tmp_path, model):
    spec = Spec(
        ["plant/{site}/{device}"], "out/{site}/{device}", fields=["m.a", "m.v[2]"],
        timestamp="at", sequence="seq",
    )  # fmt: skip
    (tmp_path / "t.csv").write_text("stream;a;b;at\nx/y;1;2;2026-01-01T00:00:00Z\nx/y;3;4;\n")
    with pytest.raises(RecordingError, match=r"row 2: timestamp None"):
        list(Table(tmp_path / "t.csv", spec, model))
    event = next(iter(Table(tmp_path / "t.csv", spec, model)))
    assert event.topic == "plant/x/y" and event.at == 1767225600
    assert msgspec.json.decode(event.payload) == {
        "m": {"a": 1, "v": [None, None, 2]}, "at": "2026-01-01T00:00:00Z", "seq": 1,
    }  # fmt: skip
    found = Pipeline(model, spec).feed([Message(event.topic, event.payload)], 0.0)
    assert [p.stream for p in found.predictions] == ["x/y"]


def test_an_array_of_features(tmp_path, model):
    spec = Spec(["in/{device}"], "out/{device}", array="v")
    np.savez(tmp_path / "t.npz", x=np.arange(6.0).reshape(3, 2))
    events = list(Table(tmp_path / "t.npz", spec, model))
    assert [e.topic for e in events] == ["in/replay"] * 3
    assert msgspec.json.decode(events[1].payload) == {"v": [2.0, 3.0]}
    answers, _ = played(Pipeline(model, spec), events)
    assert [p.n for p in answers] == [1, 2, 3]


def test_many_streams_replayed_are_each_as_if_alone():
    """The benchmark, small; at 100,000 streams for two hours it judges memory too."""
    options = ["--streams", "300", "--hours", "0.5", "--check", "50", "--json"]
    found = msgspec.json.decode(CliRunner().invoke(benchmark, options).output)
    assert found["summary"]["predictions"] == 300 * 30 and found["summary"]["streams"] == 300
    assert (found["compared_streams"], found["different_streams"]) == (50, 0)
    assert found["growth"] < 0.1
