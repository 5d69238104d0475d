"""Interpolation against a reference: the table of the Compose Specification, and a second reading of its grammar."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.spec.interpolate import InterpolationError, Interpolator

REFUSED = None
TABLE = [
    # written            set: "v"   empty: ""   unset
    ("$V", "v", "", ""),
    ("${V}", "v", "", ""),
    ("${V:-d}", "v", "d", "d"),
    ("${V-d}", "v", "", "d"),
    ("${V:-}", "v", "", ""),
    ("${V-}", "v", "", ""),
    ("${V:+o}", "o", "", ""),
    ("${V+o}", "o", "o", ""),
    ("${V:+}", "", "", ""),
    ("${V:?m}", "v", REFUSED, REFUSED),
    ("${V?m}", "v", "", REFUSED),
    ("${V:?}", "v", REFUSED, REFUSED),
    ("${V?}", "v", "", REFUSED),
    ("${V:-${W}}", "v", "w", "w"),
    ("${V:-${N:-deep}}", "v", "deep", "deep"),
    ("${V-${W:+x}${N-y}}", "v", "", "xy"),
    ("${V:+${W}}", "w", "", ""),
    ("${V:+${N:?m}}", REFUSED, "", ""),
    ("${V:-${N?m}}", "v", REFUSED, REFUSED),
    ("a${V:-b}c${V:+d}e", "avcde", "abce", "abce"),
    ("$V$V", "vv", "", ""),
    ("$V.$W", "v.w", ".w", ".w"),
    ("$$V", "$V", "$V", "$V"),
    ("$$$V", "$v", "$", "$"),
    ("$${V:-d}", "${V:-d}", "${V:-d}", "${V:-d}"),
    ("${V:-$$}", "v", "$", "$"),
    ("${V:-a:-b}", "v", "a:-b", "a:-b"),
    ("${V:-a?b+c}", "v", "a?b+c", "a?b+c"),
    ("${V:-/etc/x y}", "v", "/etc/x y", "/etc/x y"),
    ("{V}", "{V}", "{V}", "{V}"),
    ("${V}}", "v}", "}", "}"),
    ("$", REFUSED, REFUSED, REFUSED),
    ("a$", REFUSED, REFUSED, REFUSED),
    ("$ V", REFUSED, REFUSED, REFUSED),
    ("$1", REFUSED, REFUSED, REFUSED),
    ("${}", REFUSED, REFUSED, REFUSED),
    ("${V", REFUSED, REFUSED, REFUSED),
    ("${V:-${W}", REFUSED, REFUSED, REFUSED),
    ("${1}", REFUSED, REFUSED, REFUSED),
    ("${ V}", REFUSED, REFUSED, REFUSED),
    ("${V!x}", REFUSED, REFUSED, REFUSED),
    ("${V:x}", REFUSED, REFUSED, REFUSED),
    ("${V:}", REFUSED, REFUSED, REFUSED),
]


def resolve(text: str, variables: Mapping[str, str]) -> str | None:
    try:
        return Interpolator(variables.get).resolve(text)
    except InterpolationError:
        return REFUSED


@pytest.mark.parametrize(("text", "when_set", "when_empty", "when_unset"), TABLE, ids=[row[0] for row in TABLE])
def test_the_table(text: str, when_set: str | None, when_empty: str | None, when_unset: str | None) -> None:
    assert resolve(text, {"V": "v", "W": "w"}) == when_set
    assert resolve(text, {"V": "", "W": "w"}) == when_empty
    assert resolve(text, {"W": "w"}) == when_unset


def test_a_missing_variable_says_what_its_author_says() -> None:
    with pytest.raises(InterpolationError, match=r"^the variable V is not set: set V in \.env$"):
        Interpolator({}.get).resolve("${V:?set V in .env}")


NAMES = st.sampled_from(["A", "B", "_c", "D9"])
VARIABLES = st.dictionaries(NAMES, st.sampled_from(["", "x", "y z", "$A", "${B}", "}", "$"]))
LITERALS = st.text(st.characters(exclude_characters="${}", exclude_categories=["Cs"]), max_size=5)
Part = tuple[str, ...] | str


def parts(inner: st.SearchStrategy[list[Part]]) -> st.SearchStrategy[list[Part]]:
    operators = st.sampled_from([":-", "-", ":?", "?", ":+", "+"])
    braced = st.tuples(st.just("braced"), NAMES, operators, inner)
    return st.lists(st.one_of(LITERALS, st.just(("dollar",)), st.tuples(st.just("plain"), NAMES), braced), max_size=4)


TREES = st.recursive(st.lists(LITERALS, max_size=2), parts, max_leaves=12)


def write(tree: list[Part]) -> str:
    out = ""
    for part in tree:
        match part:
            case str():
                out += part
            case ("dollar",):
                out += "$$"
            case ("plain", name):
                out += f"${{{name}}}"
            case ("braced", name, operator, words):
                out += f"${{{name}{operator}{write(words)}}}"
    return out


def evaluate(tree: list[Part], variables: Mapping[str, str]) -> str:
    """Straight from the words of the specification. Raises KeyError where a value is required."""
    out = ""
    for part in tree:
        match part:
            case str():
                out += part
            case ("dollar",):
                out += "$"
            case ("plain", name):
                out += variables.get(name, "")
            case ("braced", name, operator, words):
                there = bool(variables.get(name)) if operator[0] == ":" else name in variables
                if operator[-1] == "-":
                    out += variables[name] if there else evaluate(words, variables)
                elif operator[-1] == "+":
                    out += evaluate(words, variables) if there else ""
                elif there:
                    out += variables[name]
                else:
                    raise KeyError(name)
    return out


@settings(deadline=None)
@given(TREES, VARIABLES)
def test_every_nesting_means_what_the_specification_says(tree: list[Part], variables: dict[str, str]) -> None:
    try:
        expected: str | None = evaluate(tree, variables)
    except KeyError:
        expected = REFUSED
    assert resolve(write(tree), variables) == expected


@settings(deadline=None)
@given(st.text(st.sampled_from("${}:-+?AB_9 x"), max_size=60), VARIABLES)
def test_any_text_is_resolved_or_refused(text: str, variables: dict[str, str]) -> None:
    found = resolve(text, variables)
    if "$" not in text:
        assert found == text


@settings(deadline=None)
@given(st.text(max_size=30))
def test_values_are_not_looked_into(value: str) -> None:
    assert resolve("${A:-x}", {"A": value}) == (value or "x")
