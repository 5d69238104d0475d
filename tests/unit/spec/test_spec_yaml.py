"""The bytes of a file: what is not YAML, not text, too much, or twice."""

from __future__ import annotations

import time

import pytest
from spec_loading import load, problems_of

GOOD = "services: {web: {image: x}}\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (GOOD.encode("utf-16"), "0: the file is UTF-16: save it as UTF-8"),
        (GOOD.encode("utf-16-le"), "1:2: control character U+0000: is this UTF-16 or a binary file?"),
        (GOOD.encode("utf-32"), "0: the file is UTF-32: save it as UTF-8"),
        ("a: 1\nname: caf\xe9".encode("latin-1"), "2:10: byte 0xe9 is not UTF-8: save the file as UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "1:1: control character U+007F: only text is allowed here"),
        (b"a: 1\nb: \x1b[2J", "2:4: control character U+001B: only text is allowed here"),
        (b"\x00" * 100, "1:1: control character U+0000"),
        (b"a" * (1 << 20) + b"a", "0: the file is larger than 1 MiB"),
    ],
)
def test_what_is_not_text(data: bytes, said: str) -> None:
    (problem,) = problems_of(data)
    assert said.removeprefix("0: ") in problem
    if not said.startswith("0: "):
        assert problem.startswith(said)


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    assert load(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()).services["web"].image == "x"


def test_columns_count_characters() -> None:
    assert problems_of("x-a: 'äöü'\nservices: {web: {image: x, x-é: 'ü', usr: 1}}")[0].startswith("2:38: ")


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("services:\n  web:\n\timage: x\n", "3:1", "YAML is indented with spaces, not tabs"),
        ("a: [1, 2\nb: 3\n", "2:2", "not YAML"),
        ("a: 'x\n", "1:6", "not YAML"),
        ("a: b: c\n", "1:5", "not YAML"),
        ("a: 1\n---\nb: 2\n", "2:1", "a second YAML document: one file holds one app"),
        ("a: 1\na: 2\n", "2:1", "the key 'a' is there already, in line 1"),
        ("services:\n  w: {image: x}\n  'w': {image: y}\n", "3:3", "the key 'w' is there already, in line 2"),
        ("a: *gone\n", "1:4", "the alias '*gone' has no anchor before it"),
        ("x-a: &a {b: *a}\n", "1:13", "the alias '*a' stands inside of what it stands for"),
        ("x-a: &a [*a, *a]\n", "1:10", "the alias '*a' stands inside of what it stands for"),
        ("x-a: !!python/object:os.system x\n", "1:6", "the YAML tag '!!python/object:os.system' is not supported"),
        ("x-a: !reset null\n", "1:6", "the YAML tag '!reset' is not supported yet"),
        ("? [a, b]\n: c\n", "1:3", "a key must be a single value, not a list"),
        ("x-a: {<<: word}\n", "1:11", "<< merges mappings, not a single value"),
        ('a: "\\0"\n', "1:4", "a NUL character is not allowed"),
        ("%YAML 9.9\n--- a\n", "1:1", "not YAML"),
    ],
)
def test_what_is_not_yaml(text: str, place: str, said: str) -> None:
    found = [problem for problem in problems_of(text) if said in problem]
    assert found, problems_of(text)
    assert found[0].startswith(f"{place}: ")


def test_anchors_and_merges() -> None:
    app = load(
        """\
        x-base: &base {image: base, user: "1", labels: {a: b}}
        x-more: &more {user: "2", hostname: more}
        services:
          one: {<<: *base, user: "9"}
          two: {<<: [*more, *base]}
          three: *base
        """
    )
    assert [(s.image, s.user, s.hostname) for s in app.services.values()] == [
        ("base", "9", None),
        ("base", "2", "more"),
        ("base", "1", None),
    ]


def test_a_problem_in_what_is_merged_is_where_it_is_written() -> None:
    assert problems_of("x-a: &a {usr: 1}\nservices:\n  w: {<<: *a, image: x}\n") == [
        "1:10: services.w.usr: unknown key; the nearest known one is 'user'"
    ]


BOMBS = {
    "laughs": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)),
    "merges": "a0: &a0 {k: v}\n"
    + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}], k{i}: v}}\n" for i in range(1, 30)),
    "text": f"a0: &a0 {'x' * 500_000}\na1: [{','.join(['*a0'] * 100_000)}]\n",
    "deep list": "[" * 500_000,
    "deep mapping": "{a: " * 200_000,
    "deep indent": "".join(f"{' ' * i}a:\n" for i in range(1000)),
    "many values": "a: [" + "x," * 400_000 + "]",
    "many keys": "".join(f"k{i}: v\n" for i in range(90_000)),
    "many unknown": "services:\n  w:\n    image: x\n" + "".join(f"    k{i}: v\n" for i in range(70_000)),
    "long key": f"{'k' * 900_000}: 1",
    "questions": "? " * 300_000,
    "dashes": "- " * 300_000,
    "anchors": "".join(f"k{i}: &a{i} v\n" for i in range(60_000)),
    "variables": "name: a\nservices: {w: {image: x, user: '" + "${A:-" * 100_000 + "'}}",
    "closed variables": "services: {w: {image: x, user: '" + "${A:-" * 60_000 + "}" * 60_000 + "'}}",
    "comments": "#" * 1_000_000,
    "quotes": "'" * 900_000,
    "services": "services: {" + ",".join(f"s{i}: {{image: x}}" for i in range(20_000)) + "}",
    "ports": "services: {w: {image: x, ports: [" + ",".join(["1-1000:1-1000"] * 5000) + "]}}",
    "many mounts": "services: {w: {image: x, volumes: [" + ",".join(f"/v{i}" for i in range(40_000)) + ", /v0]}}",
    "circles": "services: {"
    + ",".join(f"s{i}: {{image: x, depends_on: [s{(i + 1) % 1999}]}}" for i in range(1999))
    + "}",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(60)
def test_a_bomb_ends_soon_with_a_problem(name: str) -> None:
    begin = time.process_time()
    found = problems_of(BOMBS[name])
    assert 0 < len(found) <= 501
    assert sum(map(len, found)) < 1 << 20
    assert time.process_time() - begin < 30


def test_a_variable_that_multiplies_is_stopped() -> None:
    files = {".env": "A0=" + "x" * 1000 + "\n" + "".join(f"A{i}=" + f"${{A{i - 1}}}" * 10 + "\n" for i in range(1, 12))}
    found = problems_of("services: {web: {image: x, user: '$A11'}}", files)
    assert any("grows beyond 256 KiB through its variables" in problem for problem in found)


@pytest.mark.parametrize(
    ("merged", "said"),
    [
        ("*bild", "4:11: the alias '*bild' has no anchor before it"),
        ("[*bild]", "4:12: the alias '*bild' has no anchor before it"),
        ("bild", "4:11: << merges mappings, not a single value"),
    ],
)
def test_a_merge_of_nothing_is_the_only_problem(merged: str, said: str) -> None:
    """What it would have brought is missing, but that is not the fault."""
    assert problems_of(f"services:\n  web:\n    build:\n      <<: {merged}\n      context: nowhere\n") == [said]
