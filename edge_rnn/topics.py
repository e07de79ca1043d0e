"""Topic patterns with named parts: which messages are ours, whose stream they are, where to answer.

A pattern such as `sensors/{device}/imu` is the MQTT filter `sensors/+/imu` whose wildcard has a
name; templates such as `predictions/{device}` use the names, and `{topic}` for the whole topic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, zip_longest
from typing import Literal

MAX_TOPIC_BYTES = 65535
_CACHED = 10_000
_NAMED = re.compile(r"\{([A-Za-z_]\w*)\}")
_SHARED = re.compile(r"\$share/[^/+#]+/")
_TOPIC = "topic"


class RouteError(ValueError):
    """Topics or templates that don't work; `part` says which argument of `Routes` is wrong."""

    def __init__(self, part: Literal["patterns", "stream", "output"], problem: str) -> None:
        super().__init__(problem)
        self.part = part


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed input pattern.

    filter: what to subscribe to; names: its named parts, in order.
    """

    text: str
    filter: str
    names: tuple[str, ...]
    regex: re.Pattern[str]

    @property
    def own_filter(self) -> str:
        """The filter without a shared subscription's prefix."""
        return _SHARED.sub("", self.filter)

    @property
    def own_text(self) -> str:
        """The pattern without a shared subscription's prefix."""
        return _SHARED.sub("", self.text)

    def match(self, topic: str) -> dict[str, str] | None:
        """The named parts of a topic, or None if the pattern does not match it."""
        found = self.regex.fullmatch(topic)
        return found and found.groupdict()


def parse_pattern(text: str) -> Pattern:
    """Raises ValueError saying what is wrong with the pattern."""
    own = _SHARED.sub("", text)
    levels = own.split("/")
    names = [_level_name(text, level) for level in levels]
    found = tuple(n for n in names if n)
    if len(set(found)) < len(found) or _TOPIC in found:
        raise ValueError(f"{text!r}: a part's name stands once and is not {_TOPIC!r}")
    if "#" in levels[:-1]:
        raise ValueError(f"{text!r}: '#' can only be the last level")
    _check_length(text, own)
    wild = ["+" if name else level for name, level in zip(names, levels, strict=True)]
    prefix = text.removesuffix(own)
    return Pattern(text, prefix + "/".join(wild), found, _regex(levels))


def overlap(a: str, b: str) -> bool:
    """True if some topic matches both filters."""
    for x, y in zip_longest(a.split("/"), b.split("/")):
        if "#" in (x, y):
            return True
        if x is None or y is None or (x != y and "+" not in (x, y)):
            return False
    return True


@dataclass(frozen=True, slots=True)
class Route:
    """Where a topic's messages go: the pattern they came by, stream id and output topic."""

    pattern: str
    stream: str
    output: str


class Routes:
    """From input topics to streams and output topics.

    stream: template of the stream id; None joins the pattern's named parts with "/", or takes the
        whole topic when there are none.
    cached: routes that are remembered at once, at least.
    Raises RouteError when a template uses a name that a pattern lacks, when patterns overlap, or
    when an output topic could match an input pattern.
    """

    def __init__(
        self, patterns: Sequence[str], stream: str | None, output: str, cached: int = 0
    ) -> None:
        self.patterns = _parse_patterns(patterns)
        if stream is None and len(patterns) > 1:
            raise RouteError(
                "stream",
                "missing: with several input topics, say what one stream is: "
                '"{topic}" keeps topics apart, a part\'s name joins them',
            )
        names = self.patterns[0].names
        self.stream = stream or "/".join(f"{{{n}}}" for n in names) or f"{{{_TOPIC}}}"
        self.output = output
        self._cache: dict[str, Route | None] = {}
        self._cached = max(_CACHED, cached)
        for pattern in self.patterns:
            _check_template("stream", self.stream, pattern)
            _check_template("output", output, pattern)
            _check_loop(output, pattern, self.patterns)

    @property
    def output_filters(self) -> list[str]:
        """Filters that match every topic we publish to, and perhaps others."""
        return list(dict.fromkeys(_output_filter(self.output, p) for p in self.patterns))

    def is_input(self, topic: str) -> bool:
        """Does a topic come by one of our subscriptions, be it one that we can't use?"""
        return self.route(topic) is not None or any(
            overlap(topic, p.own_filter) for p in self.patterns
        )

    def route(self, topic: str) -> Route | None:
        """The topic's route, or None if it is not ours: no pattern matches, a named part is
        empty, or the topics are not valid."""
        try:
            return self._cache[topic]
        except KeyError:
            if len(self._cache) >= self._cached:
                self._cache.clear()
            route = self._cache[topic] = self._find(topic)
            return route

    def _find(self, topic: str) -> Route | None:
        for pattern in self.patterns:
            parts = pattern.match(topic)
            if parts is not None:
                known = {**parts, _TOPIC: topic}
                route = Route(pattern.text, fill(self.stream, known), fill(self.output, known))
                return route if _valid(topic) and _valid(route.output) else None
        return None


def fill(template: str, parts: Mapping[str, str]) -> str:
    """The template with each {name} replaced."""
    return _NAMED.sub(lambda m: parts[m[1]], template)


def _level_name(text: str, level: str) -> str:
    named = _NAMED.fullmatch(level)
    if named:
        return named[1]
    if "{" in level or "}" in level:
        raise ValueError(f"{text!r}: a named part is a whole level, such as a/{{device}}/b")
    if level not in ("+", "#") and ("+" in level or "#" in level):
        raise ValueError(f"{text!r}: '+' and '#' are whole levels")
    return ""


def _check_length(text: str, own: str) -> None:
    if not own or "\0" in text or len(text.encode()) > MAX_TOPIC_BYTES:
        raise ValueError(f"{text[:80]!r}: a topic has 1 to {MAX_TOPIC_BYTES} bytes and no NUL")


def _regex(levels: Sequence[str]) -> re.Pattern[str]:
    parts = []
    for level in levels:
        named = _NAMED.fullmatch(level)
        if named:
            parts.append(f"/(?P<{named[1]}>[^/]+)")
        else:
            parts.append({"+": "/[^/]*", "#": "(?:/.*)?"}.get(level, "/" + re.escape(level)))
    text = "".join(parts)
    if levels[0] == "#":
        return re.compile(r"(?!\$).*", re.DOTALL)
    wild = levels[0] == "+" or _NAMED.fullmatch(levels[0])
    return re.compile((r"(?!\$)" if wild else "") + text.removeprefix("/"), re.DOTALL)


def _parse_patterns(texts: Sequence[str]) -> list[Pattern]:
    if not texts:
        raise RouteError("patterns", "no input topic")
    try:
        patterns = [parse_pattern(text) for text in texts]
    except ValueError as e:
        raise RouteError("patterns", str(e)) from e
    for a, b in combinations(patterns, 2):
        if overlap(a.own_filter, b.own_filter):
            raise RouteError(
                "patterns",
                f"{a.text!r} and {b.text!r} overlap: a broker may deliver a message twice",
            )
    return patterns


def _check_template(part: Literal["stream", "output"], template: str, pattern: Pattern) -> None:
    known = [*pattern.names, _TOPIC]
    for name in _NAMED.findall(template):
        if name not in known:
            raise RouteError(
                part,
                f"{template!r} uses {{{name}}}, which {pattern.text!r} does not name; "
                f"known: {', '.join(f'{{{n}}}' for n in known)}",
            )
    rest = _NAMED.sub("", template)
    if "{" in rest or "}" in rest:
        raise RouteError(part, f"{template!r}: braces stand around a part's name only")
    if part == "output" and not _valid(template):
        raise RouteError(part, f"{template!r} is not a topic to publish to: no '+', no '#'")


def _check_loop(output: str, source: Pattern, patterns: Sequence[Pattern]) -> None:
    for pattern in patterns:
        if overlap(_output_filter(output, source), pattern.own_filter):
            raise RouteError(
                "output",
                f"{output!r} matches the input {pattern.text!r}: predictions would come back "
                "as input",
            )


def _output_filter(template: str, pattern: Pattern) -> str:
    """A filter that matches at least every topic the template can make."""
    expanded = template.replace(f"{{{_TOPIC}}}", pattern.own_filter)
    return "/".join("+" if "{" in level else level for level in expanded.split("/"))


def _valid(topic: str) -> bool:
    return (
        bool(topic)
        and not any(c in topic for c in "+#\0")
        and len(topic.encode(errors="surrogatepass")) <= MAX_TOPIC_BYTES
    )
