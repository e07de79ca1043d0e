import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn.topics import Route, RouteError, Routes, overlap, parse_pattern
from tests.effort import examples


@pytest.mark.parametrize(
    ("pattern", "filter_", "topic", "parts"),
    [
        ("s/{d}/imu", "s/+/imu", "s/x/imu", {"d": "x"}),
        ("s/{d}/imu", "s/+/imu", "s//imu", None),
        ("s/{d}/imu", "s/+/imu", "s/x/y/imu", None),
        ("s/{d}/imu", "s/+/imu", "s/x/imu/", None),
        ("{a}/{b}", "+/+", "x/y", {"a": "x", "b": "y"}),
        ("{a}/{b}", "+/+", "$SYS/y", None),
        ("s/+/{d}/#", "s/+/+/#", "s/1/x", {"d": "x"}),
        ("s/+/{d}/#", "s/+/+/#", "s/1/x/y/z", {"d": "x"}),
        ("s.t/#", "s.t/#", "s.t", {}),
        ("s.t/#", "s.t/#", "sxt/a", None),
        ("#", "#", "a/b", {}),
        ("#", "#", "$SYS/b", None),
        ("$share/group/s/{d}", "$share/group/s/+", "s/x", {"d": "x"}),
    ],
)
def test_a_pattern_is_a_filter_with_names(pattern, filter_, topic, parts):
    p = parse_pattern(pattern)
    assert p.filter == filter_
    assert p.match(topic) == parts


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("s/x{d}", "whole level"),
        ("s/{d", "whole level"),
        ("s/a+", "whole levels"),
        ("#/s", "last level"),
        ("{d}/{d}", "stands once"),
        ("{topic}/x", "is not 'topic'"),
        ("", "1 to 65535 bytes"),
        ("a\0b", "no NUL"),
    ],
)
def test_what_is_not_a_pattern(pattern, text):
    with pytest.raises(ValueError, match=text):
        parse_pattern(pattern)


def test_streams_and_answers_take_the_parts():
    routes = Routes(["site/{site}/{pump}/data"], None, "out/{pump}/at-{site}")
    assert routes.route("site/a/7/data") == Route("site/{site}/{pump}/data", "a/7", "out/7/at-a")
    assert routes.route("site/a/7/other") is None
    assert Routes(["s/+"], None, "out").route("s/x").stream == "s/x"
    assert Routes(["s/{a}", "t/{a}"], "{a}", "out/{topic}").route("t/1").output == "out/t/1"


@pytest.mark.parametrize(
    ("patterns", "stream", "output", "part", "text"),
    [
        (["s/{d}"], None, "out/{e}", "output", r"uses \{e\}.*known: \{d\}, \{topic\}"),
        (["s/{d}"], "{e}", "out", "stream", r"uses \{e\}"),
        (["s/{d}"], None, "out/{d", "output", "braces"),
        (["s/{d}"], None, "out/+", "output", "not a topic to publish to"),
        (["s/{d}"], None, "s/out", "output", "come back as input"),
        (["s/{d}"], None, "{d}/{d}", "output", "come back as input"),
        (["s/#"], None, "{topic}/out", "output", "come back as input"),
        (["s/{d}", "t/{d}"], None, "out", "stream", "several input topics"),
        (["s/{d}", "s/#"], "{topic}", "out", "patterns", "overlap"),
        (["$share/g/s/{d}", "s/{d}"], "{topic}", "out", "patterns", "overlap"),
        ([], None, "out", "patterns", "no input topic"),
    ],
)
def test_templates_are_checked_before_anything_runs(patterns, stream, output, part, text):
    with pytest.raises(RouteError, match=text) as e:
        Routes(patterns, stream, output)
    assert e.value.part == part


def test_a_topic_that_can_not_be_answered_is_not_ours():
    routes = Routes(["s/{d}"], None, "a-long-prefix/{d}")
    assert routes.route("s/" + "x" * 65530) is None
    assert routes.route("s/+") is None


LEVELS = st.lists(st.sampled_from(["a", "b", "", "+"]), min_size=1, max_size=4)


@given(LEVELS, LEVELS, st.booleans(), st.lists(st.sampled_from(["a", "b", ""]), min_size=1))
@examples(100)
def test_filters_that_match_one_topic_overlap(a, b, deep, topic):
    first = "/".join([*a, "#"] if deep else a)
    second = "/".join(b)
    text = "/".join(topic)
    if first and second and text:
        both = [parse_pattern(f).match(text) is not None for f in (first, second)]
        if all(both):
            assert overlap(first, second)
            assert overlap(second, first)
