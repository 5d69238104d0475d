"""Real registries reached as the registries file says: TLS, client certificates, path prefixes, rewrites, mirrors."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.errors import HoldfastError
from agent.image.config import RegistryConfig
from agent.image.errors import RegistryUnauthorized, RegistryUnreachable
from agent.image.store import ImageStore
from agent.oci.digest import hex_of
from agent.store.database import Database
from tests.host.certificates import Authority
from tests.host.registry import Registry, entry, make_tar
from tests.unit.image.stub_registry import Answer, StubRegistry

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[2]
LAYER = make_tar([entry("f", b"content" * 1000)])


@dataclass(frozen=True)
class Guarded:
    """A registry behind TLS that wants a client certificate and a password, and answers below ``/deep/``."""

    registry: Registry
    authority: Authority
    client: tuple[Path, Path]

    def settings(self, **other: Any) -> dict[str, Any]:
        certificate, key = map(str, self.client)
        plain = {"ca": str(self.authority.certificate), "client_certificate": certificate, "client_key": key}
        return {self.registry.address: {"url": f"https://{self.registry.address}/deep", **plain, **other}}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    certificate, key = authority.sign("server", "127.0.0.1")
    tls = {"certificate": str(certificate), "key": str(key), "clientcas": [str(authority.certificate)]}
    with Registry(users={"joe": "secret"}, http={"tls": tls, "prefix": "/deep/"}) as running:
        yield Guarded(running, authority, authority.sign("client"))


@pytest.fixture(scope="module")
def origin() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture(scope="module")
def mirror() -> Iterator[Registry]:
    with Registry() as running:
        yield running


class Host:
    """A store whose registries file and config.json can be written anew at any time."""

    def __init__(self, path: Path) -> None:
        self.registries, self.docker_config = path / "registries.yaml", path / "docker" / "config.json"
        (path / "data").mkdir()
        self.config = RegistryConfig(
            registries=self.registries,
            docker_config=self.docker_config,
            backoff=0.01,
            backoff_limit=0.02,
            attempts=2,
            connect_timeout=60,
            read_timeout=60,
        )
        self.store = ImageStore(path / "data", Database(path / "data" / "db"), self.config)

    def say(self, hosts: Mapping[str, Any]) -> None:
        self.registries.write_text(json.dumps({"registries": hosts}))

    def holdfast(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        files = ["--registries", str(self.registries), "--config", str(self.docker_config)]
        command = [sys.executable, "-m", "agent", *arguments, *files]
        return subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT, check=False)

    def read(self, reference: str) -> bytes:
        return (self.store.lowerdirs(self.store.pull(reference, policy="always").id)[0] / "f").read_bytes()

    def forget(self, reference: str) -> None:
        """Remove the image and all of its data."""
        self.store.remove(reference)
        self.store.prune(min_age=0)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    opened = Host(tmp_path)
    yield opened
    opened.store.close()


def made(host: Host, tmp_path: Path, name: str) -> str:
    from agent.oci.imageconfig import ImageConfig

    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_bytes(b"made")
    return str(host.store.add_image(ImageConfig(architecture="", os=""), [host.store.commit_layer(tree)], name).digest)


def test_tls_client_certificate_password_and_prefix(guarded: Guarded, host: Host, tmp_path: Path) -> None:
    address = guarded.registry.address
    name = f"{address}/team/made:1"
    digest = made(host, tmp_path, name)
    host.say(guarded.settings())
    refused = host.holdfast("login", address, "-u", "joe", "--password-stdin", given="wrong\n")
    assert refused.returncode == 1
    assert "refuses this user or password" in refused.stderr
    assert not host.docker_config.exists()
    with pytest.raises(RegistryUnauthorized):
        host.store.push(name)
    done = host.holdfast("login", address, "-u", "joe", "--password-stdin", given="secret\n")
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert host.docker_config.stat().st_mode & 0o777 == 0o600
    assert host.docker_config.parent.stat().st_mode & 0o777 == 0o700
    assert host.store.push(name).digest == digest
    host.forget(name)
    assert host.read(name) == b"made"
    assert digest == ask_digest(guarded, "team/made")
    assert json.loads(host.holdfast("logout", address, "--json").stdout) == {"registry": address, "removed": True}
    assert json.loads(host.docker_config.read_text()) == {"auths": {}}
    with pytest.raises(RegistryUnauthorized):
        host.store.push(name)


def ask_digest(guarded: Guarded, repository: str) -> str | None:
    """What the registry says with nothing of ours in between."""
    context = ssl.create_default_context(cafile=str(guarded.authority.certificate))
    context.load_cert_chain(*guarded.client)
    url = f"https://{guarded.registry.address}/deep/v2/{repository}/manifests/1"
    headers = {"Authorization": "Basic am9lOnNlY3JldA==", "Accept": "application/vnd.oci.image.manifest.v1+json"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=context) as answer:
        return str(answer.headers["Docker-Content-Digest"])


@pytest.mark.parametrize(
    ("without", "reason", "said"),
    [
        ({"ca": None}, "RegistryUntrusted", "cannot be verified"),
        ({"client_certificate": None, "client_key": None}, "RegistryUnauthorized", "wants a client certificate"),
        ({"url": None}, "ImageNotFound", "does not have the image"),
    ],
    ids=["authority", "client certificate", "prefix"],
)
def test_each_setting_is_needed(guarded: Guarded, host: Host, without: dict[str, None], reason: str, said: str) -> None:
    settings = guarded.settings()[guarded.registry.address] | without
    host.say({guarded.registry.address: {key: value for key, value in settings.items() if value}})
    with pytest.raises(HoldfastError) as caught:
        host.store.pull(f"{guarded.registry.address}/team/any:1")
    assert caught.value.reason == reason, caught.value
    assert said in str(caught.value)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_skip_verify_takes_any_certificate(guarded: Guarded, host: Host) -> None:
    host.say(guarded.settings(ca=str(guarded.client[0]), skip_verify=True))
    with pytest.raises(RegistryUnauthorized, match="asks for a password"):
        host.store.pull(f"{guarded.registry.address}/team/any:1")


def copy_to(mirror: Registry, origin: Registry, source: str, target: str) -> str:
    """Give the mirror an image and take its layers from the origin; returns its name at the origin."""
    reference = origin.push_layers(source, [LAYER])
    command = ["skopeo", "copy", "-q", "--insecure-policy", "--preserve-digests", "--src-tls-verify=false"]
    command += ["--dest-tls-verify=false", f"docker://{reference}", f"docker://{mirror.address}/{target}"]
    subprocess.run(command, check=True)
    return reference


def remove_blobs(registry: Registry, digests: Iterator[str]) -> None:
    for digest in digests:
        path = registry.path / "storage/docker/registry/v2/blobs/sha256" / digest[7:9] / digest[7:]
        shutil.rmtree(path, ignore_errors=True)


def test_a_mirror_serves_what_digests_name(origin: Registry, mirror: Registry, host: Host) -> None:
    reference = copy_to(mirror, origin, "mirrored:1", "copies/mirrored:1")
    host.say({origin.address: {"mirrors": [{"url": f"http://{mirror.address}", "rewrite": {"^(.*)$": "copies/$1"}}]}})
    image = host.store.pull(reference)
    host.forget(reference)
    remove_blobs(origin, iter(image.blobs[2:]))
    assert host.read(reference).startswith(b"content"), "the origin has lost the layer"
    host.forget(reference)
    remove_blobs(mirror, iter(image.blobs[2:]))
    with pytest.raises(HoldfastError):
        host.store.pull(reference)


def test_tags_are_the_origins_unless_the_mirror_is_trusted(origin: Registry, mirror: Registry, host: Host) -> None:
    reference = origin.push_layers("tagged:1", [LAYER])
    other = mirror.push_layers("tagged:1", [make_tar([entry("f", b"of the mirror")])])
    url = f"http://{mirror.address}"
    host.say({origin.address: {"mirrors": [url]}})
    assert host.read(reference).startswith(b"content")
    host.say({origin.address: {"mirrors": [{"url": url, "tags": True}]}})
    assert host.read(reference) == b"of the mirror"
    assert host.store.find(reference).digest == host.store.pull(other).digest  # type: ignore[union-attr]
    dead = reference.replace(origin.address, "127.0.0.1:1")
    host.say({"127.0.0.1:1": {"mirrors": [{"url": url, "tags": True}]}})
    assert host.read(dead) == b"of the mirror"
    host.say({"127.0.0.1:1": {"mirrors": [url]}})
    with pytest.raises(RegistryUnreachable):
        host.store.pull(dead, policy="always")


class BadMirror(StubRegistry):
    """Wants a password, then answers everything wrongly, or not at all."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def find(self, path: str) -> Any:
        return self._answer


BAD: dict[str, Answer] = {
    "wants a password": (401, {"WWW-Authenticate": 'Basic realm="steal"'}, b""),
    "wants a token": (401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:9/steal"'}, b""),
    "other content": (200, {}, b"x" * 7000),
    "redirects": (307, {"Location": "http://registry.invalid/"}, b""),
    "fails": (503, {"Retry-After": "0"}, b""),
    "is closed": (0, {}, b""),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_mirror_is_passed_over_and_gets_no_credentials(origin: Registry, host: Host, kind: str) -> None:
    """Rows 49 to 51: the credentials kept are for the origin."""
    reference = origin.push_layers("passed:1", [LAYER])
    host.docker_config.parent.mkdir()
    host.docker_config.write_text(json.dumps({"auths": {origin.address: {"auth": "am9lOnNlY3JldA=="}}}))
    with BadMirror(BAD[kind]) as bad:
        address = bad.address if kind != "is closed" else "127.0.0.1:1"
        host.say({origin.address: {"mirrors": [f"http://{address}"]}})
        assert host.read(reference).startswith(b"content")
        assert bad.secrets() == []
        assert all(method == "GET" for method, *_ in bad.requests)
        assert len(bad.paths()) <= 2, "what failed once is not asked for everything"


def test_a_mirror_that_damages_layers_is_found_out(origin: Registry, mirror: Registry, host: Host) -> None:
    """The right length and other bytes: noticed when the layer is unpacked, fetched again from the registry itself."""
    reference = copy_to(mirror, origin, "damaged:1", "damaged:1")
    image = host.store.pull(reference)
    host.forget(reference)
    digest = image.blobs[-1]
    blob = mirror.path / "storage/docker/registry/v2/blobs/sha256" / hex_of(digest)[:2] / hex_of(digest) / "data"
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    host.say({origin.address: {"mirrors": [f"http://{mirror.address}"]}})
    assert host.read(reference).startswith(b"content")


def test_pushes_go_to_the_registry_itself(origin: Registry, mirror: Registry, host: Host, tmp_path: Path) -> None:
    digest = made(host, tmp_path, f"{origin.address}/pushed:1")
    rewrite = {"^(.*)$": "kept/$1"}
    host.say({origin.address: {"mirrors": [f"http://{mirror.address}"], "rewrite": rewrite}})
    host.store.push(f"{origin.address}/pushed:1")
    command = ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}"]
    found = subprocess.run([*command, f"docker://{origin.address}/kept/pushed:1"], capture_output=True, text=True)
    assert found.stdout.strip() == digest
    absent = subprocess.run([*command, f"docker://{mirror.address}/kept/pushed:1"], capture_output=True, check=False)
    assert absent.returncode


def test_a_client_certificate_is_not_shown_after_a_redirect(tmp_path: Path) -> None:
    """Row 50: not even to a host that has one of its own; another may have sent us there."""
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("server", "127.0.0.1", "127.0.0.2"))
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    certificate, key = map(str, authority.sign("client"))
    own = {"ca": str(authority.certificate), "client_certificate": certificate, "client_key": key}
    opened = Host(tmp_path)
    with StubRegistry(tls=context) as first, StubRegistry("127.0.0.2", context) as second:
        opened.say({first.address: own, second.address: own})
        path = "/v2/team/app/manifests/1"
        first.answers[path] = (307, {"Location": f"https://{second.address}/there"}, b"")
        second.answers["/there"] = (404, {}, b"")
        with pytest.raises(HoldfastError, match="does not have"):
            opened.store.pull(f"{first.address}/team/app:1")
        assert first.peers
        assert all(first.peers)
        assert second.peers == [None]
        second.answers[path] = (404, {}, b"")
        with pytest.raises(HoldfastError, match="does not have"):
            opened.store.pull(f"{second.address}/team/app:1")
        assert second.peers[-1], "but when it is asked itself"
    opened.store.close()
