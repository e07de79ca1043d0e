"""`edge-rnn state`, of a state file and of a running daemon: the same answers, one transaction."""

import signal
import socket
import stat
import threading
from dataclasses import replace

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import edge_rnn
from edge_rnn import keeper
from edge_rnn.cli import cli
from edge_rnn.errors import EdgeRnnError, StateError
from edge_rnn.graph import state_width
from edge_rnn.journal import Commit, Held, Journal, Mark, Saved
from edge_rnn.lineage import lineage
from edge_rnn.messages import Message, Spec
from edge_rnn.ordering import Gap
from edge_rnn.pipeline import Pipeline
from edge_rnn.session import Session
from edge_rnn.state import StreamState
from tests.daemon.conftest import wait_until


def state(*args):
    return CliRunner().invoke(cli, ["state", *map(str, args)])


def told(*args):
    result = state(*args, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return msgspec.json.decode(result.output)


def refused(*args):
    result = state(*args)
    assert result.exit_code == 1 and isinstance(result.exception, EdgeRnnError), result.output
    return str(result.exception)


NUMBERED = 'sequence = "t"\non_gap = "stop"\nhold = "100ms"'
SPEC = Spec(
    ["in/{device}"], "out/{device}", timestamp="t", sequence="t", on_gap="stop", hold=0.1
)  # fmt: skip


def message(stream, t, a=0.5):
    return Message(f"in/{stream}", msgspec.json.encode({"a": a * t, "b": -a, "t": t}))


@pytest.fixture
def config(write_config):
    return write_config(1, input=NUMBERED)


@pytest.fixture
def filled(config, model):
    """The pipeline file, with streams a and b, of which b stopped at a gap, and c, which waits."""
    pipeline = Pipeline(model, SPEC)
    path = config.with_suffix(".state")
    with Journal(path, model=pipeline.digest, lineage=lineage(model), pipeline="p") as j:
        pipeline.feed([message(s, t) for t in (1, 2, 3) for s in "abc"], 0.0)
        pipeline.feed([message("b", 6)], 1.0)
        pipeline.feed([], 2.0)
        pipeline.feed([message("c", 9)], 2.0)
        j.commit(pipeline.changes())
    return config


def saved(config):
    with Journal(config.with_suffix(".state"), model=None, pipeline="p") as j:
        return j.load()


def test_list(filled):
    found = told("list", filled)
    assert found["total"] == 3
    a, b, c = found["streams"]
    assert (a["stream"], a["steps"], a["run"], a["sequence"], a["stopped"]) == ("a", 3, 0, 3, False)
    assert (b["sequence"], b["stopped"], b["gaps"], b["missing"]) == (6, True, 1, 2)
    assert (c["sequence"], c["held"], c["stopped"]) == (3, 1, False)
    assert 0 <= a["age"] < 100
    for option, stream in [("--stopped", "b"), ("--gaps", "b"), ("--held", "c")]:
        assert [s["stream"] for s in told("list", filled, option)["streams"]] == [stream]
    assert [s["stream"] for s in told("list", filled, "--match", "[ab]*")["streams"]] == ["a", "b"]
    assert told("list", filled, "--idle", "1h")["streams"] == []
    text = state("list", filled, "--limit", 2).output
    assert "6 stopped" in text and "1 more" in text and " c " not in text


def test_many_streams_are_listed_by_page(filled, model):
    width = state_width(model)
    with Journal(filled.with_suffix(".state"), model=None, pipeline="p") as j:
        states = [StreamState(f"m{i:05}", i, bytes(4 * width)) for i in range(5000)]
        j.commit(Commit(states=states))
    found = told("list", filled, "--limit", 0)
    assert len({s["stream"] for s in found["streams"]}) == found["total"] == 5003
    assert len(told("list", filled, "--match", "m*", "--limit", 4500)["streams"]) == 4500


def test_show(filled, model):
    found = told("show", filled, "a")
    session = Session(model)
    session.run("a", [[0.5 * t, -0.5] for t in (1, 2, 3)])
    words = np.frombuffer(session.states()[0].state, np.float32).reshape(2, -1)
    assert [p["name"] for p in found["state"]] == ["l.h", "l.c"]
    for part, of in zip(found["state"], words, strict=True):
        assert part["norm"] == pytest.approx(float(np.linalg.norm(of)))
        assert part["largest"] == pytest.approx(float(abs(of).max()))
    assert "l.c" in state("show", filled, "a").output
    assert "no stream 'x'" in refused("show", filled, "x")


def test_reset_lets_a_stopped_stream_go_on(filled, model):
    before = saved(filled)
    assert told("reset", filled, "b") == {"reset": 1}
    after = saved(filled)
    assert [s.stream for s in after.states] == [s.stream for s in before.states if s.stream != "b"]
    assert Mark("b", 1, 0, 6, False) in after.marks and after.held == before.held
    pipeline = Pipeline(model, SPEC)
    pipeline.load(after)
    (answer,) = pipeline.feed([message("b", 7)], 0.0).predictions
    fresh = Session(model).run("b", [[0.5 * 7, -0.5]])
    assert (answer.run, answer.n) == (1, 1)
    assert msgspec.json.decode(answer.payload)["values"] == fresh[0].tolist()


def test_reset_of_all_and_of_positions(filled, model):
    assert "no stream 'x'" in refused("reset", filled, "a", "x")
    assert saved(filled).states
    assert state("reset", filled).exit_code == 2 and state("reset", filled, "a", "--all").exit_code
    assert told("reset", filled, "--all", "--position") == {"reset": 3}
    after = saved(filled)
    assert (after.states, after.held) == ([], [])
    assert after.marks == [Mark(s, 1) for s in "abc"]
    pipeline = Pipeline(model, SPEC)
    pipeline.load(after)
    answers = pipeline.feed([message("c", 1), message("c", 2)], 0.0).predictions
    assert [(p.run, p.n) for p in answers] == [(1, 1), (1, 2)]


def test_streams_move_bit_for_bit(filled, tmp_path, model):
    file = tmp_path / "s.safetensors"
    assert told("export", filled, file) == {"exported": 3}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = saved(filled)
    states = {s.stream: s.state for s in before.states}
    assert [row.tobytes() for row in load_file(file)["states"]] == [states[s] for s in "abc"]
    assert "'a', 'b', 'c' there already" in refused("import", filled, file)
    filled.with_suffix(".state").unlink()
    assert "no streams yet" in refused("import", filled, file)
    Journal(filled.with_suffix(".state"), model=Pipeline(model, SPEC).digest, pipeline="p").close()
    assert told("import", filled, file) == {"imported": 3}
    after = saved(filled)
    assert sorted(map(repr, after.states)) == sorted(map(repr, before.states))
    assert after.marks == before.marks
    assert told("import", filled, file, "--replace") == {"imported": 3}
    assert [m.run for m in saved(filled).marks] == [1, 1, 1]
    assert sorted(map(repr, saved(filled).states)) == sorted(map(repr, before.states))


def test_states_of_another_model_are_not_imported(filled, tmp_path, other_model, model_file):
    file = tmp_path / "s.safetensors"
    told("export", filled, file, "a")
    edge_rnn.save(other_model, model_file)
    filled.with_suffix(".state").unlink()
    digest = Pipeline(other_model, SPEC).digest
    with Journal(filled.with_suffix(".state"), model=digest, pipeline="p") as j:
        j.commit(Commit(marks=[Mark("z")]))
    assert "of model" in refused("import", filled, file)
    assert saved(filled).marks == [Mark("z")]


@pytest.mark.parametrize(
    "change",
    [
        lambda k: replace_of(k, state=k.state[:-4]),
        lambda k: replace_of(k, steps=-1),
        lambda k: replace_of(k, steps=1 << 62),
    ],
)
def test_what_no_stream_can_have_is_refused(filled, model, change):
    with Journal(filled.with_suffix(".state"), model=None, pipeline="p") as j:
        own = keeper.Keeper(j, 4 * state_width(model))
        found = own.answer(keeper.Fetch(["a", "c"]))
        bad = [found.streams[0], change(found.streams[1])]
        put = keeper.Put(found.model, found.lineage, bad, replace=True)
        before = j.load()
        with pytest.raises(StateError, match="stream 'c'"):
            own.answer(put)
        with pytest.raises(StateError, match="twice"):
            own.answer(replace_of(put, streams=[found.streams[0]] * 2))
        assert j.load() == before


def replace_of(struct, **changes):
    return msgspec.structs.replace(struct, **changes)


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"other"])
def test_a_file_of_something_else_is_named(filled, tmp_path, damage):
    (tmp_path / "f").write_bytes(damage)
    assert "f" in refused("import", filled, tmp_path / "f")


def test_a_stream_forgotten_at_a_start_keeps_its_run(model):
    spec = replace(SPEC, capacity=1)
    pipeline = Pipeline(model, replace(SPEC, capacity=2))
    pipeline.feed([message("a", 1), message("b", 1)], 0.0)
    commit = pipeline.changes()
    small = Pipeline(model, spec)
    assert [e.stream for e in small.load(Saved(commit.states, commit.marks))] == ["a"]
    (answer,) = small.feed([message("a", 2)], 0.0).predictions
    assert (answer.run, answer.n) == (1, 1)


def test_a_pipeline_follows_its_operator(model):
    """Whatever an operator does, memory is what a restart would find."""
    r = np.random.default_rng(0)
    for _ in range(30):
        pipeline, again = Pipeline(model, SPEC), Pipeline(model, SPEC)
        sent = [message(s, t) for t in (1, 2, 4, 5) for s in "abcd" if r.random() < 0.8]
        pipeline.feed(sent, 0.0)
        before = pipeline.changes()
        pipeline.saved()
        marks = {m.stream: m for m in before.marks}
        states = {s.stream: s for s in before.states}
        held = {(h.stream, h.epoch, h.sequence): h for h in before.held}
        chosen = [s for s in marks if r.random() < 0.5]
        commit = Commit(
            states=[StreamState("new", 7, bytes(4 * state_width(model)))],
            forgotten=[s for s in chosen if s in states],
            marks=[
                Mark(s, marks[s].run + 1, 0, None if r.random() < 0.5 else marks[s].sequence)
                for s in chosen
            ] + [Mark("new", 2, 0, 3)],
        )  # fmt: skip
        commit = replace(
            commit,
            released=[
                k for k in held for m in commit.marks if m.stream == k[0] and m.sequence is None
            ],
        )
        pipeline.adopt(commit)
        marks |= {m.stream: m for m in commit.marks}
        states = {s: v for s, v in states.items() if s not in commit.forgotten}
        states |= {s.stream: s for s in commit.states}
        left = [h for k, h in held.items() if k not in commit.released]
        again.load(Saved(list(states.values()), list(marks.values()), left))
        more = [message(s, t) for t in (1, 3, 4, 6) for s in ("a", "b", "c", "d", "new")]
        for now in (0.0, 5.0):
            one, two = pipeline.feed(more, now), again.feed(more, now)
            assert (one.predictions, one.gaps) == (two.predictions, two.gaps)
            assert {d.payload for d in one.duplicates} == {d.payload for d in two.duplicates}


@pytest.mark.process
def test_a_running_daemon_answers(mosquitto, client, daemon, write_config, tmp_path, model):
    config = write_config(mosquitto().port, input=NUMBERED)
    d, c = daemon(config).wait_ready(), client(port_of(config), "out/#")
    send(c, "a", 1, 2, 3)
    send(c, "b", 1, 2, 5, 6)
    c.wait(5)
    wait_until("the gap", lambda: told("list", config, "--stopped")["total"])
    found = told("list", config)["streams"]
    assert [(s["stream"], s["steps"], s["stopped"]) for s in found] == [
        ("a", 3, False), ("b", 2, True),
    ]  # fmt: skip
    assert stat.S_IMODE((tmp_path / "p.state.sock").stat().st_mode) == 0o600
    assert told("show", config, "a")["sequence"] == 3
    assert told("export", config, tmp_path / "a.states", "a") == {"exported": 1}
    told("reset", config, "b", "a")
    send(c, "b", 7)
    send(c, "a", 4)
    b, a = (msgspec.json.decode(p) for p in c.wait(7)[5:])
    assert (b["stream"], b["run"], b["n"], a["stream"], a["run"], a["n"]) == ("b", 1, 1, "a", 1, 1)
    assert "there already" in refused("import", config, tmp_path / "a.states")
    told("import", config, tmp_path / "a.states", "--replace")
    send(c, "a", 4)
    again = msgspec.json.decode(c.wait(8)[7])
    session = Session(model)
    y = session.run("a", [[0.5 * t, -0.5] for t in (1, 2, 3, 4)])
    assert (again["run"], again["n"], again["values"]) == (2, 4, y[3].tolist())
    d.send(signal.SIGHUP)
    d.wait_log("connected, subscribed", 2)
    assert told("list", config)["total"] == 2
    d.kill()
    assert told("list", config)["total"] == 2
    d = daemon(config).wait_ready()
    assert [s["run"] for s in told("list", config)["streams"]] == [2, 1]
    d.stop()
    assert not (tmp_path / "p.state.sock").exists()


def port_of(config):
    return int(config.read_text().partition("port = ")[2].split()[0])


def send(client, stream, *numbers):
    for t in numbers:
        m = message(stream, t)
        client.publish(m.topic, m.payload)


@pytest.fixture
def counter(tmp_path):
    asked = threading.Event()
    counter = keeper.Counter(tmp_path / "s", asked.set)
    yield counter, asked
    counter.close()


def served(counter, asked, answer):
    """Answer one request from this thread, as a daemon would."""

    def serve():
        assert asked.wait(20)
        counter.serve(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_the_socket_takes_a_request_at_a_time(counter, tmp_path):
    counter, asked = counter
    thread = served(counter, asked, lambda request: keeper.Done(request.limit))
    assert keeper.ask(tmp_path / "s", keeper.Query(limit=5)) == keeper.Done(5)
    thread.join()


def test_a_refusal_is_told(counter, tmp_path):
    def answer(request):
        raise StateError("not that")

    counter, asked = counter
    thread = served(counter, asked, answer)
    with pytest.raises(StateError, match="not that"):
        keeper.ask(tmp_path / "s", keeper.Query())
    thread.join()


_NONSENSE = np.random.default_rng(1).bytes(99)


@pytest.mark.parametrize("sent", [b"", b"\xff" * 8, b"\1" + b"\0" * 7 + b"\xc1", _NONSENSE])
def test_what_is_no_request_is_dropped(counter, tmp_path, sent):
    counter, asked = counter
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(tmp_path / "s.sock"))
            s.sendall(sent)
    thread = served(counter, asked, lambda request: keeper.Done(1))
    assert keeper.ask(tmp_path / "s", keeper.Query()) == keeper.Done(1)
    thread.join()


def test_a_long_path_is_no_obstacle(tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    asked = threading.Event()
    counter = keeper.Counter(folder / "s", asked.set)
    try:
        thread = served(counter, asked, lambda request: keeper.Done(1))
        assert keeper.ask(folder / "s", keeper.Query()) == keeper.Done(1)
        thread.join()
    finally:
        counter.close()


def test_ids_are_completed(filled):
    from edge_rnn.cli.state import _complete

    context = click.Context(cli)
    context.params = {"file": filled}
    found = [_complete(context, None, begun) for begun in ("", "b", "[ab]")]
    assert [[i.value for i in items] for items in found] == [["a", "b", "c"], ["b"], []]


def test_gaps_and_held_of_other_streams_are_not_counted(filled):
    with Journal(filled.with_suffix(".state"), model=None, pipeline="p") as j:
        j.commit(Commit(gaps=[Gap("c", 0, 4, 5)] * 3, held=[Held("c", 0, 11, "in/c", b"")]))
    a, b, c = told("list", filled)["streams"]
    assert [(s["gaps"], s["missing"], s["held"]) for s in (a, b, c)] == [
        (0, 0, 0), (1, 2, 0), (3, 6, 2),
    ]  # fmt: skip
