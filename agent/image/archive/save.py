"""Images to one tar: an OCI image layout, which as ``docker-archive`` has docker's manifest.json beside its index.

So the one archive is read by everything that knows either format. Blobs are stored as they are kept here, verified once
more while they are read. The same images give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from typing import Literal

from agent.image.archive.layout import CONTAINERD_NAME, INDEX, LAYOUT
from agent.image.layers.tarwriter import encode_end, encode_member, encode_padding
from agent.image.storage.content import ContentStore
from agent.oci.descriptor import OCI_INDEX, OCI_MANIFEST, REF_NAME, Descriptor, encode_descriptor
from agent.oci.digest import Digest, hex_of
from agent.oci.document import encode_document
from agent.oci.manifest import Manifest
from agent.oci.reference import parse_reference
from agent.values import frozen

Format = Literal["docker-archive", "oci"]
FORMATS: tuple[Format, ...] = ("docker-archive", "oci")
_DIRECTORIES = ("blobs", "blobs/sha256")


@frozen
class SavedImage:
    """An image to be saved: its OCI manifest, that manifest's descriptor, and the full names it is saved under."""

    descriptor: Descriptor
    manifest: Manifest
    names: tuple[str, ...]


def stream_archive(content: ContentStore, images: Sequence[SavedImage], form: Format) -> Generator[bytes, None, None]:
    """The archive in chunks. Raises DigestMismatch for a damaged blob, FileNotFoundError for a missing one."""
    total = 0
    for chunk in _stream(content, images, form):
        total += len(chunk)
        yield chunk
    yield encode_end(total)


def _stream(content: ContentStore, images: Sequence[SavedImage], form: Format) -> Iterator[bytes]:
    yield from _file(LAYOUT, json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
    yield from _file(INDEX, encode_document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": _list(images)}))
    if form == "docker-archive":
        yield from _file("manifest.json", json.dumps([_describe(image) for image in images]).encode())
    for name in _DIRECTORIES:
        yield _header(f"{name}/".encode(), b"5", 0o755, 0)
    sizes = {blob.digest: blob.size for image in images for blob in _blobs(image)}
    for digest, size in sorted(sizes.items()):
        yield _header(_path(digest).encode(), b"0", 0o644, size)
        yield from content.stream(digest)
        yield encode_padding(size)


def _list(images: Sequence[SavedImage]) -> list[dict[str, object]]:
    """The entries of index.json: one for each name, so that every one is found by it."""
    entries: list[dict[str, object]] = []
    for image in images:
        plain = encode_descriptor(image.descriptor)
        named = [{**plain, "annotations": {REF_NAME: name, CONTAINERD_NAME: name}} for name in image.names]
        entries += named or [plain]
    return entries


def _describe(image: SavedImage) -> dict[str, object]:
    """An entry of docker's manifest.json; names are those that people write."""
    return {
        "Config": _path(image.manifest.config.digest),
        "RepoTags": [parse_reference(name).familiar() for name in image.names if parse_reference(name).tag],
        "Layers": [_path(layer.digest) for layer in image.manifest.layers],
    }


def _blobs(image: SavedImage) -> Iterator[Descriptor]:
    yield image.descriptor
    yield image.manifest.config
    yield from image.manifest.layers


def _path(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _header(path: bytes, kind: bytes, mode: int, size: int) -> bytes:
    return encode_member(path, kind, mode, {b"uid": 0, b"gid": 0, b"size": size, b"mtime": 0})


def _file(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name.encode(), b"0", 0o644, len(data))
    yield data + encode_padding(len(data))


def make_descriptor(digest: Digest, size: int) -> Descriptor:
    """The descriptor of a stored OCI manifest."""
    return Descriptor(OCI_MANIFEST, digest, size)
