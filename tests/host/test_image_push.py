"""Pushes to a real docker-registry: what skopeo pulls from there is what was pushed, by digest."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from agent.errors import Conflict, Stalled, Unsupported
from agent.image.errors import DigestMismatch, ImageNotFound
from agent.image.progress import PullProgress
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from tests.host.registry import HOST_ARCHITECTURE, Registry, directory, entry, make_tar
from tests.host.storelab import open_store

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def other() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = open_store(tmp_path / "data")
    yield opened
    opened.close()


def layer(name: str, content: bytes = b"content") -> bytes:
    return make_tar([directory("d"), entry(f"d/{name}", content)])


def skopeo(path: Path, reference: str, *options: str) -> dict[str, Any]:
    """Pull with skopeo into a directory; returns the manifest, whose blobs skopeo has verified."""
    command = ["skopeo", "copy", "-q", "--insecure-policy", "--preserve-digests", "--src-tls-verify=false", *options]
    run = subprocess.run(
        [*command, f"docker://{reference}", f"dir:{path}"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
    return found


def built(store: ImageStore, tmp_path: Path, name: str, *contents: bytes) -> str:
    """An image made here, of one layer for each content; returns its name."""
    layers = []
    for number, content in enumerate(contents):
        tree = tmp_path / f"tree-{len(list(tmp_path.iterdir()))}"
        tree.mkdir()
        (tree / f"file-{number}").write_bytes(content)
        layers.append(store.commit_layer(tree, parents=[done.chain_id for done in layers]))
    config = ImageConfig(architecture=HOST_ARCHITECTURE, os="linux", cmd=("/bin/true",))
    store.add_image(config, layers, name)
    return name


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_what_was_pulled_is_pushed_byte_for_byte(
    registry: Registry, other: Registry, store: ImageStore, tmp_path: Path, docker: bool
) -> None:
    pulled = store.pull(registry.push_layers(f"source:{docker}", [layer("f"), layer("g")], docker=docker))
    reports: list[PullProgress] = []
    report = store.push(pulled.id, f"{other.address}/copy/{docker}".lower() + ":1", progress=reports.append)
    assert (report.uploaded, report.present, report.mounted, report.digest) == (2, 0, 0, pulled.digest)
    manifest = skopeo(tmp_path / "out", f"{other.address}/copy/{docker}".lower() + f"@{pulled.digest}")
    assert [found["digest"] for found in manifest["layers"]] == list(pulled.blobs[-2:])
    assert (reports[-1].phase, reports[-1].layers_done, reports[-1].bytes_done) == ("done", 2, pulled.size)


@pytest.mark.parametrize("chunk", [64 << 20, 300_000], ids=["whole", "chunks"])
def test_what_was_built_is_pushed(other: Registry, tmp_path: Path, chunk: int) -> None:
    with_chunks = open_store(tmp_path / "data", upload_chunk=chunk)
    content = os.urandom(1 << 20)
    name = built(with_chunks, tmp_path, f"{other.address}/built/{chunk}:1", content, b"small", b"small")
    report = with_chunks.push(name)
    assert report.bytes_sent >= len(content)
    skopeo(tmp_path / "out", name)
    again = with_chunks.push(name)
    assert (again.uploaded, again.present, again.bytes_sent) == (0, report.uploaded, 0), "what is there is skipped"
    with_chunks.close()


class Cutter:
    """A TCP proxy that ends the first ``times`` connections that upload more than ``limit`` bytes."""

    def __init__(self, registry: Registry, limit: int, times: int) -> None:
        self._target = ("127.0.0.1", registry.port)
        self._limit, self.left = limit, times
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._target) as server:
            threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
            self._pass(client, server, self._limit)

    def _pass(self, source: socket.socket, target: socket.socket, limit: int | None = None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if limit is not None and passed > limit and self.left > 0:
                    self.left -= 1
                    break
                target.sendall(data)
            for end in (source, target):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Cutter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()


@pytest.mark.parametrize("chunk", [64 << 20, 1 << 20], ids=["whole", "chunks"])
def test_a_cut_upload_goes_on(other: Registry, tmp_path: Path, chunk: int) -> None:
    store = open_store(tmp_path / "data", upload_chunk=chunk)
    name = built(store, tmp_path, "made:1", os.urandom(4 << 20))
    with Cutter(other, 3 << 20, times=2) as cutter:
        report = store.push(name, f"{cutter.address}/cut/{chunk}:1")
        # a chunk that is cut may be in the registry, or not: of one that goes on behind it too little is left to cut
        assert cutter.left <= (chunk < 4 << 20)
    skopeo(tmp_path / "out", f"{other.address}/cut/{chunk}@{report.digest}")
    store.close()


def test_layers_of_other_repositories_are_mounted(other: Registry, store: ImageStore, tmp_path: Path) -> None:
    name = built(store, tmp_path, f"{other.address}/one/app:1", os.urandom(1000), os.urandom(2000))
    assert store.push(name).uploaded == 2
    store.tag(name, f"{other.address}/two/app:1")
    report = store.push(f"{other.address}/two/app:1")
    assert (report.mounted, report.uploaded, report.bytes_sent) == (2, 0, 0)
    assert skopeo(tmp_path / "out", f"{other.address}/two/app@{report.digest}")["layers"]


def test_what_cannot_be_pushed_is_said(registry: Registry, other: Registry, store: ImageStore, tmp_path: Path) -> None:
    name = built(store, tmp_path, f"{other.address}/some/app:1", b"x")
    image = store.find(name)
    assert image is not None
    with pytest.raises(Stalled, match="is not a name of the image"):
        store.push(image.id)
    with pytest.raises(Stalled, match="cannot be pushed under another"):
        store.push(name, f"{other.address}/some/app@sha256:{'0' * 64}")
    assert store.push(name, f"{other.address}/some/app@{image.digest}").digest == image.digest
    with pytest.raises(ImageNotFound):
        store.push("absent:1")
    path = store.content.path(image.blobs[-1])
    packed = path.read_bytes()
    path.write_bytes(packed[:20] + bytes([packed[20] ^ 1]) + packed[21:])
    with pytest.raises(DigestMismatch, match="is damaged"):
        store.push(name, f"{registry.address}/another/app:1")
    with pytest.raises(ImageNotFound, match="is not local"):
        store.push(name, f"{registry.address}/another/app:1")


ARCHITECTURES = (HOST_ARCHITECTURE, "s390x", "riscv64")


def push_index(registry: Registry, name: str, extra: dict[str, Any] | None = None) -> tuple[str, str]:
    """An image for three platforms in a registry; its reference and the digest of its index."""
    layout = registry.layout()
    images = [(layout.image([layer(name), layer("shared")], architecture=name), name, "") for name in ARCHITECTURES]
    index = layout.index(images)
    if extra is not None:
        document = json.loads((layout.path / "blobs" / "sha256" / index["digest"][7:]).read_bytes())
        attested = {**layout.image([layer("attestation")], architecture="unknown"), **extra}
        document["manifests"].append(attested)
        index = layout.describe(json.dumps(document).encode(), index["mediaType"])
    return registry.push(layout, index, name), index["digest"]


def pull_all(store: ImageStore, reference: str) -> None:
    for architecture in ARCHITECTURES:
        store.pull(reference, policy="always", platform=f"linux/{architecture}")


def test_an_index_is_pushed_as_it_came(registry: Registry, other: Registry, store: ImageStore, tmp_path: Path) -> None:
    reference, digest = push_index(registry, "several:1")
    store.pull(reference)
    target = f"{other.address}/several:1"
    with pytest.raises(Stalled, match=r"linux/s390x, linux/riscv64 is missing .*pull --platform linux/s390x"):
        store.push(reference, target, all_platforms=True)
    pull_all(store, reference)
    report = store.push(reference, target, all_platforms=True)
    assert (report.digest, report.images, report.uploaded, report.left_out) == (digest, 3, 4, 0)
    for architecture in ARCHITECTURES:
        skopeo(tmp_path / architecture, f"{other.address}/several:1", "--override-arch", architecture)
    assert skopeo(tmp_path / "all", f"{other.address}/several@{digest}", "--all")["manifests"]
    store.close()
    again = open_store(tmp_path / "data")
    assert again.push(reference, target, all_platforms=True).present == 4
    again.tag(built(again, tmp_path, "moved:1", b"new"), reference)
    moved = again.push(reference, target, all_platforms=True)
    assert moved.digest != digest, "the name means another image now, for this platform"
    found = skopeo(tmp_path / "moved", f"{other.address}/several:1", "--all")["manifests"]
    assert [entry["platform"]["architecture"] for entry in found] == sorted(ARCHITECTURES)
    again.close()


def test_attestations_are_left_out(registry: Registry, other: Registry, store: ImageStore, tmp_path: Path) -> None:
    attestation = {"platform": {"os": "unknown", "architecture": "unknown"}}
    reference, digest = push_index(registry, "attested:1", attestation)
    pull_all(store, reference)
    report = store.push(reference, f"{other.address}/attested:1", all_platforms=True)
    assert (report.images, report.left_out) == (3, 1)
    assert report.digest != digest
    assert len(skopeo(tmp_path / "all", f"{other.address}/attested@{report.digest}", "--all")["manifests"]) == 3


def test_what_is_no_set_of_platforms(other: Registry, store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match="is not local"):
        store.push("none:1", all_platforms=True)
    name = built(store, tmp_path, f"{other.address}/single:1", b"x")
    assert store.push(name, all_platforms=True).images == 1
    assert len(skopeo(tmp_path / "single", name, "--all")["manifests"]) == 1
    second = store.find(built(store, tmp_path, "second:1", b"y"))
    assert second is not None
    store.tag(second.id, f"{name}@{second.digest}")
    with pytest.raises(Conflict, match="two images are for"):
        store.push(name, all_platforms=True)


def test_schema_1_is_refused_by_its_name(store: ImageStore) -> None:
    old = Registry()
    old.more = {"compatibility": {"schema1": {"enabled": True}}}
    with old:
        layout = old.layout()
        described = layout.image([make_tar([entry("f", b"x")])])
        manifest = json.loads((layout.path / "blobs/sha256" / described["digest"][7:]).read_bytes())
        config = json.loads((layout.path / "blobs/sha256" / manifest["config"]["digest"][7:]).read_bytes())
        config["history"] = [{"created_by": "made"}]
        manifest["config"] = layout.describe(json.dumps(config).encode(), manifest["config"]["mediaType"])
        described = layout.describe(json.dumps(manifest).encode(), described["mediaType"])
        name = old.push(layout, described, "new:1", docker=True)
        converted = name.replace("new:1", "old:1")
        command = ["skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]
        subprocess.run([*command, "--format", "v2s1", f"docker://{name}", f"docker://{converted}"], check=True)
        with pytest.raises(Unsupported, match=r"schema 1.*skopeo copy --format oci"):
            store.pull(converted)
        assert store.pull(name)
