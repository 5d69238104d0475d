"""Pulls over connections that break, registries that die, agents that are killed and disks that are full."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.errors import Waiting
from agent.image.config import RegistryConfig
from agent.image.errors import InsufficientStorage, PullCancelled
from agent.image.progress import PullProgress
from agent.image.store import ImageStore
from agent.oci.digest import compute_digest, hex_of
from agent.store.database import Database
from tests.host.registry import Registry, entry, make_tar
from tests.host.storelab import open_store

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[2]
LIBC = ctypes.CDLL(None, use_errno=True)


class Proxy:
    """A TCP proxy in front of a registry. ``cuts`` are the bytes after which successive blob answers are cut, with
    ``resets`` by RST.

    ``requests`` are the heads of the requests that passed. ``gate``, when set to an event, holds back all bytes of
    blobs beyond the first 64 KiB until the event comes.
    """

    def __init__(self, registry: Registry) -> None:
        self._target = ("127.0.0.1", registry.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts: list[int] = []
        self.resets = False
        self.requests: list[str] = []
        self.gate: threading.Event | None = None
        self.held = threading.Event()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._target) as server:
            asked: list[str] = []
            back = threading.Thread(target=self._answer, args=(server, client, asked), daemon=True)
            back.start()
            while data := client.recv(65536):
                if data.startswith(b"GET "):
                    asked.append(data.decode("latin-1"))
                    self.requests.append(asked[-1])
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            back.join()

    def _answer(self, server: socket.socket, client: socket.socket, asked: list[str]) -> None:
        sent = 0
        limit = None
        with suppress(OSError):
            while data := server.recv(16384):
                is_blob = bool(asked) and "/blobs/" in asked[-1]
                if limit is None and is_blob and self.cuts:
                    limit = sent + self.cuts.pop(0)
                if is_blob and self.gate is not None and sent > 65536:
                    self.held.set()
                    self.gate.wait()
                if limit is not None and sent + len(data) > limit:
                    client.sendall(data[: limit - sent])
                    if self.resets:  # connecting to nothing ends a connection by RST
                        ctypes.CDLL(None).connect(client.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16)
                    break
                client.sendall(data)
                sent += len(data)
            client.shutdown(socket.SHUT_RDWR)
            server.shutdown(socket.SHUT_RDWR)

    def blob_requests(self) -> list[str]:
        return [request for request in self.requests if "/blobs/" in request]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    opened = Proxy(registry)
    yield opened
    if opened.gate is not None:
        opened.gate.set()
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = open_store(tmp_path / "data", read_timeout=240.0)
    yield opened
    opened.close()


def push_random(registry: Registry, name: str, size: int = 1 << 20) -> tuple[str, bytes]:
    """An incompressible layer; returns the reference's path and the file's content."""
    content = os.urandom(size)
    registry.push_layers(name, [make_tar([entry("f", content)])])
    return name, content


def offsets(proxy: Proxy, digest: str) -> list[int]:
    """Where each download of a blob began."""
    asked = [request for request in proxy.blob_requests() if digest in request]
    marks = [request.lower().partition("range: bytes=")[2].partition("-")[0] for request in asked]
    return [int(mark or 0) for mark in marks]


def layer_of(store: ImageStore, reference: str) -> str:
    image = store.find(reference)
    assert image is not None
    return max(image.blobs, key=lambda blob: store.content.size(blob) or 0)


@pytest.mark.parametrize("resets", [False, True], ids=["ended", "reset"])
def test_cut_download_is_resumed_by_range(registry: Registry, proxy: Proxy, store: ImageStore, resets: bool) -> None:
    name, content = push_random(registry, f"cut:{resets}")
    reference, proxy.resets = f"{proxy.address}/{name}", resets
    proxy.cuts = [10_000, 400_000, 100_000, 200_000]
    image = store.pull(reference)
    assert (store.lowerdirs(image.id)[0] / "f").read_bytes() == content
    begun = offsets(proxy, layer_of(store, reference))
    assert len(begun) >= 3
    assert begun == sorted(begun)
    assert begun[-1] > 100_000


@pytest.mark.parametrize("size", [400, 3000])
def test_endless_cuts_end_in_a_typed_error_and_the_next_pull_goes_on(
    registry: Registry, proxy: Proxy, store: ImageStore, size: int
) -> None:
    """Nothing at all, or a little with each connection: that would go on for ever."""
    name, content = push_random(registry, f"cuts:{size}")
    reference = f"{proxy.address}/{name}"
    proxy.cuts = [300_000] + [size] * 40
    with pytest.raises(Waiting) as caught:
        store.pull(reference)
    assert caught.value.reason in ("RegistryUnreachable", "ImagePullFailed")
    assert list(store.snapshots.root.iterdir()) == []
    proxy.cuts = []
    proxy.requests.clear()
    image = store.pull(reference)
    assert (store.lowerdirs(image.id)[0] / "f").read_bytes() == content
    assert offsets(proxy, layer_of(store, reference))[0] > 200_000


def test_registry_dies_mid_pull(registry: Registry, proxy: Proxy, store: ImageStore) -> None:
    running = store.pull(registry.push_layers("running:1", [make_tar([entry("f", b"runs")])]))
    name, content = push_random(registry, "dies:1", 8 << 20)  # more than a dead one has sent
    proxy.gate = threading.Event()
    failed: list[BaseException] = []

    def pull() -> None:
        try:
            store.pull(f"{proxy.address}/{name}")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    assert proxy.held.wait(60)
    registry.kill()
    proxy.gate.set()
    thread.join()
    assert isinstance(failed[0], Waiting), failed
    assert (store.lowerdirs(running.id)[0] / "f").read_bytes() == b"runs"
    registry.start()
    image = store.pull(f"{proxy.address}/{name}")
    assert (store.lowerdirs(image.id)[0] / "f").read_bytes() == content


def test_cancel_in_the_middle_keeps_what_came(registry: Registry, proxy: Proxy, store: ImageStore) -> None:
    name, content = push_random(registry, "cancelled:1", 4 << 20)
    proxy.gate = threading.Event()
    cancel = threading.Event()
    begun = threading.Event()
    failed: list[BaseException] = []

    def observe(report: PullProgress) -> None:
        if report.bytes_done:
            begun.set()

    def pull() -> None:
        try:
            store.pull(f"{proxy.address}/{name}", cancel=cancel, progress=observe)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    assert begun.wait(60)
    cancel.set()
    thread.join(60)
    assert not thread.is_alive(), "cancel must not wait for a registry that says nothing"
    assert isinstance(failed[0], PullCancelled)
    assert list(store.snapshots.root.iterdir()) == []
    proxy.gate.set()
    proxy.requests.clear()
    image = store.pull(f"{proxy.address}/{name}")
    assert (store.lowerdirs(image.id)[0] / "f").read_bytes() == content
    assert offsets(proxy, layer_of(store, f"{proxy.address}/{name}"))[0] > 0


def test_cancel_while_the_registry_says_nothing(store: ImageStore) -> None:
    """Before anything is known of the image."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cancel = threading.Event()
        failed: list[BaseException] = []

        def pull() -> None:
            try:
                store.pull(f"127.0.0.1:{silent.getsockname()[1]}/any:1", cancel=cancel)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=pull)
        thread.start()
        with silent.accept()[0] as probe:
            probe.sendall(b"no TLS here")
        with silent.accept()[0]:
            cancel.set()
            thread.join(60)
        assert not thread.is_alive()
        assert isinstance(failed[0], PullCancelled)


def test_one_download_serves_all(registry: Registry, proxy: Proxy, store: ImageStore) -> None:
    content = os.urandom(1 << 20)
    shared = make_tar([entry("f", content)])
    names = [f"serves:{number}" for number in range(4)]
    for number, name in enumerate(names):
        registry.push_layers(name, [shared], config={"Cmd": [str(number)]})
    proxy.gate = threading.Event()
    threads = [threading.Thread(target=store.pull, args=(f"{proxy.address}/{name}",)) for name in names]
    for thread in threads:
        thread.start()
    assert proxy.held.wait(60)
    proxy.gate.set()
    for thread in threads:
        thread.join()
    assert len(store.all()) == 4
    assert len(store.snapshots.all()) == 1
    assert offsets(proxy, layer_of(store, f"{proxy.address}/{names[0]}")) == [0]


def test_registry_that_ignores_range(registry: Registry, store: ImageStore, proxy: Proxy) -> None:
    """What is already there is skipped when the whole blob comes again, and damage in it is found."""
    name, content = push_random(registry, "damage:1")
    reference = f"{proxy.address}/{name}"
    image = store.pull(reference)
    digest = next(blob for blob in image.blobs if (store.content.size(blob) or 0) > 1 << 20)
    packed = store.content.path(digest).read_bytes()
    store.remove(image.id)
    store.content.remove(digest)
    store.snapshots.remove(image.chains)
    store.content.ingest_path(digest).write_bytes(packed[:500_000] + bytes(1000))
    proxy.requests.clear()
    again = store.pull(reference)
    assert (store.lowerdirs(again.id)[0] / "f").read_bytes() == content
    assert offsets(proxy, digest) == [501_000, 0], "a damaged rest is fetched again from the start"


PULL = """
import sys
from pathlib import Path
from agent.image.store import ImageStore
from agent.store.database import Database
root = Path(sys.argv[1])
root.mkdir(exist_ok=True)
report = lambda progress: progress.bytes_done and print(progress.bytes_done, flush=True)
ImageStore(root, Database(root / "holdfast.db")).pull(sys.argv[2], progress=report)
"""


def test_killed_process_resumes(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    name, content = push_random(registry, "killed:1", 4 << 20)
    proxy.gate = threading.Event()
    command = [sys.executable, "-c", PULL, str(tmp_path / "data"), f"{proxy.address}/{name}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        process.send_signal(signal.SIGKILL)
    proxy.gate.set()
    store = open_store(tmp_path / "data")
    assert list(store.snapshots.root.iterdir()) == []
    proxy.requests.clear()
    image = store.pull(f"{proxy.address}/{name}")
    assert (store.lowerdirs(image.id)[0] / "f").read_bytes() == content
    digest = layer_of(store, f"{proxy.address}/{name}")
    assert offsets(proxy, digest)[0] > 0
    assert compute_digest((store.content.root / "blobs" / "sha256" / hex_of(digest)).read_bytes()) == digest  # type: ignore[arg-type]
    store.close()


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    path.mkdir()
    options = f"size={size},mode=0700".encode()
    assert LIBC.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, options) == 0, os.strerror(ctypes.get_errno())
    try:
        yield path
    finally:
        assert LIBC.umount2(str(path).encode(), 0) == 0


@pytest.mark.parametrize("packed", ["gzip", "none"])
def test_full_disk_is_a_clear_condition(registry: Registry, tmp_path: Path, packed: str) -> None:
    """Zeros need little room as a blob and much as a file; uncompressed, both."""
    content = bytes(12 << 20) if packed == "gzip" else os.urandom(6 << 20)
    big = registry.push_layers(f"full:{packed}", [make_tar([entry("f", content)])], compression=packed)
    small = registry.push_layers("fits:1", [make_tar([entry("f", b"fits")])])
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        database = Database(disk / "holdfast.db")
        store = ImageStore(disk, database, RegistryConfig(backoff=0.01))
        running = store.pull(small)
        with pytest.raises(InsufficientStorage) as caught:
            store.pull(big)
        assert caught.value.reason == "InsufficientStorage"
        assert caught.value.retry_after
        assert len(store.snapshots.all()) == 1
        assert len(list(store.snapshots.root.iterdir())) == 1
        assert list((store.content.root / "ingest").iterdir()) == []
        assert (store.lowerdirs(running.id)[0] / "f").read_bytes() == b"fits"
        assert LIBC.mount(b"tmpfs", str(disk).encode(), None, 32, b"size=64m") == 0
        image = store.pull(big)
        assert (store.lowerdirs(image.id)[0] / "f").read_bytes() == content
        store.close()
        database.close()


def test_progress_shows_bytes_layers_and_rate(registry: Registry, proxy: Proxy, store: ImageStore) -> None:
    layers = [make_tar([entry(f"f{number}", os.urandom(600_000))]) for number in range(3)]
    registry.push_layers("progress:1", layers)
    proxy.gate = threading.Event()
    reports: list[PullProgress] = []

    def observe(report: PullProgress) -> None:
        reports.append(report)
        if report.phase == "pulling" and report.bytes_done and proxy.gate is not None:
            proxy.gate.set()

    store.pull(f"{proxy.address}/progress:1", progress=observe)
    done = [report.bytes_done for report in reports]
    assert done == sorted(done)
    assert any(report.rate > 0 for report in reports)
    assert (reports[-1].layers_done, reports[-1].layers_total) == (3, 3)
    assert reports[-1].bytes_done == reports[-1].bytes_total > 1_800_000
