from __future__ import annotations

import pytest

from agent.builder.dockerfile.expansion import MAX_RESULT, ExpansionError, check_syntax, expand

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


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("${F#*/}", "lib/a.tar.gz"),
        ("${F##*/}", "a.tar.gz"),
        ("${F%.*}", "usr/lib/a.tar"),
        ("${F%%.*}", "usr/lib/a"),
        ("${F#usr}", "/lib/a.tar.gz"),
        ("${F#lib}", "usr/lib/a.tar.gz"),
        ("${F%?gz}", "usr/lib/a.tar"),
        ("${F#*}", "usr/lib/a.tar.gz"),
        ("${F##*}", ""),
        ("${F/lib/bin}", "usr/bin/a.tar.gz"),
        ("${F/a/}", "usr/lib/.tar.gz"),
        ("${F//a/A}", "usr/lib/A.tAr.gz"),
        ("${F/\\//:}", "usr:lib/a.tar.gz"),
        ("${F//\\//:}", "usr:lib:a.tar.gz"),
        ("${F//?a/-}", "usr/lib-.-r.gz"),
        ("${F/l*t/-}", "usr/-ar.gz"),
        ("${F//none/x}", "usr/lib/a.tar.gz"),
        ("${F##$P}", "/lib/a.tar.gz"),
        ("${F/${P}/$A}", "one/lib/a.tar.gz"),
        ("${UNSET#x}", ""),
        ("${UNSET/x/y}", ""),
        ("${S#\\*}", "b?c"),
        ("${S/\\?/!}", "*b!c"),
        ("${S//[b]/x}", "*b?c"),
    ],
)
def test_patterns(text: str, wanted: str) -> None:
    assert expand(text, {"F": "usr/lib/a.tar.gz", "P": "usr", "A": "one", "S": "*b?c"}) == wanted


def test_no_pattern_is_slow_and_no_replacement_large() -> None:
    value = "a" * 200_000
    for text in ("${V#*b*b*b}", "${V%%*b*b*b}", "${V/a*a*a*b/x}", "${V//a*b/x}"):
        assert expand(text, {"V": value}) == value
    with pytest.raises(ExpansionError, match="more than"):
        expand("${V//a/$V}", {"V": value})


def test_here_documents_keep_their_quotes() -> None:
    assert expand("'$A' \\$A \"x\"\n", VARIABLES, quotes=False) == "'one' $A \"x\"\n"


def test_another_escape() -> None:
    assert expand("`$A C:\\dir", VARIABLES, "`") == "$A C:\\dir"


@pytest.mark.parametrize(
    "text",
    ["${", "${A", "${A:-x", "${}", "${:A}", "${A!x}", "${A:x}", "${A#x", "${A/x}", "${A:#x}", "${A%\\x}", "'a", '"a'],
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
