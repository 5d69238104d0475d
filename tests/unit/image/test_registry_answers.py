"""What registries answer: pauses they ask for, words for errors, ranges, lengths, and answers that only trickle."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import urllib3

from agent.errors import Refused
from agent.image.config import RegistryConfig
from agent.image.errors import DigestMismatch, ImagePullFailed, RegistryUnreachable
from agent.image.progress import PullTracker
from agent.image.proxies import Proxies, parse_proxy
from agent.image.registry.client import RegistryClient
from agent.image.registry.transport import Transport
from agent.oci.descriptor import Descriptor
from agent.oci.digest import compute_digest
from agent.oci.reference import parse_reference
from tests.unit.image.stub_registry import Answer, StubRegistry

MANIFEST = "/v2/team/app/manifests/1"


@pytest.fixture
def stub() -> Iterator[StubRegistry]:
    with StubRegistry() as running:
        yield running


def client(address: str, tmp_path: Path, **options: Any) -> RegistryClient:
    quick: dict[str, Any] = {"backoff": 0.001, "backoff_limit": 0.01, "attempts": 3}
    quick |= {"connect_timeout": 30, "read_timeout": 30, **options}
    settings = RegistryConfig(docker_config=tmp_path / "none", **quick)
    return RegistryClient(parse_reference(f"{address}/team/app:1"), settings, PullTracker("app", None, None))


def test_a_registry_that_asks_for_a_long_pause_is_left_to_the_caller(stub: StubRegistry, tmp_path: Path) -> None:
    for header, seconds in (("900", 900), ("9" * 30, 3600), (formatdate(time.time() + 700, usegmt=True), 700)):
        stub.answers[MANIFEST] = (429, {"Retry-After": header}, b"")
        stub.requests.clear()
        with pytest.raises(ImagePullFailed) as caught:
            client(stub.address, tmp_path).fetch_manifest()
        assert caught.value.retry_after == pytest.approx(seconds, abs=60)
        assert len(stub.paths()) == 1
    for header in ("soon", "-1", formatdate(0, usegmt=True), "\xb2"):
        stub.answers[MANIFEST] = (429, {"Retry-After": header}, b"")
        with pytest.raises(ImagePullFailed) as caught:
            client(stub.address, tmp_path).fetch_manifest()
        assert caught.value.retry_after == 5


def test_the_registrys_word_for_an_error_is_passed_on_and_nothing_else(stub: StubRegistry, tmp_path: Path) -> None:
    for code, shown in (("TOOMANYREQUESTS", True), ("DENIED", True), ("\x1b[31m", False), ("x y", False), (5, False)):
        body = json.dumps({"errors": [{"code": code, "message": "hunter2"}]}).encode()
        stub.answers[MANIFEST] = (400, {}, body)
        with pytest.raises(Refused) as caught:
            client(stub.address, tmp_path).fetch_manifest()
        assert (f"HTTP 400, {code}" in str(caught.value)) is shown
        assert "hunter2" not in str(caught.value)


BLOB = b"0123456789" * 10


def test_a_range_that_cannot_be_served_is_asked_for_whole(stub: StubRegistry, tmp_path: Path) -> None:
    descriptor = Descriptor("x", compute_digest(BLOB), len(BLOB))

    def answer(headers: Mapping[str, str]) -> Answer:
        return (416, {}, b"") if "range" in headers else (200, {}, BLOB)

    stub.answers[f"/v2/team/app/blobs/{descriptor.digest}"] = answer
    stream = client(stub.address, tmp_path).open_blob(descriptor, 50)
    assert (stream.start, stream.read(1000)) == (0, BLOB)
    stream.close(complete=True)


def test_a_blob_of_another_length_is_refused_before_it_is_read(stub: StubRegistry, tmp_path: Path) -> None:
    for size, offset, answer in (
        (50, 0, (200, {}, BLOB)),
        (200, 0, (200, {}, BLOB)),
        (200, 60, (206, {"Content-Range": "bytes 60-99/100"}, BLOB[60:])),
    ):
        descriptor = Descriptor("x", compute_digest(BLOB), size)
        stub.answers[f"/v2/team/app/blobs/{descriptor.digest}"] = answer
        with pytest.raises(DigestMismatch, match=f"has 100 bytes .* says {size}"):
            client(stub.address, tmp_path).open_blob(descriptor, offset)


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Give each connection to ``serve``, in a thread of its own; the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("where", ["head", "body", "handshake", "proxy"])
def test_a_trickling_answer_is_cut(tmp_path: Path, where: str) -> None:
    """Slow loris: each byte comes in time, the answer never does."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    begin = b"\x16\x03\x03\x40\x00" if where == "handshake" else b""
    stop = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if connection.recv(4096).startswith(b"GET"):
                connection.sendall(head if where == "body" else b"HTTP/1.1 ")
            else:
                connection.sendall(begin)
            while not stop.wait(0.05):
                connection.sendall(b"1")

    with serving(serve) as address:
        limits = {"attempts": 1, "connect_timeout": 0.2, "read_timeout": 0.2, "slow_seconds": 0.3, "slow_bytes": 1000}
        if where == "proxy":
            limits["proxies"], address = Proxies(secure=parse_proxy(address)), "registry.invalid"
        asked = client(address, tmp_path, **limits)
        with pytest.raises((ImagePullFailed, RegistryUnreachable)):
            asked.fetch_manifest()
        stop.set()


def test_endless_trailers_are_cut(tmp_path: Path) -> None:
    """They come fast, and belong to no body that anybody counts."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    stop = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if connection.recv(4096).startswith(b"GET"):
                connection.sendall(head)
                while not stop.is_set():
                    connection.sendall(b"X: y\r\n" * 1000)

    with serving(serve) as address:
        with pytest.raises(RegistryUnreachable):
            client(address, tmp_path, attempts=1).fetch_manifest()
        stop.set()


def test_idle_connections_that_are_closed_are_no_failure(tmp_path: Path) -> None:
    """Each one answers once, and is closed when the next request has come."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    received: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            for reply in (answer, b""):
                received.append(connection.recv(4096))
                connection.sendall(reply)

    with serving(serve) as address:
        transport = Transport(RegistryConfig(docker_config=tmp_path / "none", attempts=1))
        for number in range(4):
            response = transport.request("POST", f"http://{address}/{number}", {}, b"")
            assert transport.read(response, 10) == b"ok"
        transport.close()
    assert sum(b"POST /3 " in request for request in received) == 2


def test_a_new_connection_that_is_closed_is_a_failure(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            asked.append(connection.recv(4096))

    with serving(serve) as address, pytest.raises(urllib3.exceptions.ProtocolError):
        Transport(RegistryConfig(docker_config=tmp_path / "none")).request("GET", f"http://{address}/", {})
    assert len(asked) == 1
