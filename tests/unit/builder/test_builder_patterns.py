from __future__ import annotations

import pytest

from agent.builder.patterns.globclasses import BadPattern
from agent.builder.patterns.patterns import IgnoreRules, compile_segment


@pytest.mark.parametrize(
    ("glob", "name", "wanted"),
    [
        ("*.go", "a.go", True),
        ("*", "", True),
        ("a*b*c", "axxbyyc", True),
        ("a*b*c", "axxbyy", False),
        ("*x", "axbx", True),
        ("x*", "x", True),
        ("?", "é", True),
        ("?", "", False),
        ("[a-c]?", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        ("\\*", "*", True),
        ("\\*", "a", False),
        ("a.c", "abc", False),
        ("[\\]]", "]", True),
        ("a**b", "axb", True),
        ("a", "a\n", False),
    ],
)
def test_segments_match_as_in_go(glob: str, name: str, wanted: bool) -> None:
    assert (compile_segment(glob).match(name) is not None) == wanted


@pytest.mark.parametrize("glob", ["[a", "[]a", "a\\", "[z-a]", "[-a]", "[a-]"])
def test_malformed_patterns(glob: str) -> None:
    with pytest.raises(BadPattern):
        compile_segment(glob)


def test_no_pattern_is_slow() -> None:
    assert compile_segment("*a" * 40 + "b").match("a" * 20_000) is None


def excludes(lines: list[str], path: str) -> bool:
    rules = IgnoreRules(lines)
    matched: tuple[bool, ...] = ()
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        matched = rules.match(parts[:end], matched)
    return rules.excludes(matched)


@pytest.mark.parametrize(
    ("lines", "path", "wanted"),
    [
        ([], "a", False),
        (["# a"], "# a", False),
        (["a"], "a/b/c", True),
        (["a"], "b/a", False),
        (["**/a"], "x/y/a", True),
        (["**/*.o"], "c.o", True),
        (["**/*.o"], "a/b/c.o", True),
        (["a/**"], "a", False),
        (["a/**"], "a/b", True),
        (["a/**/b"], "a/b", True),
        (["a/**/b"], "a/x/y/b", True),
        (["a/*"], "a/b", True),
        (["*/b"], "a/b", True),
        (["*/b"], "b", False),
        (["/a/"], "a", True),
        (["./a/../b"], "b", True),
        (["."], "a", False),
        (["*", "!keep"], "keep/x", False),
        (["*", "!keep"], "other", True),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/README.md"], "docs/other", True),
        (["docs", "!docs/*", "docs/secret"], "docs/secret", True),
        (["  spaced  "], "spaced", True),
    ],
)
def test_dockerignore(lines: list[str], path: str, wanted: bool) -> None:
    assert excludes(lines, path) == wanted


def test_excluded_directories_are_entered_only_for_exceptions() -> None:
    rules = IgnoreRules(["*", "!a/b/c", "!x/**"])
    assert [rules.may_return(path.split("/")) for path in ("a", "a/b", "a/b/c", "a/z", "q", "x", "x/y/z")] == [
        True, True, False, False, False, True, True,
    ]  # fmt: skip


def test_bad_ignore_lines() -> None:
    for line in ("[", "!", "a\\"):
        with pytest.raises(BadPattern):
            IgnoreRules([line])
