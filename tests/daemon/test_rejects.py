import base64
import stat

import msgspec
import pytest

from edge_rnn.daemon.rejects import MAX_KEPT_BYTES, RejectFile
from edge_rnn.metrics import Metrics


def lines(path):
    return [msgspec.json.decode(x) for x in path.read_bytes().splitlines()]


def test_a_message_is_set_aside_as_text_or_base64(tmp_path):
    path = tmp_path / "r.jsonl"
    file = RejectFile(path, 10_000)
    file.write(1.5, "in/a", "not_json", "why", b"text")
    file.write(2.5, "in/b", "not_json", "why", b"\xff\0")
    file.write(3.5, "in/c", "too_large", "why", b"x" * 9000)
    file.close()
    text, binary, long = lines(path)
    assert text == {
        "time": 1.5,
        "topic": "in/a",
        "reason": "not_json",
        "detail": "why",
        "bytes": 4,
        "payload": "text",
    }
    assert base64.b64decode(binary["payload_base64"]) == b"\xff\0"
    assert (long["bytes"], len(long["payload"])) == (9000, MAX_KEPT_BYTES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_files_stay_within_their_bounds(tmp_path):
    path = tmp_path / "r.jsonl"
    for start in (0, 500):  # a restart goes on where it was
        file = RejectFile(path, 8192)
        for n in range(start, start + 500):
            file.write(n, "in/a", "not_json", "why", b"x" * 50)
        file.close()
    kept = lines(tmp_path / "r.jsonl.1") + lines(path)
    assert [x["time"] for x in kept] == list(range(1000 - len(kept), 1000))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.jsonl.1"]
    assert all(p.stat().st_size <= 8192 for p in tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError, match="none"):
        RejectFile(tmp_path / "none" / "r.jsonl", 8192)


def test_the_summary_is_flat_and_totals_reasons():
    m = Metrics(received=3)
    m.rejected.update(not_json=1, bad_topic=1)
    m.step.observe(0.002)
    m.step.observe(0.004)
    s = m.summary()
    assert (s["received"], s["rejected"], s["rejected.not_json"], s["dropped"]) == (3, 2, 1, 0)
    assert (s["batches"], s["batch_ms_mean"], s["batch_ms_max"]) == (2, 3.0, 4.0)
