"""A real docker-registry that takes only tokens, and a token server that signs them (distribution token spec)."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.image.config import RegistryConfig
from agent.image.errors import RegistryUnauthorized
from agent.image.store import ImageStore
from agent.store.database import Database
from tests.host.registry import Registry, entry, make_tar
from tests.unit.image.stub_registry import Answer, StubRegistry

pytestmark = pytest.mark.host
GOOD = "Basic " + base64.b64encode(b"joe:secret").decode()


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer(StubRegistry):
    """Signs RS256 tokens for who has the password (or the refresh token), read-only unless the password is given."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.key, self.certificate = path / "key.pem", path / "cert.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
        command += ["-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)
        self.answers["/token"] = self.answer

    def answer(self, headers: Any) -> Answer:
        method, path, _, body = self.requests[-1]
        query = parse_qs(urlsplit(path).query if method == "GET" else body.decode())
        if headers.get("authorization") != GOOD and query.get("refresh_token") != ["refresh-me"]:
            return 401, {}, b"{}"
        _, repository, actions = query["scope"][0].split(":")
        return 200, {}, json.dumps({"token": self.sign(repository, actions.split(","))}).encode()

    def sign(self, repository: str, actions: list[str]) -> str:
        pem = self.certificate.read_text()
        chain = [pem.partition("BEGIN CERTIFICATE-----")[2].partition("-----END")[0].replace("\n", "")]
        access = [{"type": "repository", "name": repository, "actions": actions}]
        now = int(time.time())
        claims = {"iss": "issuer", "sub": "joe", "aud": "service", "exp": now + 300, "nbf": now - 10, "iat": now}
        claims |= {"jti": "1", "access": access}
        signed = ".".join(
            encode(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "RS256", "x5c": chain}, claims)
        )
        command = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        signature = subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout
        return f"{signed}.{encode(signature)}"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with TokenServer(tmp_path_factory.mktemp("tokens")) as running:
        yield running


@pytest.fixture(scope="module")
def registry(tokens: TokenServer) -> Iterator[Registry]:
    settings = {
        "realm": f"http://{tokens.address}/token",
        "service": "service",
        "issuer": "issuer",
        "rootcertbundle": str(tokens.certificate),
    }
    with Registry(auth={"token": settings}) as running:
        yield running


@pytest.fixture
def reference(registry: Registry) -> str:
    layout = registry.layout()
    descriptor = layout.image([make_tar([entry("f", b"guarded")])])
    return registry.push(layout, descriptor, "team/guarded:1", credentials="joe:secret")


def pull(tmp_path: Path, reference: str, auth: dict[str, str] | None) -> bytes:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {reference.partition("/")[0]: auth} if auth else {}}))
    (tmp_path / "data").mkdir()
    store = ImageStore(
        tmp_path / "data", Database(tmp_path / "data" / "db"), RegistryConfig(docker_config=config, backoff=0.01)
    )
    try:
        return (store.lowerdirs(store.pull(reference).id)[0] / "f").read_bytes()
    finally:
        store.close()


def test_password_is_traded_for_a_token(reference: str, tokens: TokenServer, tmp_path: Path) -> None:
    tokens.requests.clear()
    auth = {"auth": base64.b64encode(b"joe:secret").decode()}
    assert pull(tmp_path, reference, auth) == b"guarded"
    assert len(tokens.requests) == 1, "one token serves the manifest, the config and the layers"


def test_identity_token_is_traded_for_a_token(reference: str, tmp_path: Path) -> None:
    assert pull(tmp_path, reference, {"identitytoken": "refresh-me"}) == b"guarded"


@pytest.mark.parametrize("auth", [None, {"auth": base64.b64encode(b"joe:wrong").decode()}])
def test_without_the_password_nothing_comes(reference: str, tmp_path: Path, auth: dict[str, str] | None) -> None:
    with pytest.raises(RegistryUnauthorized, match="refuses the credentials"):
        pull(tmp_path, reference, auth)
