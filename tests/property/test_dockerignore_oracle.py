"""Docker's own reading of .dockerignore, written down a second time the way moby/patternmatcher has it."""

from __future__ import annotations

import posixpath
import re

from hypothesis import example, given
from hypothesis import strategies as st

from agent.builder.patterns.patterns import IgnoreRules


def translate(pattern: str) -> re.Pattern[str] | tuple[str, str]:
    """What Docker makes of a clean pattern: a regular expression, or a kind of plain comparison and its text."""
    kind, text, index, number = "exact", "", 0, 0
    while index < len(pattern):
        if pattern.startswith("**", index):
            index += 2
            index += pattern[index : index + 1] == "/"
            if index == len(pattern):
                kind, text = ("prefix", text) if kind == "exact" else ("regexp", text + ".*")
            else:
                kind, text = "regexp", text + "(.*/)?"
            if number == 0:
                kind = "suffix"
        elif pattern[index] == "*":
            kind, text, index = "regexp", text + "[^/]*", index + 1
        elif pattern[index] == "?":
            kind, text, index = "regexp", text + "[^/]", index + 1
        elif pattern[index] == "[":
            end = pattern.index("]", index) + 1
            kind, text, index = "regexp", text + pattern[index:end], end
        else:
            text, index = text + re.escape(pattern[index]), index + 1
        number += 1
    if kind == "regexp":
        return re.compile(text, re.DOTALL)
    return kind, {"exact": pattern, "prefix": pattern[:-2], "suffix": pattern[2:]}[kind]


def matches(pattern: str, path: str) -> bool:
    found = translate(pattern)
    if isinstance(found, re.Pattern):
        return found.fullmatch(path) is not None
    kind, text = found
    if kind == "exact":
        return path == text
    if kind == "prefix":
        return path.startswith(text)
    return path.endswith(text) or (text[:1] == "/" and path == text[1:])


def is_excluded(lines: list[str], path: str) -> bool:
    parts = path.split("/")
    excluded = False
    for line in lines:
        pattern = line.strip()
        if line.startswith("#") or not pattern:
            continue
        negated = pattern.startswith("!")
        clean = posixpath.normpath(pattern[negated:].strip())
        clean = clean[1:] if len(clean) > 1 and clean.startswith("/") else clean
        if any(matches(clean, "/".join(parts[:end])) for end in range(1, len(parts) + 1)):
            excluded = not negated
    return excluded


PIECES = st.sampled_from(["a", "b", "*", "**", "?", "[ab]", "[^a]", ".x"])
PARTS = st.lists(PIECES, min_size=1, max_size=3).map("".join)
PATTERNS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
LINES = st.tuples(st.sampled_from(["", "!", "/", "!/", "# ", " "]), PATTERNS, st.sampled_from(["", "/", " "])).map(
    "".join
)
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aab", "a.x"]), min_size=1, max_size=4).map("/".join)


@example(["a**b"], "axb")
@example(["a**b"], "a/x/b")
@example(["**b"], "aab")
@example(["a**"], "ab/a")
@example(["**", "!**/a"], "b/a")
@example(["[^a]"], "b/a")
@given(st.lists(LINES, min_size=1, max_size=4), PATHS)
def test_rules_agree_with_dockers_translation(lines: list[str], path: str) -> None:
    rules = IgnoreRules(lines)
    matched: tuple[bool, ...] = ()
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        matched = rules.match(parts[:end], matched)
    assert rules.excludes(matched) == is_excluded(lines, path)


@given(st.lists(LINES, min_size=1, max_size=4), PATHS, PATHS)
def test_a_directory_is_entered_when_something_in_it_is_kept(lines: list[str], above: str, below: str) -> None:
    """A walk that asks ``may_return`` finds every file that the rules keep."""
    rules = IgnoreRules(lines)
    parts = f"{above}/{below}".split("/")
    matched: tuple[bool, ...] = ()
    entered = True
    for end in range(1, len(parts)):
        matched = rules.match(parts[:end], matched)
        entered = entered and (not rules.excludes(matched) or rules.may_return(parts[:end]))
    if not rules.excludes(rules.match(parts, matched)):
        assert entered
