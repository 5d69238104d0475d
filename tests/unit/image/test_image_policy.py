"""The image policy's file: patterns, problems, and what is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import InvalidSpec
from agent.image.trust.policy import PolicyFile, Rule, subject_of
from agent.oci.reference import parse_reference
from agent.oci.source import InvalidSource, LocalImage, parse_local_image

KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("registry.example/shop/*", "registry.example/shop/web", True),
        ("registry.example/shop/*", "registry.example/shop/a/b", False),
        ("registry.example/shop/**", "registry.example/shop/a/b:1", True),
        ("registry.example/shop", "registry.example/shop-two", False),
        ("registry.example/shop", "registryXexample/shop", False),
        ("docker.io/library/alpine", "alpine:3", True),
        ("*/library/alpine", "alpine", True),
        ("localhost:5000/**", "localhost:5000/x@sha256:" + "a" * 64, True),
        ("**", "anything.example/a/b", True),
    ],
)
def test_patterns(pattern: str, name: str, matches: bool) -> None:
    assert Rule(pattern, "accept", "").matches(subject_of(parse_reference(name))) is matches


def test_the_first_rule_decides(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    (tmp_path / "a.pub").write_text(KEY)
    path.write_text(
        "default: reject\nrules:\n"
        "  - {match: R.example/a/b, policy: accept}\n"
        "  - match: r.example/a/**\n    policy: require\n    keys: [a.pub]\n"
    )
    policy = PolicyFile(path).current()
    assert [policy.find(f"r.example/{name}").verdict for name in ("a/b", "a/c", "d")] == ["accept", "require", "reject"]
    assert [rule.place for rule in policy.rules] == [f"{path}:3", f"{path}:4", f"{path}:1"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the policy must be a mapping"),
        ("rules: []", "default is missing"),
        ("default: maybe", "1:10: default: must be accept or reject"),
        ("default: accept\nrules: {}", "2:8: rules must be a list"),
        ("default: accept\ndefault: reject", "said twice"),
        ("default: accept\nmore: 1", "2:1: 'more' is unknown"),
        ("default: accept\nrules: [{policy: accept}]", "match is missing"),
        ("default: accept\nrules: [{match: alpine, policy: accept}]", "docker.io/library/alpine"),
        ("default: accept\nrules: [{match: docker.io/alpine, policy: accept}]", "docker.io/library/alpine"),
        ("default: accept\nrules: [{match: r.io/a, policy: accept, keys: []}]", "means nothing"),
        ("default: accept\nrules: [{match: r.io/a, policy: require}]", "needs keys"),
        ("default: accept\nrules: [{match: r.io/a, policy: require, keys: [none.pub]}]", "No such file"),
        ("default: accept\nrules: [{match: r.io/a, policy: require, keys: [self]}]", "not a public key"),
        (
            "default: accept\nrules: [{match: r.io/a, policy: require, keys: [k], signers: 2}]",
            "signers: must be 1 to 1",
        ),
        ("default: accept\nrules: [{match: r.io/a, policy: require, keys: [k], identity: A//b}]", "identity: "),
        ("default: accept\nrules: [{match: r.io/a, policy: require, keys: [k], identity: 'r.io/b:1'}]", "more than a"),
        ("default: accept\nrules: [{match: r.io/a, policy: accept, bundles: true}]", "means nothing"),
        ("default: accept\nrules: [{match: r.io/a, policy: require, keys: [k], bundles: 1}]", "true or false"),
        (
            "default: accept\nrules: [{match: r.io/a, policy: require, keys: [k], bundles: true, identity: r.io/b}]",
            "cannot be checked",
        ),
        ("default: [", "not valid YAML"),
        ("default: &a [*a]", "must be a text"),
        ("\x00", "YAML|UTF-8"),
    ],
)
def test_problems_have_places(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    (tmp_path / "k").write_text(KEY)
    (tmp_path / "self").write_text("nothing")
    with pytest.raises(InvalidSpec) as refused:
        PolicyFile(path).current()
    assert any(part in str(refused.value) for part in problem.split("|"))


def test_a_file_that_nobody_named_may_be_absent_and_come(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    policy = PolicyFile(path, required=False)
    assert policy.current().find("r.io/a").verdict == "accept"
    path.write_text("default: reject")
    assert policy.current().find("r.io/a").verdict == "reject"
    path.unlink()
    assert policy.current().find("r.io/a").verdict == "accept"
    with pytest.raises(InvalidSpec):
        PolicyFile(path).current()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("oci:/a/b", LocalImage("oci", "/a/b")),
        ("oci:./a:v1", LocalImage("oci", "./a", "v1")),
        ("docker-archive:../a.tar:r.io/x:1", LocalImage("docker-archive", "../a.tar", "r.io/x:1")),
        ("dir:~/a:b", LocalImage("dir", "~/a:b")),
        ("oci:1.0", None),
        ("oci:5000/app", None),
        ("dir:latest", None),
        ("ocix:/a", None),
        ("registry.example/oci:1", None),
    ],
)
def test_files_of_the_host(text: str, found: LocalImage | None) -> None:
    assert parse_local_image(text) == found
    assert found is None or str(found) == text


@pytest.mark.parametrize("text", ["oci:/a:", "oci:/a\n", "dir:/" + "x" * 5000])
def test_sources_that_are_malformed(text: str) -> None:
    with pytest.raises(InvalidSource):
        parse_local_image(text)
