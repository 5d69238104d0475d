"""Registries behind a real proxy: reached by a name that only the proxy can resolve."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from agents import Agent

from agent.errors import HoldfastError
from agent.image.config import RegistryConfig
from agent.image.errors import RegistryUnreachable
from agent.image.proxies import NO_PROXIES, Proxies, read_proxies
from agent.image.registry.credentials import Credentials
from agent.image.registry.login import ask_root, check_login
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.store.database import Database
from tests.host.certificates import Authority
from tests.host.proxyserver import NAME, ProxyServer, SocksServer, TlsFront
from tests.host.registry import Registry, entry, make_tar

pytestmark = pytest.mark.host
USER = ("joe", "planted-p4ss")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[Registry]:
    certificate, key = authority.sign(NAME)
    with Registry(http={"tls": {"certificate": str(certificate), "key": str(key)}}) as running:
        yield running


@pytest.fixture(scope="module")
def plain() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[ProxyServer]:
    with ProxyServer(tmp_path, USER) as running:
        yield running


def through(url: str) -> Proxies:
    return read_proxies({"HTTP_PROXY": url, "HTTPS_PROXY": url, "NO_PROXY": "elsewhere.test"})


def configure(path: Path, proxies: Proxies, hosts: Mapping[str, object]) -> RegistryConfig:
    (path / "registries.yaml").write_text(json.dumps({"registries": hosts}))
    return RegistryConfig(
        registries=path / "registries.yaml", docker_config=path / "none", proxies=proxies, backoff=0.01, attempts=1
    )


def push_and_pull(path: Path, config: RegistryConfig, name: str) -> None:
    store = ImageStore(path / "data", Database(path / "db"), config)
    tree = path / "tree"
    tree.mkdir()
    (tree / "f").write_bytes(b"made" * 100_000)
    digest = store.add_image(ImageConfig(architecture="", os=""), [store.commit_layer(tree)], name).digest
    assert store.push(name).digest == digest
    store.remove(name)
    store.prune(min_age=0)
    image = store.pull(name)
    assert image.digest == digest
    assert (store.lowerdirs(image.id)[0] / "f").stat().st_size == 400_000
    store.close()


@pytest.mark.parametrize("said", ["environment", "file", "encrypted"])
def test_a_registry_behind_a_proxy(
    secure: Registry,
    authority: Authority,
    proxy: ProxyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
) -> None:
    name, url = f"{NAME}:{secure.port}", f"http://{':'.join(USER)}@{proxy.address}"
    settings: dict[str, object] = {"ca": str(authority.certificate)}
    front = None
    if said == "encrypted":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.sign("front", "127.0.0.1"))
        front = TlsFront(context, proxy.port)
        url = f"https://{':'.join(USER)}@127.0.0.1:{front.port}"
        with pytest.raises(HoldfastError, match="certificate of the proxy") as caught:
            ask_root(name, configure(tmp_path, through(url), {name: settings}))
        assert caught.value.reason == "ProxyUntrusted"
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    proxies = NO_PROXIES if said == "file" else through(url)
    config = configure(tmp_path, proxies, {name: settings | ({"proxy": url} if said == "file" else {})})
    push_and_pull(tmp_path, config, f"{name}/team/{said}:1")
    assert proxy.lines("CONNECT")
    assert not proxy.lines("GET"), "what is said to an encrypted registry, no proxy can read"
    if front is not None:
        front.close()


def test_a_plain_registry_behind_a_proxy(plain: Registry, proxy: ProxyServer, tmp_path: Path) -> None:
    name = f"{NAME}:{plain.port}"
    config = configure(tmp_path, through(f"http://{':'.join(USER)}@{proxy.address}"), {name: {"insecure": True}})
    push_and_pull(tmp_path, config, f"{name}/team/plain:1")
    assert proxy.lines("GET")
    assert not check_login(name, Credentials("x", "y"), config).checked


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses(
    secure: Registry, plain: Registry, authority: Authority, proxy: ProxyServer, tmp_path: Path, scheme: str
) -> None:
    name = f"{NAME}:{(plain if scheme == 'http' else secure).port}"
    settings = {"insecure": True, "url": f"http://{name}"} if scheme == "http" else {"ca": str(authority.certificate)}
    for user in ("", "joe:wr0ng@")[: 1 if scheme == "http" else 2]:
        config = configure(tmp_path, through(f"http://{user}{proxy.address}"), {name: settings})
        with pytest.raises(HoldfastError, match=r"refuses its user or password.* \(HTTP 40[17]\)") as caught:
            ask_root(name, config)
        assert caught.value.reason == "ProxyUnauthorized"
        assert "wr0ng" not in f"{caught.value} {caught.value.hint} {config}"
    lost = f"nowhere.test:{plain.port}"
    with pytest.raises(HoldfastError, match=r"does not lead to nowhere.test.* \(HTTP 50\d\)") as caught:
        ask_root(lost, configure(tmp_path, through(f"http://{':'.join(USER)}@{proxy.address}"), {}))
    assert USER[1] not in str(caught.value)


def test_who_is_asked_directly(plain: Registry, tmp_path: Path) -> None:
    dead = through("http://127.0.0.1:1")
    assert ask_root(plain.address, configure(tmp_path, dead, {})) == 200, "loopback"
    with pytest.raises(RegistryUnreachable, match=r"the proxy http://127.0.0.1:1 cannot.* connection refused"):
        ask_root("registry.test", configure(tmp_path, dead, {}))
    for host, settings in (("a.elsewhere.test", {}), ("registry.test", {"registry.test": {"proxy": "none"}})):
        with pytest.raises(RegistryUnreachable, match="its name cannot be resolved"):
            ask_root(host, configure(tmp_path, dead, settings))


def test_an_agent_keeps_the_proxys_password_to_itself(plain: Registry, proxy: ProxyServer, tmp_path: Path) -> None:
    plain.push_layers("team/app:1", [make_tar([entry("f", b"x")])])
    name = f"{NAME}:{plain.port}"
    configure(tmp_path, NO_PROXIES, {name: {"insecure": True}})
    url = f"http://{':'.join(USER)}@{proxy.address}"
    with Agent("--registries", str(tmp_path / "registries.yaml"), environment={"HTTP_PROXY": url}) as agent:
        told = agent.cli("pull", f"{name}/team/app:1").stdout
        failed = agent.cli("pull", f"{name}/team/none:1", check=False).stderr
        told += failed + agent.log.read_text()
        told += "".join(path.read_bytes().decode("latin-1") for path in agent.data_root.glob("*.db*"))
    assert "does not have the image" in failed
    assert f"http://{proxy.address}" in told, "the log says which proxy is used"
    assert USER[1] not in told
    assert proxy.lines("GET")


@pytest.fixture
def socks(tmp_path: Path) -> Iterator[SocksServer]:
    with SocksServer(tmp_path, USER) as running:
        yield running


@pytest.mark.parametrize("said", ["ALL_PROXY", "file"])
def test_a_registry_behind_a_socks_proxy(
    secure: Registry, plain: Registry, authority: Authority, socks: SocksServer, tmp_path: Path, said: str
) -> None:
    """Plain and encrypted, by a name that only the proxy can resolve."""
    url = f"socks5h://{':'.join(USER)}@127.0.0.1:{socks.port}"
    registry = plain if said == "file" else secure
    name = f"{NAME}:{registry.port}"
    settings: dict[str, object] = {"insecure": True} if registry is plain else {"ca": str(authority.certificate)}
    proxies = read_proxies({"all_proxy": url} if said == "ALL_PROXY" else {})
    config = configure(tmp_path, proxies, {name: settings | ({"proxy": url} if said == "file" else {})})
    push_and_pull(tmp_path, config, f"{name}/team/socks:1")
    assert f"connected to {NAME}:{registry.port}" in socks.log.read_text()


def test_a_socks_proxy_that_refuses(plain: Registry, socks: SocksServer, tmp_path: Path) -> None:
    name, place = f"{NAME}:{plain.port}", f"127.0.0.1:{socks.port}"
    told = {
        f"socks5h://joe:wr0ng@{place}": "refuses its user or password",
        f"socks5h://{place}": "refuses its user or password",
        f"socks5://{':'.join(USER)}@{place}": "its name cannot be resolved",
        f"socks5h://{':'.join(USER)}@127.0.0.1:1": "cannot be reached: connection refused",
        f"socks5h://{':'.join(USER)}@nowhere.test:1": "proxy socks5h://nowhere.test:1 cannot be reached",
        f"socks5h://{':'.join(USER)}@{plain.address}": "cannot be reached",
    }
    for url, message in told.items():
        config = configure(tmp_path, through(url), {name: {"insecure": True, "url": f"http://{name}"}})
        with pytest.raises(HoldfastError, match=message) as caught:
            ask_root(name, config)
        assert not any(secret in f"{caught.value} {caught.value.hint}" for secret in (USER[1], "wr0ng"))
    lost = configure(tmp_path, through(f"socks5h://{':'.join(USER)}@{place}"), {"nowhere.test:9": {"insecure": True}})
    with pytest.raises(HoldfastError, match=r"does not lead to nowhere.test:9: \w+"):
        ask_root("nowhere.test:9", lost)


def test_a_socks_proxy_that_trickles_is_cut(tmp_path: Path) -> None:
    """A byte before each timeout would do for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    client.recv(3)
                    client.sendall(b"\x05")
                    threading.Event().wait(0.4)
                    client.sendall(b"\x00")
                    for _ in range(100):
                        client.sendall(b"\x05" if _ == 0 else b"\x00")
                        threading.Event().wait(0.4)

        threading.Thread(target=trickle, daemon=True).start()
        config = replace(
            configure(tmp_path, through(f"socks5h://127.0.0.1:{server.getsockname()[1]}"), {}),
            connect_timeout=0.5,
            attempts=1,
        )
        with pytest.raises(RegistryUnreachable, match="no answer in time"):
            ask_root("registry.test", config)
