"""What Prometheus is told, by a daemon that runs."""

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import edge_rnn
from edge_rnn.config import load_config
from edge_rnn.daemon import exporter
from edge_rnn.daemon.plan import make_plan
from edge_rnn.errors import ConfigError
from edge_rnn.metrics import Histogram, Metrics
from edge_rnn_devices.broker import free_port
from tests.daemon.conftest import wait_until

parser = pytest.importorskip("prometheus_client.parser", reason="the extra 'metrics' is missing")
ROOT = Path(edge_rnn.__file__).parents[1]


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = {f.name: f for f in parser.text_string_to_metric_families(text)}
    values = {(s.name, *s.labels.values()): s.value for f in families.values() for s in f.samples}
    return families, values


def test_a_scrape_counts_what_was_sent(mosquitto, client, daemon, write_config, samples):
    broker, port = mosquitto(), free_port()
    user = client(broker.port)
    d = daemon(write_config(broker.port, more=f'[metrics]\nlisten = "127.0.0.1:{port}"\n'))
    d.wait_ready()
    for m in samples(40):
        user.publish(*m)
    for payload in (b"nonsense", b"{}", b"{}"):
        user.publish("in/d0", payload)
    user.wait(40, "out/")
    rejected = "edge_rnn_messages_rejected_total", "missing_field"
    wait_until("the last ones", lambda: scrape(port)[1].get(rejected) == 2)
    wait_until("gauges", lambda: scrape(port)[1]["edge_rnn_streams",] == 3)
    families, values = scrape(port)
    assert values["edge_rnn_predictions_total",] == 40
    assert values["edge_rnn_messages_rejected_total", "not_json"] == 1
    assert values["edge_rnn_messages_received_total",] == 43
    assert values["edge_rnn_messages_rejected_total", "stopped"] == 0
    assert values["edge_rnn_connected",] == 1
    assert values["edge_rnn_state_bytes",] == 3 * 4 * 16
    assert values["edge_rnn_state_file_bytes",] > 0
    assert values["edge_rnn_batch_size_sum",] == 43
    stats = d.stop()
    assert values["edge_rnn_step_seconds_count",] == stats["batches"]
    assert 0 < values["edge_rnn_step_seconds_sum",] <= values["edge_rnn_answer_seconds_sum",]
    build = families["edge_rnn_build_info"].samples[0].labels
    assert (build["version"], build["pipeline"]) == (edge_rnn.__version__, "p")
    promise = families["edge_rnn_delivery_info"].samples[0].labels
    assert promise == {"promise": "at_least_once", "numbers": "none", "qos": "1"}
    check_conventions(families)


def check_conventions(families):
    """https://prometheus.io/docs/practices/naming/"""
    for name, f in families.items():
        assert re.fullmatch(r"edge_rnn_[a-z_]+", name)
        assert f.documentation.endswith(".")
        assert not re.search(r"_(ms|kb|mb|minutes|count|sum|bucket)$", name)
        if f.type == "counter":
            assert all(s.name == f"{name}_total" for s in f.samples)
        if f.type == "histogram":
            counts = [s.value for s in f.samples if s.name.endswith("_bucket")]
            assert counts == sorted(counts)
            assert counts[-1] == next(s.value for s in f.samples if s.name == f"{name}_count")
        labels = {label for s in f.samples for label in s.labels}
        assert name.endswith("_info") or labels <= {"reason", "le"}


def test_the_documentation_lists_every_metric():
    text = (ROOT / "docs/pipeline.md").read_text()
    section = text[text.index("## Metrics\n") : text.index("## Signals")]
    documented = re.findall(r"^\| `edge_rnn_(\w+).*?` \| (\w+) \| (.*) \|$", section, re.M)
    known = [(f"{n}_total", "counter", t) for n, (_, t) in exporter.COUNTERS.items()]
    known += [(f"{n}_total", "counter", t) for n, (_, t) in exporter.BY_REASON.items()]
    known += [(n, "gauge", t) for n, (_, t) in exporter.GAUGES.items()]
    known += [(n, "histogram", t) for n, (_, t) in exporter.HISTOGRAMS.items()]
    known += [("build_info", "info", "What runs.")]
    known += [("delivery_info", "info", "What a stream is promised.")]
    assert documented == known


def test_every_field_is_exported_and_exists():
    metrics = Metrics()
    tables = (exporter.COUNTERS, exporter.BY_REASON, exporter.HISTOGRAMS)
    fields = {field for table in tables for field, _ in table.values()}
    assert fields == set(Metrics.__slots__) - {"now"}
    assert {field for field, _ in exporter.GAUGES.values()} == set(type(metrics.now).__slots__)


def test_buckets_are_upper_bounds():
    h = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 5):
        h.observe(value)
    assert (h.counts, h.count, h.sum, h.max) == ([2, 1, 1, 1], 5, 12.0, 5)


def served(write_config, lines):
    return load_config(write_config(1, more=f"[metrics]\n{lines}\n"))


def test_an_address_that_others_can_reach_must_be_asked_for(write_config):
    for address in ("0.0.0.0:9108", "[::]:9108", "example.org:9108"):
        with pytest.raises(ConfigError, match=r"\[metrics\] listen: .*public = true"):
            served(write_config, f'listen = "{address}"')
        assert served(write_config, f'listen = "{address}"\npublic = true').tables.metrics.public
    for address in ("localhost:1", "127.0.0.2:9108", "[::1]:0"):
        assert served(write_config, f'listen = "{address}"').tables.metrics.listen.local
    for wrong in ("9108", "127.0.0.1:", "127.0.0.1:70000", "a b:1"):
        with pytest.raises(ConfigError, match="expected HOST:PORT"):
            served(write_config, f'listen = "{wrong}"')


def test_an_address_in_use_is_named_and_others_are_warned_of(write_config, caplog):
    plan = make_plan(served(write_config, 'listen = "0.0.0.0:0"\npublic = true'))
    first = exporter.Exporter(plan.config, plan.pipeline, Metrics())
    try:
        assert "anybody who can reach 0.0.0.0:0 can read the metrics" in caplog.text
        port = first._server.server_port
        plan = make_plan(served(write_config, f'listen = "127.0.0.1:{port}"'))
        with pytest.raises(ConfigError, match=rf"listen: can't listen on 127\.0\.0\.1:{port}"):
            exporter.Exporter(plan.config, plan.pipeline, Metrics())
    finally:
        first.close()


def test_without_the_extra_the_error_names_it(write_config):
    config = write_config(1, more="[metrics]\n")
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from edge_rnn.config import load_config; from edge_rnn.daemon.plan import make_plan\n"
        f"make_plan(load_config({str(config)!r}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 1
    assert "pip install 'edge-rnn[metrics]'" in run.stderr
