import math
import re
from pathlib import Path

import pytest

import edge_rnn
from edge_rnn.config import load_config
from edge_rnn.errors import ConfigError
from edge_rnn.modelfile import load

GOOD = """\
# A pipeline
[model]
file = "m.ernn"

[broker]
host = "broker.lan"

[input]
topic = "in/{device}"
fields = [
  "a",
  "nested.b",
]

[output]
topic = "out/{device}"
"""


@pytest.fixture
def write(tmp_path):
    def to(text):
        path = tmp_path / "pumps.toml"
        path.write_text(text)
        return path

    return to


def test_defaults(write, tmp_path):
    c = load_config(write(GOOD))
    assert (c.name, c.port, c.spec.capacity, c.spec.ttl) == ("pumps", 1883, 1000, None)
    assert c.model_file == tmp_path / "m.ernn"
    assert c.state_file == tmp_path / "pumps.state"
    assert c.client_id.startswith("edge-rnn-pumps-")
    assert c.client_id == load_config(write(GOOD)).client_id
    assert c.routes.route("in/x").output == "out/x"
    assert load_config(write(GOOD + "[broker.tls]\n")).port == 8883


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ('"10s"', 10.0), ('"1.5h"', 5400.0), ('"5m"', 300.0),
     ('"250ms"', 0.25), ('"2d"', 172800.0), ('"off"', math.inf)],
)  # fmt: skip
def test_durations(write, text, seconds):
    c = load_config(write(f"{GOOD}\n[state]\nsave_every = {text}\n"))
    assert c.tables.state.save_every == seconds


def error(path):
    with pytest.raises(ConfigError) as e:
        load_config(path)
    return str(e.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("host =", "hots =", 6, "[broker] hots: unknown; allowed: host, port,.*mean 'host'"),
        ("[output]", "[outptu]", 15, "outptu: unknown; allowed: .*output.*mean 'output'"),
        ('"broker.lan"', "5", 6, "[broker] host: is 5: expected str"),
        ('"broker.lan"', '""', 6, "[broker] host: is \"\": expected str of length >= 1"),
        ('host = "broker.lan"', "", 5, "[broker] host: missing"),
        ("[model]\n", "", 2, "file: unknown; allowed: name, model"),
        ('[output]\ntopic = "out/{device}"', "", 1, "output: missing"),
        ("[broker]", "[broker", 5, "not TOML"),
        ("[broker]\n", "[broker]\nport = 70000\n", 6, "[broker] port: is 70000: .*65535"),
        ("[broker]\n", "[broker]\nport = true\n", 6, "[broker] port: is True: expected int"),
        ("[output]\n", '[output]\nbroker.password = "hush"\n', 16, "[output.broker] password: a"),
        ("[output]\n", "[output]\nbroker.port = 1\n", 16, "host: missing"),
        ("fields", 'sequence = "property:q"\nepoch = "e"\nfields', 11, "epoch: stands where"),
        ("[broker]\n", '[broker]\nprotocol = "3"\n', 6, 'protocol: is "3"; allowed: 3.1.1, 5'),
        ("[broker]\n", '[broker]\nretry_max = "1x"\n', 6, '"10s", "5m", "1h", "off"'),
        ("[broker]\n", '[broker]\nretry_min = "2m"\n', 5, "retry_max: must be"),
        ("[broker]\n", '[broker]\npassword = "hush"\n', 6, "password_file.*password_env"),
        ("[broker]\n", '[broker]\npassword_env = "P"\n', 6, "needs a username"),
        ("[broker]\n", '[broker]\nusername="u"\nusername_env="U"\n', 7, "not both"),
        ("[broker]\n", "[broker]\ntls = true\n", 6, "[broker] tls: is True, expected a table"),
        ("[broker]\n", "[broker]\ntls.ca = 1\n", 6, "[broker.tls] ca: unknown; .*ca_file"),
        ("[broker]\n", '[broker]\ntls.key_file = "k"\n', 6, "needs cert_file"),
        ("[output]\n", "[output]\nqos = 2\n", 16, "QoS 2 is not supported.*use 1"),
        ("[input]\n", "[input]\nqos = 2\n", 9, "QoS 2 is not supported"),
        ("[output]\n", "[output]\nqos = true\n", 16, "[output] qos: is True; allowed: 0, 1"),
        ("[output]\n", '[queue]\npolicy = "drop"\n[output]\n', 16, "drop_oldest, drop_newest"),
        ("[output]\n", "[state]\ncapacity = 0\n[output]\n", 16, "capacity: is 0"),
        ("[output]\n", '[state]\ncommit_every = "off"\n[output]\n', 16, "commit_every: .*most 1h"),
        ("[output]\n", '[state]\ncommit_every = "61m"\n[output]\n', 16, "commit_every: .*most 1h"),
        ("[output]\n", '[queue]\nmax_delay = "off"\n[output]\n', 16, "max_delay: .*most 1h"),
        ("[output]\n", '[output]\nwatermark_every = "off"\n', 16, "watermark_every: .*finite"),
        ("[output]\n", '[status]\ntopic = "in/x"\n[output]\n', 16, "matches an input topic"),
        ("[output]\n", '[status]\ntopic = "s/#"\n[output]\n', 16, "not one topic"),
        ('"nested.b"', '"nested..b"', 10, "[input] fields: 'nested..b' is not a path"),
        ("fields", 'timestamp = ""\nfields', 10, "[input] timestamp: is \"\""),
        ("fields", 'timestamp = "a["\nfields', 10, "[input] timestamp: 'a[' is not a path"),
        ("fields", 'array = "$"\nfields', 10, "give fields or array, not both"),
        ("topic = \"in", "topics = []\n#", 9, "[input] topics: no input topic"),
        ("topic = \"in", "topics = [\"a\"]\ntopic = \"in", 9, "give topic or topics, not both"),
        ("in/{device}", "in/{device}/#/x", 9, "'#' can only be the last level"),
        ("out/{device}", "out/{devce}", 16, "known: {device}, {topic}"),
        ("out/{device}", "in/{device}", 16, "come back as input"),
        ('topic = "in/{device}"', 'topics = ["i/{device}", "j/{device}"]', 8, "several input"),
    ],
)  # fmt: skip
def test_an_error_points_at_the_line_and_says_what_is_allowed(write, old, new, line, text):
    path = write(GOOD.replace(old, new, 1))
    message = error(path)
    assert message.startswith(f"{path}:{line}: "), message
    for part in text.split(".*"):
        assert part in message
    assert "hush" not in message


def test_numbers_in_user_properties_need_mqtt_5(write):
    path = write(GOOD.replace("fields", 'sequence = "property:q"\nfields', 1))
    assert load_config(path).spec.stamps is not None
    path.write_text(path.read_text().replace("[broker]\n", '[broker]\nprotocol = "3.1.1"\n'))
    assert 'sequence: user properties need broker.protocol = "5"' in error(path)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    assert "No such file" in error(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in error(tmp_path / "b.toml")


def test_fields_that_do_not_fit_the_model(write, model):
    path = write(GOOD)
    load_config(path).check_model(model)
    path = write(GOOD.replace('"nested.b"', '"b", "c"'))
    with pytest.raises(ConfigError, match=r"pumps.toml:10: \[input\] fields: 3 fields .* of 2"):
        load_config(path).check_model(model)


def test_secrets_come_from_files_and_environment_only(write, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("s3cret\n")
    lines = '[broker]\nusername_env = "EDGE_USER"\npassword_file = "secret"\n'
    path = write(GOOD.replace("[broker]\n", lines))
    with pytest.raises(ConfigError, match=r":6: \[broker\] username_env: .* no EDGE_USER"):
        load_config(path).credentials()
    monkeypatch.setenv("EDGE_USER", "me")
    secret = load_config(path).credentials()
    assert (secret.username, secret.password) == ("me", "s3cret")
    assert "s3cret" not in repr(secret) + repr(load_config(path))
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match=r":7: \[broker\] password_file: can't read .*secret"):
        load_config(path).credentials()


ROOT = Path(edge_rnn.__file__).parents[1]


def test_the_example_is_valid_and_shows_every_key():
    text = (ROOT / "examples/pipeline.toml").read_text()
    load_config(ROOT / "examples/pipeline.toml")
    assert set(_all_keys()) == set(re.findall(r"^#? ?([a-z_]+) = ", text, re.M))


def test_the_documentation_has_every_key_and_every_reason():
    from edge_rnn.messages import REASONS
    from edge_rnn.metrics import Metrics

    text = (ROOT / "docs/pipeline.md").read_text()
    names = {*_all_keys(), *REASONS, *Metrics().summary()}
    assert not {n for n in names if f"`{n}`" not in text}


def _all_keys():
    from dataclasses import fields, is_dataclass
    from typing import get_args, get_type_hints

    from edge_rnn.config.schema import Tables

    def walk(cls):
        for f in fields(cls):
            kind = get_type_hints(cls)[f.name]
            inner = next((k for k in (kind, *get_args(kind)) if is_dataclass(k)), None)
            yield from walk(inner) if inner else [f.name]

    return list(walk(Tables))


def test_a_models_file_can_be_loaded_from_the_config(write, model_file):
    assert load(load_config(write(GOOD)).model_file).input_width == 2
