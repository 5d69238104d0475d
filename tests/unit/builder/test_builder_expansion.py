from __future__ import annotations

import pytest

from agent.builder.expansion import MAX_RESULT, ExpansionError, check_syntax, expand

VARIABLES = {"A": "one", "E": "", "B_2": "two", "P": "/usr/bin"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$A", "one"),
        ("x${A}y", "xoney"),
        ("$B_2-$A", "two-one"),
        ("$Ab", ""),
        ("$UNSET", ""),
        ("${UNSET:-word}", "word"),
        ("${E:-word}", "word"),
        ("${E-word}", ""),
        ("${UNSET-word}", "word"),
        ("${A:+word}", "word"),
        ("${E:+word}", ""),
        ("${E+word}", "word"),
        ("${UNSET:+word}", ""),
        ("${A:?fault}", "one"),
        ("${UNSET:-${A}${B_2}}", "onetwo"),
        ('${UNSET:-"a b"}', "a b"),
        ("'$A'", "$A"),
        ('"$A"', "one"),
        ('"a\\"b"', 'a"b'),
        ('"a\\$A"', "a$A"),
        ('"a\\b"', "a\\b"),
        ("\\$A", "$A"),
        ("a\\ b", "a b"),
        ("a\\", "a"),
        ("$", "$"),
        ("$/x", "$/x"),
        ("a$", "a$"),
        ('""', ""),
        ("P=$P/x", "P=/usr/bin/x"),
        ("é$A", "éone"),
    ],
)
def test_expansion(text: str, wanted: str) -> None:
    assert expand(text, VARIABLES) == wanted


def test_another_escape() -> None:
    assert expand("`$A C:\\dir", VARIABLES, "`") == "$A C:\\dir"


@pytest.mark.parametrize(
    "text",
    ["${", "${A", "${A:-x", "${}", "${:A}", "${A!x}", "${A:x}", "${A#x}", "${A%x}", "${A/x/y}", "'a", '"a', "${A:}"],
)
def test_bad_syntax(text: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        check_syntax(text)
    assert 0 <= caught.value.offset < len(text)


def test_required_variable() -> None:
    with pytest.raises(ExpansionError, match="TOKEN: give one"):
        expand("${TOKEN:?give one}", {})
    check_syntax("${TOKEN:?give one}")


def test_growth_and_nesting_are_bounded() -> None:
    value = "x" * (MAX_RESULT // 2)
    with pytest.raises(ExpansionError, match="more than"):
        expand("$A$A$A", {"A": value})
    with pytest.raises(ExpansionError, match="nested"):
        expand("${A:-" * 1000 + "}" * 1000, {})
