import math
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn.errors import PayloadError
from edge_rnn.payload import Decoder, Encoder, Prediction, Sample, parse_path, vocabularies
from tests.effort import examples

NESTED = Decoder(3, fields=["accel.x", "values[2]", '["odd.key"]'], timestamp="meta.t")
DOCUMENT = {"accel": {"x": 1}, "values": [None, "?", 2.5], "odd.key": -3, "meta": {"t": "noon"}}


def refusal(decoder: Decoder, payload: bytes) -> tuple[str, str]:
    with pytest.raises(PayloadError) as e:
        decoder.decode(payload)
    return e.value.reason, str(e.value)


def test_paths_lead_through_objects_and_arrays():
    sample = NESTED.decode(msgspec.json.encode(DOCUMENT))
    assert sample.features == (1.0, 2.5, -3.0)
    assert sample.timestamp == "noon"


@pytest.mark.parametrize("meta", [{}, {"t": None}, {"other": 1}])
def test_a_timestamp_may_be_missing(meta):
    assert NESTED.decode(msgspec.json.encode(DOCUMENT | {"meta": meta})).timestamp is None
    without = {k: v for k, v in DOCUMENT.items() if k != "meta"}
    assert NESTED.decode(msgspec.json.encode(without)).timestamp is None


def test_the_payload_may_be_an_array_or_a_number():
    assert Decoder(2, array="$").decode(b"[1, 2]").features == [1.0, 2.0]
    assert Decoder(2, array="a.b").decode(b'{"a": {"b": [1, 2]}}').features == [1.0, 2.0]
    assert Decoder(1, fields=["$"]).decode(b" 7.5 ").features == (7.5,)
    skipping = Decoder(2, fields=["[0]", "[2]"], timestamp="[4]")
    assert skipping.decode(b'[1, "x", 2]').features == (1.0, 2.0)
    assert skipping.decode(b"[1, 0, 2, 3, 17]").timestamp == 17


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        ({"accel": {}}, "missing_field", "no accel.x"),
        ({"accel": 5}, "wrong_type", "accel is 5, expected an object"),
        ({"accel": {"x": True}}, "wrong_type", "accel.x is true, expected a number"),
        ({"accel": {"x": None}}, "wrong_type", "accel.x is null"),
        ({"accel": {"x": "1"}}, "wrong_type", 'accel.x is "1"'),
        ({"accel": {"x": [1]}}, "wrong_type", "accel.x is an array"),
        ({"values": [1, 2]}, "missing_field", "no values[2]"),
        ({"values": {"2": 1}}, "wrong_type", "values is an object, expected an array"),
        ({"odd.key": 1e39}, "not_finite", "too large for float32"),
        ({"odd.key": -3.4028235677973366e38}, "not_finite", "too large for float32"),
        ({"meta": {"t": False}}, "wrong_type", "meta.t is false, expected a number or a string"),
        ({"meta": []}, "wrong_type", "meta is an array"),
    ],
)
def test_a_refusal_names_path_and_reason(change, reason, text):
    got, detail = refusal(NESTED, msgspec.json.encode(DOCUMENT | change))
    assert got == reason
    assert text in detail


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not_json"),
        (b"nonsense", "not_json"),
        (b"[NaN, 1]", "not_json"),
        (b'"\xff"', "not_json"),
        (b"[" * 60_000, "not_json"),
        (b"[1, 2" + b" " * 65_536 + b"]", "too_large"),
        (b"[1]", "wrong_length"),
        (b"[1, 2, 3]", "wrong_length"),
        (b"[1e999, 2]", "not_finite"),
        (b"[1, " + b"9" * 400 + b"]", "not_finite"),
        (b"[1, " + b"9" * 5000 + b"]", "not_finite"),
        (b'[1, "2"]', "wrong_type"),
        (b"{}", "wrong_type"),
        (b"null", "wrong_type"),
    ],
)
def test_hostile_payloads_are_refused_with_a_reason(payload, reason):
    assert refusal(Decoder(2, array="$"), payload)[0] == reason


def test_deep_nesting_in_a_field_nobody_asked_for_does_no_harm():
    bomb = b'{"z":' + b"[" * 30_000 + b"]" * 30_000 + b',"a":1}'
    assert refusal(Decoder(1, fields=["a"]), bomb)[0] == "not_json"


@pytest.mark.parametrize("index", [b"5", b"-1", b"0.5", b"1e9"])
def test_an_index_outside_its_vocabulary_is_refused(vocabulary_model, index):
    assert vocabularies(vocabulary_model) == {1: 5}
    decoder = Decoder(2, array="$", vocabulary=vocabularies(vocabulary_model))
    assert decoder.decode(b"[0.25, 4]").features == [0.25, 4.0]
    assert refusal(decoder, b"[0.25, %b]" % index)[0] == "bad_index"


@given(st.floats(width=64, allow_nan=False, allow_infinity=False))
@examples(100)
def test_what_is_accepted_is_finite_in_float32_and_nothing_finite_is_refused(value):
    decoder = Decoder(1, fields=["$"])
    with np.errstate(over="ignore"):
        finite = bool(np.isfinite(np.float32(value)))
    try:
        decoder.decode(msgspec.json.encode(value))
        assert finite
    except PayloadError as e:
        assert e.reason == "not_finite"
        assert not finite


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.binary(max_size=200) | JSON.map(msgspec.json.encode))
@examples(100)
def test_whatever_comes_is_a_sample_or_a_payload_error(payload):
    decoders = [NESTED, Decoder(2, array="$"), Decoder(1, fields=["$"]), Decoder(2, array="a")]
    for decoder in decoders:
        try:
            sample = decoder.decode(payload)
        except PayloadError:
            continue
        assert len(sample.features) == decoder.width
        assert all(type(f) is float and math.isfinite(f) for f in sample.features)
        assert Encoder().encode("s", 1, 0, sample, list(sample.features))


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
)
@examples(100)
def test_a_valid_sample_comes_back_as_it_was_sent(features, timestamp):
    if isinstance(timestamp, float) and math.isinf(timestamp):
        return
    a, b, c = features
    document = DOCUMENT | {"accel": {"x": a}, "values": [0, 0, b], "odd.key": c}
    sample = NESTED.decode(msgspec.json.encode(document | {"meta": {"t": timestamp}}))
    assert list(sample.features) == features
    assert sample.timestamp == timestamp


@given(st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3))
@examples(100)
def test_a_float32_comes_back_from_an_answer_bit_for_bit(words):
    values = np.array(words, np.uint32).view(np.float32)
    if not np.isfinite(values).all():
        return
    payload = Encoder().encode("s", 1, 0, Sample([]), values.tolist())
    back = msgspec.json.decode(payload, type=Prediction).values
    assert struct.pack("<3f", *back) == values.tobytes()


def test_an_answer_names_stream_step_time_label_and_probabilities():
    plain = msgspec.json.decode(Encoder().encode("pump/3", 7, 0, Sample([]), [0.5]))
    assert plain == {"stream": "pump/3", "n": 7, "values": [0.5]}
    labelled = Encoder(("on", "off")).encode("s", 1, 0, Sample([], 1700000000.25), [0.25, 0.75])
    assert msgspec.json.decode(labelled) == {
        "stream": "s",
        "n": 1,
        "timestamp": 1700000000.25,
        "values": [0.25, 0.75],
        "label": "off",
    }
    likely = Encoder(("on", "off"), probabilities=True).encode(
        "s", 1, 0, Sample([], "t"), [0.25, 0.75]
    )
    assert msgspec.json.decode(likely)["probabilities"] == {"on": 0.25, "off": 0.75}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("$", ()),
        ("a", ("a",)),
        ("$.a.b", ("a", "b")),
        ("a[2][0].temp °C", ("a", 2, 0, "temp °C")),
        (r'["a.\"b"].c', ('a."b', "c")),
    ],
)
def test_paths(text, path):
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", ".a", "a..b", "a.", "a[", "a[x]", "a[-1]", "a[65536]", "a]"])
def test_what_is_not_a_path(text):
    with pytest.raises(ValueError, match=r"path|index"):
        parse_path(text)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fields": ["a"]}, "1 fields for a model of 2 features"),
        ({}, "give one of the two"),
        ({"fields": ["a", "b"], "array": "c"}, "give one of the two"),
        ({"fields": ["a", "a.b"]}, "can't be both"),
        ({"fields": ["a[0]", "a.b"]}, "can't be both"),
        ({"fields": ["a", "b"], "timestamp": "a"}, "both a feature"),
    ],
)
def test_paths_that_contradict_each_other(options, text):
    with pytest.raises(ValueError, match=text):
        Decoder(2, **options)
