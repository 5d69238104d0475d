"""Digest, reference, platform, mount: parsing, normalising, refusing."""

from __future__ import annotations

import hashlib

import pytest

from agent.errors import Refused
from agent.oci.digest import compute_chain_ids, compute_digest, digest_of_hex, hex_of, parse_digest, render_shortened
from agent.oci.platform import Platform, compute_platform, compute_rank
from agent.oci.reference import InvalidReference, Reference, parse_reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha512:{HEX * 2}",
        "sha256:../../../../etc/passwd",
        f"sha256:../{HEX[3:]}",
        f"sha256:{HEX}\n",
        f"sha256:{HEX[:-1]}/",
        f"sha256:{'٠' * 64}",
        None,
        5,
        ["sha256"],
    ],
)
def test_what_is_no_digest_is_refused(text: object) -> None:
    with pytest.raises(Refused):
        parse_digest(text)


def test_digest_of_data() -> None:
    digest = compute_digest(b"data")
    assert digest == "sha256:" + hashlib.sha256(b"data").hexdigest()
    assert digest_of_hex(hex_of(digest)) == parse_digest(digest) == digest


def test_chain_ids_are_those_of_the_specification() -> None:
    a, b, c = (compute_digest(name) for name in (b"a", b"b", b"c"))
    second = compute_digest(f"{a} {b}".encode())
    assert compute_chain_ids((a, b, c)) == (a, second, compute_digest(f"{second} {c}".encode()))
    assert compute_chain_ids(()) == ()


def test_untrusted_text_is_shown_safely() -> None:
    shown = render_shortened("\x1b[31mred\n" + "x" * 500)
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert len(shown) < 100


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("Registry.Example/app", "registry.example/app:latest", "registry.example/app:latest"),
        ("r.example/a__b/c-d.e:T_x.1-2", "r.example/a__b/c-d.e:T_x.1-2", "r.example/a__b/c-d.e:T_x.1-2"),
        (f"app@sha256:{HEX}", f"docker.io/library/app@sha256:{HEX}", f"app@sha256:{HEX}"),
        (f"app:1@sha256:{HEX}", f"docker.io/library/app:1@sha256:{HEX}", f"app:1@sha256:{HEX}"),
    ],
)
def test_references_are_normalised_as_docker_does(text: str, full: str, short: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == full
    assert reference.familiar() == short
    assert parse_reference(str(reference)) == parse_reference(reference.familiar()) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "App",
        "app:",
        "app:-x",
        "a//b",
        "/app",
        "app/",
        "a..b",
        "a/../b",
        "..",
        "app@",
        "app@sha256:12",
        "app:" + "t" * 129,
        "a" * 256,
        "a b",
        "app\n",
        "r.example:port/app",
        "-x.example/app",
        HEX,
        "app#1",
        "http://r/app",
        "[::1/app",
        "r.example:123456/app",
        "apр",
        "a_-b",
        "x" * 5000,
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference(text)


def test_target_prefers_the_digest() -> None:
    digest = parse_digest(f"sha256:{HEX}")
    assert Reference("r.example", "app", "1").target == "1"
    assert Reference("r.example", "app", "1").with_digest(digest).target == digest


@pytest.mark.parametrize(
    ("machine", "offered", "rank"),
    [
        ("x86_64", Platform("linux", "amd64"), 0),
        ("x86_64", Platform("linux", "amd64", "v3"), None),
        ("x86_64", Platform("windows", "amd64"), None),
        ("aarch64", Platform("linux", "arm64", "v8"), 0),
        ("aarch64", Platform("linux", "arm64"), 0),
        ("armv7l", Platform("linux", "arm", "v6"), 1),
        ("armv6l", Platform("linux", "arm", "v7"), None),
        ("armv7l", Platform("linux", "arm", "junk"), None),
        ("x86_64", Platform("unknown", "unknown"), None),
    ],
)
def test_platform_ranks(machine: str, offered: Platform, rank: int | None) -> None:
    assert compute_rank(offered, compute_platform(machine)) == rank


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("docker://alpine:3", "leave docker:// out"),
        ("https://registry.example/app", "leave https:// out"),
        ("oci:/srv/layout", "holdfast save, holdfast load"),
        ("host:port/x", ""),
    ],
)
def test_what_other_tools_put_before_a_name(text: str, said: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert said in (caught.value.hint or "")
