"""File name patterns: Go's filepath.Match for COPY, and .dockerignore's, both in time linear in the name. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agent.builder.patterns.globclasses import BadPattern, next_class
from agent.builder.patterns.oddpatterns import OddPattern, is_odd

MAX_PATTERNS = 10_000
_ANY_DEPTH = "**"
_SPACE = " \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def has_wildcard(text: str) -> bool:
    """Whether a path is a pattern."""
    return any(character in text for character in "*?[\\")


def compile_segment(glob: str) -> re.Pattern[str]:
    """A pattern for one path component: ``*``, ``?``, ``[a-z]``, ``[^a-z]``, escapes. Raises BadPattern.

    What follows a star is looked for once, nearest first, and never again (an atomic group): that is all a pattern
    without alternatives needs, and no pattern is slow.
    """
    chunks: list[list[str]] = [[]]
    index = 0
    while index < len(glob):
        if glob[index] == "*":
            chunks.append([])
            index += 1
            continue
        piece, index = _next_piece(glob, index)
        chunks[-1].append(piece)
    first, *rest = ("".join(chunk) for chunk in chunks)
    if not rest:
        return re.compile(first + r"\Z", re.DOTALL)
    middle = "".join(f"(?>.*?{chunk})" for chunk in rest[:-1] if chunk)
    return re.compile(f"{first}{middle}.*{rest[-1]}\\Z", re.DOTALL)


def _next_piece(glob: str, index: int) -> tuple[str, int]:
    character = glob[index]
    if character == "?":
        return ".", index + 1
    if character == "\\":
        if index + 1 == len(glob):
            raise BadPattern(f"{glob!r} ends in an escape")
        return re.escape(glob[index + 1]), index + 2
    if character == "[":
        return next_class(glob, index + 1)
    return re.escape(character), index + 1


class _Rule(NamedTuple):
    """``segments`` match one component each, None any number of them; ``odd`` is what cannot be split into such."""

    negated: bool
    segments: tuple[re.Pattern[str] | None, ...] = ()
    odd: OddPattern | None = None

    def matches(self, path: Sequence[str]) -> bool:
        return _matches(self.segments, path) if self.odd is None else self.odd.match("/".join(path))

    def leads_into(self, path: Sequence[str]) -> bool:
        return self.odd is not None or _leads_into(self.segments, path)


class IgnoreRules:
    """What .dockerignore leaves out. The last rule that matches a path, or a directory above it, decides."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._rules: list[_Rule] = []
        for line in lines:
            rule = _parse_rule(line)
            if rule is not None:
                self._rules.append(rule)
            if len(self._rules) > MAX_PATTERNS:
                raise BadPattern(f"more than {MAX_PATTERNS} patterns")
        self._negated = [rule for rule in self._rules if rule.negated]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def match(self, path: Sequence[str], above: Sequence[bool] = ()) -> tuple[bool, ...]:
        """Which rules apply to a path, given which apply to its directory (the result for that, or nothing)."""
        return tuple((bool(above) and above[index]) or rule.matches(path) for index, rule in enumerate(self._rules))

    def excludes(self, matched: Sequence[bool]) -> bool:
        """Whether what these rules apply to is left out."""
        for rule, applies in zip(reversed(self._rules), reversed(matched), strict=True):
            if applies:
                return not rule.negated
        return False

    def may_return(self, path: Sequence[str]) -> bool:
        """Whether an exception could bring something below an excluded directory back."""
        return any(rule.leads_into(path) for rule in self._negated)


def _parse_rule(line: str) -> _Rule | None:
    if line.startswith("#"):
        return None
    text = line.strip(_SPACE)
    negated = text.startswith("!")
    if negated:
        text = text[1:].strip(_SPACE)
        if not text:
            raise BadPattern("the pattern ! excepts nothing")
    if not text:
        return None
    text = posixpath.normpath(text).lstrip("/")
    if text in ("", "."):
        return None
    if is_odd(text):
        return _Rule(negated, odd=OddPattern(text))
    segments = [None if part == _ANY_DEPTH else compile_segment(part) for part in text.split("/")]
    return _Rule(negated, tuple(segments))


def _matches(segments: Sequence[re.Pattern[str] | None], path: Sequence[str]) -> bool:
    """By rows: which beginnings of the path the pattern so far matches."""
    row = [True] + [False] * len(path)
    for position, segment in enumerate(segments):
        if segment is None:
            reached = False
            following = []
            for value in row:
                reached = reached or value
                following.append(reached)
            if position == len(segments) - 1:
                following = [False, *(value for value in following[:-1])]
            row = following
        else:
            row = [False] + [row[end] and segment.match(path[end]) is not None for end in range(len(path))]
        if not any(row):
            return False
    return row[-1]


def _leads_into(segments: Sequence[re.Pattern[str] | None], path: Sequence[str]) -> bool:
    for segment, name in zip(segments, path, strict=False):
        if segment is None:
            return True
        if segment.match(name) is None:
            return False
    return len(segments) > len(path)
