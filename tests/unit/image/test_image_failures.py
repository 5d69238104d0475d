"""What is said of registries that cannot be reached: no Python in it, and what to do next."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import urllib3

from agent.errors import HoldfastError, Stalled
from agent.image.errors import RegistryUnreachable
from agent.image.registry.failures import translate_failure
from agent.image.registry.pools import Tls, make_context
from tests.host.certificates import Authority
from tests.ports import reserve_port
from tests.unit.image.stub_registry import StubRegistry


def fail(url: str, registry: str, seconds: float = 60.0) -> HoldfastError:
    pool = urllib3.PoolManager(retries=False, timeout=seconds)
    try:
        pool.request("GET", url)
    except urllib3.exceptions.HTTPError as error:
        return translate_failure(error, registry)
    finally:
        pool.clear()
    raise AssertionError(f"{url} answers")


@contextmanager
def listening(serve: Callable[[socket.socket], None] | None = None) -> Iterator[str]:
    """A server that accepts one connection after the other, or none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if serve is None:
            yield address
            return

        def accept() -> None:
            with suppress(OSError):
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    connection.settimeout(60)
                    serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield address
        thread.join(60)


def closed_port() -> str:
    return f"127.0.0.1:{reserve_port()}"


def test_nobody_listens() -> None:
    address = closed_port()
    error = fail(f"https://{address}/v2/", address)
    assert isinstance(error, RegistryUnreachable)
    assert str(error) == (
        f"registry {address} cannot be reached: connection refused (check that it is running and that the address is "
        "right)"
    )


def test_the_host_that_failed_is_named_when_it_is_another() -> None:
    error = fail(f"https://{closed_port()}/token", "registry.example")
    assert error.message == "registry registry.example (127.0.0.1) cannot be reached: connection refused"
    assert "--insecure-registry" in str(error.hint)


def test_an_unknown_name() -> None:
    error = fail("https://registry.invalid/v2/", "registry.invalid")
    assert error.message.startswith("registry registry.invalid cannot be reached: its name cannot be resolved: ")
    assert "resolve names" in str(error.hint)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_answer(scheme: str) -> None:
    with listening() as address:
        error = fail(f"{scheme}://{address}/v2/", address, 0.3)
    assert error.message == f"registry {address} cannot be reached: no answer in time"
    assert "firewall" in str(error.hint)


def test_plain_http_where_tls_is_wanted() -> None:
    with StubRegistry() as stub:
        error = fail(f"https://{stub.address}/v2/", "registry.example:5000")
    assert error.message == "registry registry.example:5000 cannot be reached: it does not speak TLS"
    assert "--insecure-registry" in str(error.hint)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_connection_that_ends_too_early(sent: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(sent)

    with listening(serve) as address:
        error = fail(f"http://{address}/", address)
    assert error.message == f"registry {address} cannot be reached: the connection was closed too early"


def test_certificates(tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    command += ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(4096)

    with listening(serve) as address:
        error = fail(f"https://{address}/v2/", address)
    assert isinstance(error, Stalled)
    assert error.reason == "RegistryUntrusted"
    assert error.message == f"the certificate of {address} cannot be verified: self-signed certificate"
    assert "update-ca-certificates" in str(error.hint)


def test_a_certificate_for_another_name() -> None:
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_code, cause.verify_message = 62, "Hostname mismatch, certificate is not valid for 'a.example'."
    failed = urllib3.exceptions.SSLError(cause)
    failed.__cause__ = cause
    error = translate_failure(failed, "a.example")
    assert error.message.endswith(": hostname mismatch, certificate is not valid for 'a.example'")
    assert "address" in str(error.hint)


def test_nothing_of_python_shows_in_what_is_not_foreseen() -> None:
    error = translate_failure(urllib3.exceptions.LocationParseError("a..b"), "a..b")
    assert str(error) == "registry a..b cannot be reached: LocationParse failed"


def test_contexts_are_kept_until_their_files_change(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = Tls(ca=authority.certificate)
    kept = make_context(tls)
    assert make_context(tls) is kept
    assert make_context(Tls()) is not kept
    Authority(tmp_path)
    assert make_context(tls) is not kept
    authority.certificate.write_text("nothing")
    with pytest.raises(Stalled, match=r"authority\.pem of the registries file cannot be used"):
        make_context(tls)
