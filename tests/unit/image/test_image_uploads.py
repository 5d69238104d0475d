"""Uploads to registries that break, forget, refuse and mislead."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from agent.errors import HoldfastError, Refused, Waiting
from agent.image.config import RegistryConfig
from agent.image.errors import DigestMismatch, ImagePullFailed, PullCancelled, RegistryUnreachable
from agent.image.progress import PullTracker
from agent.image.registry.client import RegistryClient
from agent.image.storage.content import ContentStore
from agent.image.transfer.uploads import BlobUpload, Outcome
from agent.oci.descriptor import Descriptor
from agent.oci.digest import Digest, compute_digest
from agent.oci.reference import parse_reference
from tests.unit.image.stub_registry import StubRegistry
from tests.unit.image.upload_stub import Fault, UploadRegistry

DATA = bytes(range(256)) * 400
CHUNK = 30_000
DIGEST = compute_digest(DATA)


@pytest.fixture
def registry() -> Iterator[UploadRegistry]:
    with UploadRegistry() as running:
        yield running


def upload(
    registry: UploadRegistry, path: Path, *, chunk: int = 1 << 20, sources: Sequence[str] = (), data: bytes = DATA
) -> tuple[Outcome, int]:
    """The outcome, and the bytes counted as sent."""
    content = ContentStore(path / "content")
    content.path(DIGEST).write_bytes(data)
    (path / "config.json").write_text(
        json.dumps({"auths": {registry.address: {"auth": base64.b64encode(b"joe:secret").decode()}}})
    )
    config = RegistryConfig(
        docker_config=path / "config.json",
        backoff=0.001,
        backoff_limit=0.01,
        attempts=3,
        connect_timeout=30,
        read_timeout=30,
        upload_timeout=30,
        upload_chunk=chunk,
    )
    tracker = PullTracker("app", None, None, "push")
    descriptor = Descriptor("x", DIGEST, len(DATA))
    (meter,) = tracker.expect([descriptor])
    client = RegistryClient(parse_reference(f"{registry.address}/team/app:1"), config, tracker, "pull,push")
    outcome = BlobUpload(content, client, descriptor, config, meter).run(sources)
    assert meter.done == len(DATA)
    return outcome, meter.fetched


def test_whole_and_in_chunks(registry: UploadRegistry, tmp_path: Path) -> None:
    assert upload(registry, tmp_path) == (Outcome.UPLOADED, len(DATA))
    assert registry.methods() == ["HEAD", "POST", "PUT"]
    assert registry.blobs.pop(DIGEST) == DATA
    registry.seen.clear()
    assert upload(registry, tmp_path, chunk=CHUNK) == (Outcome.UPLOADED, len(DATA))
    assert registry.methods() == ["HEAD", "POST", *["PATCH"] * 4, "PUT"]
    ranges = [seen.headers["content-range"] for seen in registry.seen if seen.method == "PATCH"]
    assert ranges == ["0-29999", "30000-59999", "60000-89999", f"90000-{len(DATA) - 1}"]
    registry.seen.clear()
    assert upload(registry, tmp_path) == (Outcome.PRESENT, 0)
    assert registry.methods() == ["HEAD"]


def test_a_registry_may_ask_for_larger_chunks(registry: UploadRegistry, tmp_path: Path) -> None:
    registry.start = {"OCI-Chunk-Min-Length": "60000"}
    upload(registry, tmp_path, chunk=CHUNK)
    assert registry.methods().count("PATCH") == 2


def test_mounts(registry: UploadRegistry, tmp_path: Path) -> None:
    registry.mountable = {("team/two", DIGEST)}
    assert upload(registry, tmp_path, sources=["team/one", "team/two"]) == (Outcome.MOUNTED, 0)
    assert registry.uploads == {}, "the upload that the first one began was ended"
    assert upload(registry, tmp_path, sources=["a", "b", "c", "team/two"])[0] is Outcome.UPLOADED


FAULTS = {
    "cut in the body": [Fault("PUT", 1, cut=50_000)],
    "cut twice": [Fault("PUT", 1, cut=1), Fault("PUT", 2, cut=2000)],
    "503": [Fault("PUT", 1, (503, {}))],
    "429 at the beginning": [Fault("HEAD", 1, (429, {"Retry-After": "0"})), Fault("POST", 1, (429, {}))],
    "session forgotten": [Fault("PUT", 1, (404, {}))],
}


@pytest.mark.parametrize("name", FAULTS)
def test_passing_faults(registry: UploadRegistry, tmp_path: Path, name: str) -> None:
    registry.faults = FAULTS[name]
    assert upload(registry, tmp_path)[0] is Outcome.UPLOADED
    assert registry.blobs[DIGEST] == DATA


def test_a_cut_chunk_is_resumed_where_the_registry_stands(registry: UploadRegistry, tmp_path: Path) -> None:
    registry.faults = [Fault("PATCH", 2, cut=20_000, taken=15_000), Fault("PATCH", 4, (502, {}))]
    upload(registry, tmp_path, chunk=CHUNK)
    assert registry.blobs[DIGEST] == DATA
    assert registry.methods().count("POST") == 1, "it goes on in the same session"
    starts = [seen.headers["content-range"].partition("-")[0] for seen in registry.seen if seen.method == "PATCH"]
    assert starts == ["0", "30000", "45000", "75000", "75000"]


def test_a_wrong_offset_is_corrected(registry: UploadRegistry, tmp_path: Path) -> None:
    registry.faults = [Fault("PATCH", 2, (416, {}))]
    upload(registry, tmp_path, chunk=CHUNK)
    assert registry.blobs[DIGEST] == DATA


def test_a_session_that_is_lost_is_begun_anew(registry: UploadRegistry, tmp_path: Path) -> None:
    registry.faults = [Fault("PATCH", 3, cut=1), Fault("GET", 1, (404, {}))]
    upload(registry, tmp_path, chunk=CHUNK)
    assert registry.blobs[DIGEST] == DATA
    assert registry.methods().count("POST") == 2


def test_other_ways_are_found(registry: UploadRegistry, tmp_path: Path) -> None:
    """No chunks: whole. Too large: in chunks."""
    registry.faults = [Fault("PATCH", 1, (405, {}))]
    upload(registry, tmp_path, chunk=CHUNK)
    assert registry.blobs.pop(DIGEST) == DATA
    registry.faults = [Fault("PUT", 2, (413, {}))]
    upload(registry, tmp_path)
    assert registry.blobs[DIGEST] == DATA
    assert registry.methods()[-3:] == ["PATCH", "PATCH", "PUT"]


def test_endless_faults_end(registry: UploadRegistry, tmp_path: Path) -> None:
    registry.faults = [Fault("PUT", number, cut=10) for number in range(1, 10)]
    with pytest.raises(RegistryUnreachable):
        upload(registry, tmp_path)
    assert registry.methods().count("PUT") == 3
    registry.faults = [Fault("POST", number, (500, {})) for number in range(1, 20)]
    with pytest.raises(ImagePullFailed) as caught:
        upload(registry, tmp_path)
    assert caught.value.reason == "ImagePushFailed"


def test_a_registry_that_asks_for_an_hour_is_left_alone(registry: UploadRegistry, tmp_path: Path) -> None:
    registry.faults = [Fault("HEAD", 1, (429, {"Retry-After": "1800"}))]
    with pytest.raises(Waiting) as caught:
        upload(registry, tmp_path)
    assert caught.value.retry_after == 1800
    assert registry.methods() == ["HEAD"]


@pytest.mark.parametrize("status", [400, 403, 404, 405])
def test_refusals_are_told(registry: UploadRegistry, tmp_path: Path, status: int) -> None:
    registry.faults = [Fault("POST", number, (status, {})) for number in range(1, 5)]
    with pytest.raises(HoldfastError, match=str(status) if status != 404 else "does not have"):
        upload(registry, tmp_path)
    assert registry.methods() == ["HEAD", "POST"]


def test_our_own_damage_is_found(registry: UploadRegistry, tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch, match="is damaged"):
        upload(registry, tmp_path, data=DATA[:-1] + b"\0")
    assert DIGEST not in registry.blobs


def test_an_upload_elsewhere_gets_no_credentials(registry: UploadRegistry, tmp_path: Path) -> None:
    """Row 50, the other way round."""
    challenge = (401, {"WWW-Authenticate": 'Basic realm="r"'})
    registry.faults = [Fault("HEAD", 1, challenge)]
    with UploadRegistry() as other:
        other.uploads = {str(number): b"" for number in range(9)}
        registry.place = lambda path: f"http://{other.address}{path}"
        other.faults = [Fault("PUT", number, challenge) for number in range(1, 9)]
        with pytest.raises(HoldfastError):
            upload(registry, tmp_path)
        assert registry.seen[-1].headers["authorization"].startswith("Basic ")
        assert other.seen
        assert all("authorization" not in seen.headers for seen in other.seen)
        other.faults = []
        upload(registry, tmp_path)
        assert other.blobs[DIGEST] == DATA


@pytest.mark.parametrize(
    "place", ["http://registry.invalid/x", "ftp://a/b", "http://169.254.169.254/", "http://u:p@127.0.0.1/"]
)
def test_unsafe_places_for_an_upload_are_refused(registry: UploadRegistry, tmp_path: Path, place: str) -> None:
    registry.place = lambda path: place
    with pytest.raises(Refused):
        upload(registry, tmp_path)
    assert registry.methods() == ["HEAD", "POST"]


def test_a_redirected_upload_is_refused(registry: UploadRegistry, tmp_path: Path) -> None:
    with StubRegistry() as other:
        registry.faults = [Fault("PUT", 1, (307, {"Location": f"http://{other.address}/x"}))]
        with pytest.raises(Refused, match="redirects an upload"):
            upload(registry, tmp_path)
        assert other.requests == []


def test_cancel_in_the_middle(registry: UploadRegistry, tmp_path: Path) -> None:
    content = ContentStore(tmp_path / "content")
    content.write(DATA)
    cancel = threading.Event()
    config = RegistryConfig(docker_config=tmp_path / "none", upload_chunk=CHUNK, backoff=0.001)
    tracker = PullTracker("app", None, cancel, "push")
    descriptor = Descriptor("x", Digest(DIGEST), len(DATA))
    (meter,) = tracker.expect([descriptor])
    client = RegistryClient(parse_reference(f"{registry.address}/team/app:1"), config, tracker, "pull,push")
    registry.place = lambda path: cancel.set() or path  # type: ignore[func-returns-value]
    with pytest.raises(PullCancelled, match="the push of app was cancelled"):
        BlobUpload(content, client, descriptor, config, meter).run(())
    assert registry.blobs == {}


def test_cancel_while_the_registry_says_nothing(tmp_path: Path) -> None:
    """A push does not outlive its cancellation by the minutes that a registry may take to store a blob."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        waiting, stop = threading.Event(), threading.Event()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        head = connection.recv(65536)
                        if head.startswith(b"HEAD"):
                            waiting.set()
                            stop.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        config = RegistryConfig(docker_config=tmp_path / "none")
        tracker = PullTracker("app", None, None, "push")
        reference = parse_reference(f"127.0.0.1:{server.getsockname()[1]}/team/app:1")
        client = RegistryClient(reference, config, tracker, "pull,push")
        descriptor = Descriptor("x", DIGEST, len(DATA))
        (meter,) = tracker.expect([descriptor])
        upload = BlobUpload(ContentStore(tmp_path / "content"), client, descriptor, config, meter)
        failed: list[BaseException] = []

        def push() -> None:
            try:
                upload.run(())
            except BaseException as error:
                failed.append(error)

        pushing = threading.Thread(target=push)
        pushing.start()
        assert waiting.wait(60)
        tracker.abandon()
        client.transport.abort()
        pushing.join(60)
        assert not pushing.is_alive()
        assert isinstance(failed[0], PullCancelled)
        stop.set()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(60)
