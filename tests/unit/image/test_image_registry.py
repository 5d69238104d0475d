"""The registry client against registries that mislead it (attack rows 48 to 52)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.errors import HoldfastError, Refused, Waiting
from agent.image.config import RegistryConfig
from agent.image.errors import (
    DigestMismatch,
    ImageNotFound,
    ImagePullFailed,
    RegistryUnauthorized,
    RegistryUnreachable,
)
from agent.image.progress import PullTracker
from agent.image.registry.client import RegistryClient
from agent.image.registry.credentials import Credentials
from agent.image.registry.login import check_login
from agent.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from agent.oci.digest import compute_digest
from agent.oci.reference import parse_reference
from tests.unit.image.stub_registry import Answer, StubRegistry

BODY = b'{"schemaVersion":2}'
GOOD: Answer = (200, {"Content-Type": OCI_MANIFEST}, BODY)
MANIFEST = "/v2/team/app/manifests/1"


@pytest.fixture
def stub() -> Iterator[StubRegistry]:
    with StubRegistry() as running:
        yield running


@pytest.fixture
def other() -> Iterator[StubRegistry]:
    with StubRegistry("127.0.0.2") as running:
        yield running


@pytest.fixture(autouse=True)
def bait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets that must never be used: a netrc for every host and proxies with passwords (row 51)."""
    (tmp_path / ".netrc").write_text("default login leaked password leaked\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://leaked:leaked@127.0.0.3:9")


def client(address: str, tmp_path: Path, auths: Mapping[str, Any] | None = None, **options: Any) -> RegistryClient:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": auths or {}}))
    reference = parse_reference(f"{address}/team/app:1")
    quick: dict[str, Any] = {"backoff": 0.001, "backoff_limit": 0.01, "attempts": 3}
    quick |= {"connect_timeout": 30, "read_timeout": 30, **options}
    settings = RegistryConfig(docker_config=config, **quick)
    return RegistryClient(reference, settings, PullTracker("app", None, None))


def credentials(address: str) -> dict[str, Any]:
    return {address: {"auth": base64.b64encode(b"joe:secret").decode()}}


def challenge(value: str, accept: str) -> Any:
    """Answers 401 with ``value`` until the Authorization header is ``accept``."""

    def answer(headers: Mapping[str, str]) -> Answer:
        return GOOD if headers.get("authorization") == accept else (401, {"WWW-Authenticate": value}, b"")

    return answer


def test_manifest_comes_with_type_and_digest(stub: StubRegistry, tmp_path: Path) -> None:
    stub.answers[MANIFEST] = GOOD
    assert client(stub.address, tmp_path).fetch_manifest() == (BODY, OCI_MANIFEST, compute_digest(BODY))
    assert stub.secrets() == []


def test_bearer_token_is_fetched_used_and_kept(stub: StubRegistry, tmp_path: Path) -> None:
    realm = f'Bearer realm="http://{stub.address}/token",service="reg",scope="repository:team/app:pull"'
    stub.answers[MANIFEST] = challenge(realm, "Bearer t0ken")
    stub.answers["/token"] = (200, {}, b'{"token":"t0ken","expires_in":300}')
    asked = client(stub.address, tmp_path, credentials(stub.address))
    for _ in range(2):
        assert asked.fetch_manifest()[0] == BODY
    tokens = [request for request in stub.requests if request[1].startswith("/token")]
    assert len(tokens) == 1
    query = parse_qs(urlsplit(tokens[0][1]).query)
    assert query == {"service": ["reg"], "scope": ["repository:team/app:pull"]}
    assert tokens[0][2]["authorization"] == "Basic " + base64.b64encode(b"joe:secret").decode()


def test_identity_token_is_traded(stub: StubRegistry, tmp_path: Path) -> None:
    stub.answers[MANIFEST] = challenge(f'Bearer realm="http://{stub.address}/token"', "Bearer traded")
    stub.answers["/token"] = (200, {}, b'{"access_token":"traded"}')
    asked = client(stub.address, tmp_path, {stub.address: {"identitytoken": "refresh-me"}})
    assert asked.fetch_manifest()[0] == BODY
    method, _, headers, body = next(request for request in stub.requests if request[1] == "/token")
    assert method == "POST"
    assert parse_qs(body.decode())["refresh_token"] == ["refresh-me"]
    assert "authorization" not in headers


def test_redirect_to_another_host_gets_no_credentials(stub: StubRegistry, other: StubRegistry, tmp_path: Path) -> None:
    """Row 50: the other host even asks for them."""
    accepted = "Basic " + base64.b64encode(b"joe:secret").decode()

    def sent_on(headers: Mapping[str, str]) -> Answer:
        if headers.get("authorization") != accepted:
            return 401, {"WWW-Authenticate": 'Basic realm="r"'}, b""
        return 307, {"Location": f"http://{other.address}/elsewhere"}, b""

    stub.answers[MANIFEST] = sent_on
    other.answers["/elsewhere"] = (401, {"WWW-Authenticate": 'Basic realm="steal"'}, b"")
    with pytest.raises(HoldfastError):
        client(stub.address, tmp_path, credentials(stub.address)).fetch_manifest()
    assert other.paths() == ["/elsewhere"] * len(other.paths())
    assert other.secrets() == []
    other.answers["/elsewhere"] = GOOD
    assert client(stub.address, tmp_path, credentials(stub.address)).fetch_manifest()[0] == BODY
    assert other.secrets() == []


def test_redirect_back_keeps_to_the_first_origin(stub: StubRegistry, other: StubRegistry, tmp_path: Path) -> None:
    stub.answers[MANIFEST] = (302, {"Location": f"http://{other.address}/a"}, b"")
    other.answers["/a"] = (302, {"Location": f"http://{stub.address}/b"}, b"")
    stub.answers["/b"] = GOOD
    assert client(stub.address, tmp_path).fetch_manifest()[0] == BODY


def test_token_realm_on_another_host_gets_no_credentials(
    stub: StubRegistry, other: StubRegistry, tmp_path: Path
) -> None:
    stub.answers[MANIFEST] = challenge(f'Bearer realm="http://{other.address}/token"', "Bearer anonymous")
    other.answers["/token"] = (200, {}, b'{"token":"anonymous"}')
    assert client(stub.address, tmp_path, credentials(stub.address)).fetch_manifest()[0] == BODY
    assert other.secrets() == []


def test_a_token_server_of_another_domain_may_be_named(stub: StubRegistry, other: StubRegistry, tmp_path: Path) -> None:
    stub.answers[MANIFEST] = challenge(f'Bearer realm="http://{other.address}/token"', "Bearer t")
    other.answers["/token"] = (200, {}, b'{"token":"t"}')
    file = tmp_path / "registries.yaml"
    for server, shown in ((other.address, 1), (other.address.partition(":")[0], 0), ("127.0.0.3", 0)):
        other.requests.clear()
        file.write_text(json.dumps({"registries": {stub.address: {"token_server": server}}}))
        client(stub.address, tmp_path, credentials(stub.address), registries=file).fetch_manifest()
        assert len(other.secrets()) == shown
    stub.answers["/v2/"] = stub.answers[MANIFEST]
    with pytest.raises(Refused, match="of another domain") as caught:
        check_login(stub.address, Credentials("joe", "secret"), RegistryConfig(registries=file))
    assert f"token_server: {other.address}" in str(caught.value)
    assert other.secrets() == []


UNSAFE = {
    "not loopback": "http://registry.invalid/x",
    "metadata service": "http://169.254.169.254/latest",
    "file": "file:///etc/passwd",
    "user in it": "http://joe:secret@127.0.0.1/x",
    "bad port": "http://127.0.0.1:99999/x",
    "not ascii": "http://127.0.0.1/\u00e9",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_redirect_is_refused(stub: StubRegistry, tmp_path: Path, name: str) -> None:
    location = UNSAFE[name].encode().decode("latin-1")
    stub.answers[MANIFEST] = (307, {"Location": location}, b"")
    with pytest.raises(Refused):
        client(stub.address, tmp_path).fetch_manifest()


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_token_realm_is_refused(stub: StubRegistry, tmp_path: Path, name: str) -> None:
    location = UNSAFE[name].encode().decode("latin-1")
    stub.answers[MANIFEST] = challenge(f'Bearer realm="{location}"', "never")
    with pytest.raises(Refused):
        client(stub.address, tmp_path, credentials(stub.address)).fetch_manifest()


def test_redirect_loop_ends(stub: StubRegistry, tmp_path: Path) -> None:
    stub.answers[MANIFEST] = (302, {"Location": MANIFEST}, b"")
    with pytest.raises(Refused, match="redirects more than"):
        client(stub.address, tmp_path).fetch_manifest()


@pytest.mark.parametrize("header", ["", "Digest realm=x", "Bearer", 'Negotiate, NTLM realm="x"', "Basic" * 5000])
def test_unknown_challenges(stub: StubRegistry, tmp_path: Path, header: str) -> None:
    stub.answers[MANIFEST] = challenge(header, "never")
    with pytest.raises((RegistryUnauthorized, Refused)):
        client(stub.address, tmp_path, credentials(stub.address)).fetch_manifest()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token":5}', b'{"token":"a\\nb"}', b"x" * 300_000])
def test_bad_tokens(stub: StubRegistry, tmp_path: Path, body: bytes) -> None:
    stub.answers[MANIFEST] = challenge(f'Bearer realm="http://{stub.address}/token"', "never")
    stub.answers["/token"] = (200, {}, body)
    with pytest.raises(Refused):
        client(stub.address, tmp_path).fetch_manifest()


STATUSES: dict[int, type[HoldfastError]] = {
    401: RegistryUnauthorized,
    403: RegistryUnauthorized,
    404: ImageNotFound,
    429: ImagePullFailed,
    500: ImagePullFailed,
    503: ImagePullFailed,
    418: Refused,
}


@pytest.mark.parametrize("status", STATUSES)
def test_statuses_become_typed_errors(stub: StubRegistry, tmp_path: Path, status: int) -> None:
    stub.answers[MANIFEST] = (status, {"Content-Type": OCI_MANIFEST}, BODY)
    with pytest.raises(STATUSES[status]) as caught:
        client(stub.address, tmp_path).fetch_manifest()
    tried = 3 if isinstance(caught.value, Waiting) else 1
    assert len(stub.paths()) == tried


def test_a_server_that_wants_tls_is_told_from_others(stub: StubRegistry, tmp_path: Path) -> None:
    stub.answers[MANIFEST] = (400, {}, b"Client sent an HTTP request to an HTTPS server.\n")
    with pytest.raises(Refused, match="answers HTTP 400") as caught:
        client(stub.address, tmp_path).fetch_manifest()
    assert "it may want TLS" in (caught.value.hint or "")


def test_passing_faults_are_retried(stub: StubRegistry, tmp_path: Path) -> None:
    answers = iter([(503, {}, b""), (429, {"Retry-After": "0"}, b""), GOOD])
    stub.answers[MANIFEST] = lambda headers: next(answers)
    assert client(stub.address, tmp_path).fetch_manifest()[0] == BODY


def test_dead_registry_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnreachable):
        client("127.0.0.1:1", tmp_path).fetch_manifest()


def test_wrong_digests_are_refused(stub: StubRegistry, tmp_path: Path) -> None:
    wrong = compute_digest(b"other")
    stub.answers[MANIFEST] = (200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": wrong}, BODY)
    with pytest.raises(DigestMismatch):
        client(stub.address, tmp_path).fetch_manifest()
    stub.answers[f"/v2/team/app/manifests/{wrong}"] = GOOD
    with pytest.raises(DigestMismatch):
        client(stub.address, tmp_path).fetch_manifest(Descriptor(OCI_MANIFEST, wrong, len(BODY)))
    stub.answers[f"/v2/team/app/blobs/{wrong}"] = (200, {}, b"12345")
    with pytest.raises(DigestMismatch):
        client(stub.address, tmp_path).fetch_blob(Descriptor("x", wrong, 5))


def test_index_entry_must_come_as_it_was_announced(stub: StubRegistry, tmp_path: Path) -> None:
    """Row 48: what an index calls a manifest must not arrive as an index, or in another size."""
    digest = compute_digest(BODY)
    stub.answers[f"/v2/team/app/manifests/{digest}"] = (200, {"Content-Type": OCI_INDEX}, BODY)
    with pytest.raises(Refused):
        client(stub.address, tmp_path).fetch_manifest(Descriptor(OCI_MANIFEST, digest, len(BODY)))
    stub.answers[f"/v2/team/app/manifests/{digest}"] = GOOD
    with pytest.raises(Refused):
        client(stub.address, tmp_path).fetch_manifest(Descriptor(OCI_MANIFEST, digest, len(BODY) + 1))


def test_answers_are_bounded(stub: StubRegistry, tmp_path: Path) -> None:
    stub.answers[MANIFEST] = (200, {"Content-Type": OCI_MANIFEST}, bytes(5 << 20))
    with pytest.raises(Refused, match="longer than"):
        client(stub.address, tmp_path).fetch_manifest()
    digest = compute_digest(b"1")
    stub.answers[f"/v2/team/app/blobs/{digest}"] = (200, {}, bytes(1000))
    with pytest.raises(Refused):
        client(stub.address, tmp_path).fetch_blob(Descriptor("x", digest, 1))


def test_plain_http_needs_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is neither on loopback nor configured is only ever spoken to over TLS."""
    import urllib3

    asked: list[str] = []

    def record(self: Any, method: str, url: str, **_: Any) -> Any:
        asked.append(url)
        raise urllib3.exceptions.SSLError("wrong version number")

    monkeypatch.setattr(urllib3.PoolManager, "request", record)
    with pytest.raises(RegistryUnreachable):
        client("registry.invalid", tmp_path).fetch_manifest()
    assert all(url.startswith("https://registry.invalid") for url in asked)
    asked.clear()
    with pytest.raises(RegistryUnreachable):
        client("registry.invalid", tmp_path, insecure_registries=("registry.invalid",)).fetch_manifest()
    assert any(url.startswith("http://registry.invalid") for url in asked)


def test_a_mirror_is_no_way_around_the_rules(stub: StubRegistry, other: StubRegistry, tmp_path: Path) -> None:
    """The mirror's own credentials go to the mirror, the registry's to the registry, over redirects and challenges."""
    file = tmp_path / "registries.yaml"
    file.write_text(
        json.dumps({"registries": {stub.address: {"mirrors": [{"url": f"http://{other.address}/m", "tags": True}]}}})
    )
    auths = {
        stub.address: {"auth": base64.b64encode(b"joe:secret").decode()},
        other.address: {"auth": base64.b64encode(b"mirror:other").decode()},
    }
    own = "Basic " + base64.b64encode(b"mirror:other").decode()
    other.answers[f"/m{MANIFEST}"] = lambda headers: (
        (307, {"Location": f"http://{stub.address}/elsewhere"}, b"")
        if headers.get("authorization") == own
        else (401, {"WWW-Authenticate": f'Basic realm="http://{stub.address}/"'}, b"")
    )
    stub.answers["/elsewhere"] = (404, {}, b"")
    stub.answers[MANIFEST] = GOOD
    assert client(stub.address, tmp_path, auths, registries=file).fetch_manifest()[0] == BODY
    assert stub.secrets() == [], "neither the mirror's, nor its own unasked"
    assert set(other.secrets()) == {f"authorization: {own}"}
