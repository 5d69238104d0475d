"""The registries file: what it says, and all that can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import Stalled
from agent.image.config import RegistryConfig
from agent.image.origin import parse_origin
from agent.image.registry.endpoints import Endpoint, Registries, Rewrite, compute_endpoints
from agent.image.registry.registryfile import InvalidRegistriesFile, load_registries, parse_registries
from agent.image.registry.unsafe import describe_unsafe
from agent.oci.reference import parse_reference

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy" / "registries.yaml"


def parse(text: str, path: Path = Path("/etc/r.yaml")) -> Registries:
    return parse_registries(text.encode(), path)


def test_the_example_is_valid() -> None:
    found = load_registries(EXAMPLE)
    hub = [(end.url, end.repository, end.tags, end.mirror) for end in endpoints(found, "alpine:3")]
    assert hub == [
        ("https://mirror.example:443", "library/alpine", False, True),
        ("https://cache.example:443/hub", "docker-hub/alpine", True, True),
        ("", "library/alpine", True, False),
    ]
    (own,) = endpoints(found, "registry.example:5000/web:1")
    expected = Endpoint("registry.example:5000", "team/web", "https://10.0.0.5:8443/registry", False, True)
    assert own == Endpoint(**{**vars(expected), "token_server": "auth.example"})
    assert found.describe_unsafe() == ("what tags of docker.io mean is up to https://cache.example:443/hub (tags)",)


def endpoints(registries: Registries, reference: str) -> tuple[Endpoint, ...]:
    return compute_endpoints(parse_reference(reference), registries)


def test_no_file_is_fine_unless_it_is_required(tmp_path: Path) -> None:
    assert load_registries(tmp_path / "none") == Registries()
    with pytest.raises(InvalidRegistriesFile, match="no such file"):
        load_registries(tmp_path / "none", required=True)
    for text in ("", "# nothing\n", "registries:\n", "registries: {}\n", "registries: {a.example: }\n"):
        assert not parse(text).describe_unsafe()


PROBLEMS = {
    "registries: [": "did not find expected node content",
    "- a": "1:1: the file: not a mapping",
    "registry: {}": "1:1: the file: unknown key 'registry'; the nearest known one is 'registries'",
    "registries: {a.example: {mirror: []}}": "unknown key 'mirror'; the nearest known one is 'mirrors'",
    "registries: {a.example: {}, a.example: {}}": "a.example is there twice",
    "registries: {A.example: {}, a.example: {}}": "a.example is there twice",
    "registries: {'': {}}": "'' is no registry",
    "registries: {team: {}}": "'team' is no registry",
    "registries: {'a.example/team': {}}": "is no registry",
    "registries: {a.example: {insecure: 1}}": "neither true nor false",
    "registries: {a.example: {ca: none.pem}}": "there is no file /etc/none.pem",
    "registries: {a.example: {client_key: /bin/sh}}": "go together",
    "registries: {a.example: {url: 5}}": "not a text",
    "registries: {a.example: {url: 'ftp://a'}}": "not a URL",
    "registries: {a.example: {url: 'https://u:p@a'}}": "not a URL",
    "registries: {a.example: {url: 'https://a/../b'}}": "only a plain path",
    "registries: {a.example: {url: 'https://a/?q'}}": "only a plain path",
    "registries: {a.example: {url: 'http://b.example'}}": "is not encrypted",
    "registries: {a.example: {mirrors: ['http://b.example']}}": "say insecure under b.example",
    "registries: {a.example: {mirrors: {}}}": "not a list",
    "registries: {a.example: {mirrors: [{tags: true}]}}": "a mirror needs its url",
    "registries: {a.example: {rewrite: {'(': x}}}": "not a pattern",
    "registries: {a.example: {rewrite: {'a': '$1'}}}": "invalid group reference",
    "registries: {a.example: {credential_helper: ../sh}}": "not the name of a helper",
    "registries: {a.example: {token_server: 'a/b@c'}}": "not a host",
    "registries: {a.example: {proxy: 'socks4://joe:hunter2@p:1'}}": "are not supported",
    "registries: {a.example: {proxy: 'http://p:1/path'}}": "not the URL of a proxy",
    "registries: {a.example: {proxy: [p]}}": "not a text",
    "registries: {'127.0.0.1:5000': {proxy: p}}": "a proxy cannot lead to 127.0.0.1:5000",
    "registries: {a.example: {url: 'https://[::1]/', proxy: p}}": "a proxy cannot lead to [::1]:443",
}


@pytest.mark.parametrize("text", PROBLEMS)
def test_problems_are_told_with_their_place(text: str) -> None:
    with pytest.raises(InvalidRegistriesFile) as caught:
        parse(text)
    assert caught.value.message.startswith(("/etc/r.yaml:1:", "/etc/r.yaml:2:1:"))
    assert PROBLEMS[text] in caught.value.message
    assert "hunter2" not in caught.value.message


def test_all_problems_at_once() -> None:
    with pytest.raises(InvalidRegistriesFile) as caught:
        parse("registries:\n  a.example:\n    insecure: perhaps\n    x: 1\n  b.example:\n    url: no\n")
    places = [line.partition(": ")[0].rpartition("yaml:")[2] for line in caught.value.message.splitlines()]
    assert places == ["3:15", "4:5", "6:10"]


def test_plain_http_where_it_is_allowed() -> None:
    text = "registries: {a.example: {mirrors: ['http://b.example:5000', 'http://127.0.0.1']}, 'b.example:5000': "
    with pytest.raises(InvalidRegistriesFile):
        parse(text + "{}}")
    assert parse(text + "{insecure: true}}").describe_unsafe() == (
        "b.example:5000 may be spoken to in plain HTTP (insecure)",
    )


def test_settings_belong_to_the_host_that_is_connected_to() -> None:
    found = parse("registries: {a.example: {url: 'https://real.example:8443/x', skip_verify: true}, docker.io: {}}")
    assert found.find_origin(parse_origin("https://real.example:8443/v2/")).skip_verify
    assert found.find_origin(parse_origin("https://a.example/v2/")).skip_verify
    for other in ("https://real.example/", "https://a.example:5000/", "https://registry-1.docker.io/"):
        assert not found.find_origin(parse_origin(other)).skip_verify
    assert found.find_origin(parse_origin("https://registry-1.docker.io/")) is found.find("docker.io")


def test_rewrites() -> None:
    assert Rewrite("^library/(.*)$", "hub/${1}0").apply("library/a") == "hub/a0"
    assert Rewrite("^library/", r"a\1/").apply("library/b") == r"a\1/b"
    assert Rewrite("^library/", "x").apply("team/b") is None
    broken = parse("registries: {a.example: {rewrite: {'^(.*)$': '../$1'}}}")
    with pytest.raises(Stalled, match="which is no repository"):
        endpoints(broken, "a.example/team/web")


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for content in (text, f"registries: {{a.example: {{{text}}}}}", f"registries:\n  {text}:\n    mirrors: [{text}]"):
        try:
            parse(content)
        except InvalidRegistriesFile as error:
            assert str(error)


def test_open_files_are_told(tmp_path: Path) -> None:
    file, docker, key = tmp_path / "r.yaml", tmp_path / "config.json", tmp_path / "key.pem"
    for path in (docker, key):
        path.write_text("{}")
        path.chmod(0o640)
    file.write_text("registries: {a.example: {client_key: key.pem, client_certificate: key.pem}}")
    file.chmod(0o666)
    config = RegistryConfig(registries=file, docker_config=docker, insecure_registries=("plain.example",))
    told = "\n".join(describe_unsafe(config))
    for part in ("plain.example may be spoken", "r.yaml can be written", "config.json can be read", "key.pem can be"):
        assert part in told
    for path in (file, docker, key):
        path.chmod(0o600)
    assert len(describe_unsafe(config)) == 1
