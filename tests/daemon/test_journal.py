import os
import resource
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import edge_rnn
from edge_rnn.database import SCHEMA
from edge_rnn.errors import JournalError
from edge_rnn.journal import Commit, Held, Journal, Mark
from edge_rnn.messages import Message
from edge_rnn.pipeline import Pipeline
from edge_rnn.state import StreamState


@pytest.fixture
def path(tmp_path):
    return tmp_path / "p.state"


def journal(path, model="m" * 64, pipeline="p", **options):
    return Journal(path, model=model, pipeline=pipeline, **options)


A, B = StreamState("a", 3, b"\1\2"), StreamState("b", 5, b"\3\4")


def test_what_was_committed_is_there_in_order_of_use(path):
    with journal(path) as j:
        assert list(j.load().states) == []
        j.commit(Commit(states=[A, B]))
        j.commit(Commit(states=[A]))
    with journal(path) as j:
        assert list(j.load().states) == [B, A]
        j.commit(Commit(states=[StreamState("c", 1, b"")], forgotten=["b", "never-there"]))
        assert [s.stream for s in j.load().states] == ["a", "c"]


def test_a_restart_continues_bit_for_bit(path, model, spec, samples):
    messages = [Message(*m) for m in samples(40)]
    whole = Pipeline(model, spec).feed(messages, 0.0).predictions
    answers = []
    for part in (messages[:13], messages[13:14], messages[14:]):
        pipeline = Pipeline(model, spec)
        with journal(path, pipeline.digest) as j:
            pipeline.load(j.load())
            answers += pipeline.feed(part, 0.0).predictions
            j.commit(pipeline.changes())
    assert answers == whole


def test_another_models_states_are_refused_or_discarded(path):
    with journal(path, "a" * 64) as j:
        j.commit(Commit(states=[A]))
    with pytest.raises(JournalError, match=r"p\.state: holds 1 streams of model aaaa.*discard"):
        journal(path, "b" * 64)
    with journal(path, "a" * 64) as j:
        assert list(j.load().states) == [A]
    with journal(path, "b" * 64, on_model_change="discard") as j:
        assert (j.discarded, j.load().states) == (1, [])


def test_another_pipelines_states_are_refused(path):
    journal(path, pipeline="one").close()
    with pytest.raises(JournalError, match="of pipeline 'one', not of 'two'"):
        journal(path, pipeline="two", on_model_change="discard")


def test_an_unknown_schema_is_refused(path):
    with journal(path) as j:
        j.remember("schema", "99")
    with pytest.raises(JournalError, match=r"p\.state: schema 99, this version reads 3"):
        journal(path)


@pytest.mark.parametrize(
    "garbage", [b"not a database, but long enough to look like one" * 99, b"x"]
)
def test_a_damaged_file_is_named(path, garbage):
    path.write_bytes(garbage)
    with pytest.raises(JournalError, match=r"p\.state: not a readable state file"):
        journal(path)


def test_a_file_damaged_in_the_middle_is_noticed(path):
    with journal(path) as j:
        j.commit(Commit(states=[StreamState(f"s{i}", i, b"z" * 500) for i in range(200)]))
    with path.open("r+b") as f:
        f.seek(8192)
        f.write(b"\xff" * 16384)
    with pytest.raises(JournalError, match=r"p\.state: not a readable"), journal(path) as j:
        j.load()


def test_another_applications_database_is_refused(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(JournalError, match=r"p\.state"):
        journal(path)


def test_one_process_at_a_time(path):
    held = journal(path)
    with pytest.raises(JournalError, match=rf"in use by process {os.getpid()}"):
        journal(path)
    held.close()
    journal(path).close()


def test_only_the_owner_can_read_it(path):
    with journal(path) as j:
        j.commit(Commit(states=[A]))
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.glob("p.state*")}
    assert set(modes.values()) == {0o600}, modes


def test_what_the_system_says_is_told_and_a_note_is_saved_or_not(path):
    with journal(path) as j:
        j._db.execute("PRAGMA query_only = on")
        with pytest.raises(OSError, match=r"p\.state: can't save: attempt to write a readonly"):
            j.remember("filters", "x")
        lock = os.open(f"{path}.lock", os.O_RDONLY)  # as if nothing could be written to it
        os.dup2(lock, j._lock)
        os.close(lock)
        with pytest.raises(OSError, match=r"can't save: .*: Bad file descriptor"):
            j.remember("filters", "x")
        j._db.execute("PRAGMA query_only = off")
        j.remember("filters", "y")
        assert j.recall("filters") == "y"


def test_a_disk_that_is_full_at_the_start_is_not_called_a_damaged_file(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(JournalError, match=r"p\.state: the disk does not take it"):
            journal(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal(path).close()


def test_a_full_disk_loses_nothing_committed(path):
    with journal(path) as j:
        j.commit(Commit(states=[A]))
        j._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(OSError, match=r"p\.state: can't save"):
            j.commit(Commit(states=[StreamState("big", 1, b"z" * 1_000_000)], forgotten=["a"]))
        assert list(j.load().states) == [A]


KILLED = """
import os, signal, sys
from pathlib import Path
from edge_rnn.database import SCHEMA
from edge_rnn.journal import Commit, Held, Journal, Mark
from edge_rnn.state import StreamState
j = Journal(Path(sys.argv[1]), model="m" * 64, pipeline="p")
for n in range(1, 1000):
    j.commit(Commit(states=[StreamState(s, n, b"%d" % n) for s in ("a", "b")]))
    print(n, flush=True)
    if n == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kill_at", [1, 7])
def test_a_kill_loses_no_commit(path, kill_at):
    root = str(Path(edge_rnn.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(kill_at)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split()[-1] == str(kill_at), run.stderr
    with journal(path) as j:
        assert list(j.load().states) == [
            StreamState(s, kill_at, b"%d" % kill_at) for s in ("a", "b")
        ]


SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE streams (
    id TEXT PRIMARY KEY, steps INTEGER NOT NULL, used INTEGER NOT NULL, state BLOB NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema', '1'), ('pipeline', 'p'), ('model', 'MODEL');
INSERT INTO streams VALUES ('b', 5, 8, x'0304'), ('a', 3, 7, x'0102');
"""
SCHEMA_2 = """
CREATE TABLE marks (
    stream TEXT PRIMARY KEY, run INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence NUMERIC,
    stopped INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE held (
    stream TEXT NOT NULL, epoch INTEGER NOT NULL, sequence NUMERIC NOT NULL, topic TEXT NOT NULL,
    payload BLOB NOT NULL, PRIMARY KEY (stream, epoch, sequence)
) WITHOUT ROWID;
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY, at REAL NOT NULL DEFAULT (julianday('now')), stream TEXT NOT NULL,
    epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL
);
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, messages BLOB NOT NULL);
UPDATE meta SET value = '2' WHERE key = 'schema';
INSERT INTO marks VALUES ('a', 2, 1, 17, 1);
INSERT INTO held VALUES ('a', 1, 19, 'in/a', x'7b7d');
"""


@pytest.mark.parametrize(
    ("tables", "marks", "held"),
    [
        (SCHEMA_1, [], []),
        (SCHEMA_1 + SCHEMA_2, [Mark("a", 2, 1, 17, True)], [Held("a", 1, 19, "in/a", b"{}")]),
    ],
    ids=["1", "2"],
)
def test_a_file_of_an_older_schema_goes_on(path, tables, marks, held):
    with sqlite3.connect(path) as db:
        db.executescript(tables.replace("MODEL", "m" * 64))
    db.close()
    for _ in range(2):
        with journal(path) as j:
            saved = j.load()
            assert (list(saved.states), saved.marks, saved.held) == ([A, B], marks, held)
    with journal(path) as j:
        assert j.recall("schema") == SCHEMA
        j.commit(Commit(states=[A], marks=[Mark("b", 1)]), [("out/a", b"{}")])
        assert list(j.load().states) == [B, A]
    fresh = path.with_name("fresh")
    journal(fresh).close()
    assert _columns(path) == _columns(fresh)


def _columns(path):
    """(table, columns) of a file."""
    with sqlite3.connect(path) as db:
        names = [n for (n,) in db.execute("SELECT name FROM sqlite_schema ORDER BY name")]
        found = {n: db.execute(f"PRAGMA table_info({n})").fetchall() for n in names}
    db.close()
    return found


def test_states_are_kept_where_only_the_number_format_changed(path):
    with journal(path, "a" * 64, lineage="l") as j:
        j.commit(Commit(states=[A]))
    with pytest.raises(JournalError, match="of model aaaa"):
        journal(path, "b" * 64, lineage="k")
    with pytest.raises(JournalError, match="of model aaaa"):
        journal(path, "b" * 64)
    with journal(path, "b" * 64, lineage="l") as j:
        assert (j.kept, j.discarded, list(j.load().states)) == (1, 0, [A])
    with journal(path, "b" * 64, lineage="l") as j:
        assert (j.kept, j.discarded) == (0, 0)


def test_a_file_that_does_not_tell_its_network_keeps_no_other_models_states(path):
    with journal(path, "a" * 64) as j:
        j.commit(Commit(states=[A]))
    with pytest.raises(JournalError, match="of model aaaa"):
        journal(path, "b" * 64, lineage="l")
