"""Torn writes leave a state file as it was before the commit or as it is after it."""

import random
import shutil

from edge_rnn.journal import Commit, Journal
from edge_rnn.state import StreamState
from tests.delivery import power


def commit(journal, generation):
    states = [StreamState(f"s{i}", generation, bytes([generation % 251]) * 999) for i in range(30)]
    journal.commit(Commit(states=states), [("out", b"%d" % generation)] * 5)


def copied(journal, folder):
    """The files as they are while the journal is open."""
    folder.mkdir()
    for file in (journal.path, journal.path.with_name("p.state-wal")):
        shutil.copy(file, folder)
    note = journal.path.with_name("p.state-wal.safe")
    if note.exists():
        shutil.move(note, folder)
    return folder / "p.state"


def generations(file):
    with Journal(file, model="m", pipeline="p") as journal:
        states, box = journal.load().states, journal.outbox()[-1][1]
    assert {s.state for s in states} == {bytes([states[0].steps % 251]) * 999}
    return {s.steps for s in states} | {int(payload) for _, payload in box}


def test_a_torn_commit_is_there_whole_or_not_at_all(tmp_path):
    r, seen = random.Random(1), set()
    with Journal(tmp_path / "p.state", model="m", pipeline="p", synchronous="normal") as journal:
        commit(journal, 1)
        for i in range(2, 50):
            power.note_safe(tmp_path / "p.state-wal")
            commit(journal, i)
            file = copied(journal, tmp_path / str(i))
            power.tear(file.with_name("p.state-wal"), r)
            (found,) = generations(file)
            seen.add(found - i)
    assert seen == {-1, 0}


def test_a_torn_checkpoint_changes_nothing(tmp_path):
    r, torn = random.Random(2), 0
    with Journal(tmp_path / "p.state", model="m", pipeline="p", synchronous="normal") as journal:
        for i in range(1, 30):
            commit(journal, i)
            file = copied(journal, tmp_path / str(i))
            before = file.read_bytes()
            power.tear_checkpoint(file, file.with_name("p.state-wal"), r)
            torn += file.read_bytes() != before
            assert generations(file) == {i}
    assert torn > 10
