"""A real docker-registry that takes only tokens, and a token server that signs them (distribution token spec)."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.image.config import RegistryConfig
from agent.image.errors import RegistryUnauthorized
from agent.image.registry.credentials import Credentials, find_credentials, save_credentials
from agent.image.registry.login import check_login
from agent.image.store import ImageStore
from agent.store.database import Database
from tests.host.registry import Registry, entry, make_tar
from tests.host.tokenserver import TokenServer

pytestmark = pytest.mark.host
PASSWORD = {"auth": base64.b64encode(b"joe:secret").decode()}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with TokenServer(tmp_path_factory.mktemp("tokens")) as running:
        yield running


@pytest.fixture(scope="module")
def registry(tokens: TokenServer) -> Iterator[Registry]:
    with Registry(auth={"token": tokens.settings}) as running:
        yield running


@pytest.fixture
def reference(registry: Registry) -> str:
    layout = registry.layout()
    descriptor = layout.image([make_tar([entry("f", b"guarded")])])
    return registry.push(layout, descriptor, "team/guarded:1", credentials="joe:secret")


@contextmanager
def opened(tmp_path: Path, reference: str, auth: dict[str, str] | None) -> Iterator[ImageStore]:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {reference.partition("/")[0]: auth} if auth else {}}))
    (tmp_path / "data").mkdir()
    settings = RegistryConfig(docker_config=config, backoff=0.01)
    store = ImageStore(tmp_path / "data", Database(tmp_path / "data" / "db"), settings)
    try:
        yield store
    finally:
        store.close()


def pull(tmp_path: Path, reference: str, auth: dict[str, str] | None) -> bytes:
    with opened(tmp_path, reference, auth) as store:
        return (store.lowerdirs(store.pull(reference).id)[0] / "f").read_bytes()


def test_password_is_traded_for_a_token(reference: str, tokens: TokenServer, tmp_path: Path) -> None:
    tokens.requests.clear()
    assert pull(tmp_path, reference, PASSWORD) == b"guarded"
    assert len(tokens.requests) == 1, "one token serves the manifest, the config and the layers"


def test_identity_token_is_traded_for_a_token(reference: str, tmp_path: Path) -> None:
    assert pull(tmp_path, reference, {"identitytoken": "refresh-me"}) == b"guarded"


@pytest.mark.parametrize("auth", [None, {"auth": base64.b64encode(b"joe:wrong").decode()}])
def test_without_the_password_nothing_comes(reference: str, tmp_path: Path, auth: dict[str, str] | None) -> None:
    with pytest.raises(RegistryUnauthorized, match="refuses the credentials"):
        pull(tmp_path, reference, auth)


def test_push_mounts_from_where_the_token_allows(
    registry: Registry, reference: str, tokens: TokenServer, tmp_path: Path
) -> None:
    with opened(tmp_path, reference, PASSWORD) as store:
        image = store.pull(reference)
        tokens.closed = {"team/guarded"}
        try:
            sent = store.push(reference, f"{registry.address}/team/sent:1")
        finally:
            tokens.closed = set()
        assert (sent.mounted, sent.uploaded) == (0, 1), "without the right to read there it is uploaded"
        mounted = store.push(reference, f"{registry.address}/team/mounted:1")
        assert (mounted.mounted, mounted.uploaded, mounted.bytes_sent) == (1, 0, 0)
        tokens.closed = {"team/other"}
        try:
            with pytest.raises(RegistryUnauthorized, match="refuses access to team/other"):
                store.push(reference, f"{registry.address}/team/other:1")
        finally:
            tokens.closed = set()
    for name in ("sent", "mounted"):
        command = ["skopeo", "inspect", "--tls-verify=false", "--creds", "joe:secret", "--format", "{{.Digest}}"]
        found = subprocess.run([*command, f"docker://{registry.address}/team/{name}:1"], capture_output=True, text=True)
        assert found.stdout.strip() == image.digest, found.stderr


def test_login_keeps_an_identity_token_where_there_is_one(
    registry: Registry, tokens: TokenServer, reference: str, tmp_path: Path
) -> None:
    config = tmp_path / "docker" / "config.json"
    settings = RegistryConfig(docker_config=config)
    tokens.refresh = True
    try:
        done = check_login(registry.address, Credentials("joe", "secret"), settings)
    finally:
        tokens.refresh = False
    assert done.checked
    save_credentials(config, registry.address, done.credentials)
    assert "secret" not in config.read_text()
    assert b"secret" not in base64.b64decode(json.loads(config.read_text())["auths"][registry.address]["auth"])
    assert find_credentials(config, registry.address) == Credentials("joe", "", "refresh-me")
    assert pull(tmp_path, reference, json.loads(config.read_text())["auths"][registry.address]) == b"guarded"
    with pytest.raises(RegistryUnauthorized):
        check_login(registry.address, Credentials("joe", "wrong"), settings)
