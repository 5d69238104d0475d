"""Pushes to a real docker-registry: what skopeo pulls from there is what was pushed, by digest."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.image.config import RegistryConfig
from agent.image.progress import PullProgress
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.store.database import Database
from tests.host.registry import HOST_ARCHITECTURE, Registry, directory, entry, make_tar

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture(scope="module")
def other() -> Iterator[Registry]:
    with Registry() as running:
        yield running


def open_store(root: Path, **options: Any) -> ImageStore:
    root.mkdir(exist_ok=True)
    return ImageStore(root, Database(root / "holdfast.db"), RegistryConfig(**{"backoff": 0.01, **options}))


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
