"""The content store: an OCI image layout whose blobs are verified when written and when read."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from agent.image.errors import DigestMismatch, translated_storage_errors
from agent.oci.descriptor import OCI_INDEX, REF_NAME, Descriptor, encode_descriptor
from agent.oci.digest import Digest, compute_digest, digest_of_hex, hex_of
from agent.oci.document import MAX_DOCUMENT, encode_document
from agent.store.atomic import write_atomic

CHUNK = 120 << 10
"""Bytes read at a time: below what malloc(3) maps and unmaps anew, with a page fault each 4 KiB, for every buffer."""


class ContentStore:
    """Blobs by digest under ``root/blobs/sha256``; partial downloads beside them under ``root/ingest``.

    A blob under its final name is complete and was verified. It may still be lost or damaged by a power cut, which
    every read notices (DigestMismatch, and the blob is dropped, so that it is fetched again).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        self._lock = threading.Lock()
        for directory in (self._blobs, self._ingest):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (*self._ingest.glob("tmp-*"), *self._blobs.glob(".*")):
            path.unlink()
        if not (root / "oci-layout").exists():
            write_atomic(root / "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode(), durable=False)

    def path(self, digest: Digest) -> Path:
        """Where the blob is, when it is there."""
        return self._blobs / hex_of(digest)

    def has_ingest(self, digest: Digest) -> bool:
        """Whether an earlier download of the blob left something to resume."""
        return self.ingest_path(digest).exists()

    def ingest_path(self, digest: Digest) -> Path:
        """Where the blob grows while it is downloaded; what is there survives a crash and is resumed."""
        return self._ingest / hex_of(digest)

    def new_ingest(self) -> Path:
        """A path for a blob whose digest is not known yet; removed at the next start if it is not committed."""
        return self._ingest / f"tmp-{secrets.token_hex(8)}"

    def size(self, digest: Digest) -> int | None:
        """The blob's size in bytes, None when it is not there."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def commit(self, path: Path, digest: Digest) -> None:
        """Take over the file at ``path``, whose digest the caller has verified while writing it."""
        path.rename(self.path(digest))

    def write(self, data: bytes, digest: Digest | None = None) -> Digest:
        """Store a small blob. Raises DigestMismatch when it does not have the given digest, InsufficientStorage."""
        actual = compute_digest(data)
        if digest is not None and digest != actual:
            raise DigestMismatch(f"the blob {digest} has other content")
        with translated_storage_errors():
            if not self._holds(actual) or not self._renew(actual):
                write_atomic(self.path(actual), data, durable=False)
        return actual

    def _renew(self, digest: Digest) -> bool:
        """Make a blob young again, for it is about to be named; False when it was removed meanwhile."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def _holds(self, digest: Digest) -> bool:
        try:
            self.read(digest)
        except (FileNotFoundError, DigestMismatch):
            return False
        return True

    def read(self, digest: Digest, limit: int = MAX_DOCUMENT) -> bytes:
        """A small blob, verified. Raises FileNotFoundError, or DigestMismatch for damage or over ``limit``."""
        with self.path(digest).open("rb") as file:
            data = file.read(limit + 1)
        if compute_digest(data) != digest:
            raise self._damaged(digest)
        return data

    def stream(self, digest: Digest) -> Generator[bytes, None, None]:
        """A large blob in chunks; DigestMismatch comes after the last one. Raises FileNotFoundError."""
        running = hashlib.sha256()
        with self.path(digest).open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                running.update(chunk)
                yield chunk
        if digest_of_hex(running.hexdigest()) != digest:
            raise self._damaged(digest)

    def _damaged(self, digest: Digest) -> DigestMismatch:
        self.remove(digest)
        return DigestMismatch(f"the stored blob {digest} is damaged", hint="it was dropped; pull the image again")

    def remove(self, digest: Digest) -> int:
        """Delete a blob and any partial download of it; returns the bytes freed. Absent is fine."""
        freed = 0
        for path in (self.path(digest), self.ingest_path(digest)):
            try:
                freed += path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                continue
        return freed

    def all(self) -> frozenset[Digest]:
        """Every blob that is there."""
        names = (entry.name for entry in os.scandir(self._blobs) if not entry.name.startswith("."))
        return frozenset(digest_of_hex(name) for name in names)

    def partial(self) -> frozenset[Digest]:
        """Every blob of which a part was downloaded."""
        names = (entry.name for entry in os.scandir(self._ingest))
        return frozenset(digest_of_hex(name) for name in names if not name.startswith("tmp-"))

    def stored(self, digest: Digest) -> int:
        """The bytes of a blob and of any partial download of it."""
        found = 0
        for path in (self.path(digest), self.ingest_path(digest)):
            with suppress(FileNotFoundError):
                found += path.stat().st_size
        return found

    def usage(self) -> int:
        """The bytes of all blobs and partial downloads. Reads the directories."""
        return sum(_sizes(self._blobs)) + sum(_sizes(self._ingest))

    def read_index(self) -> bytes:
        """What index.json holds; nothing when there is none."""
        try:
            with (self.root / "index.json").open("rb") as file:
                return file.read(MAX_DOCUMENT + 1)
        except FileNotFoundError:
            return b""

    def write_index(self, named: Iterable[tuple[Descriptor, Sequence[str]]]) -> None:
        """Replace index.json: the table of contents by which other tools find images here. Atomic."""
        manifests = []
        for descriptor, names in named:
            plain = encode_descriptor(descriptor)
            manifests += [{**plain, "annotations": {REF_NAME: name}} for name in names] or [plain]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        with self._lock, translated_storage_errors():
            write_atomic(self.root / "index.json", encode_document(document), durable=False)


def _sizes(directory: Path) -> Iterator[int]:
    for entry in os.scandir(directory):
        with suppress(FileNotFoundError):
            yield entry.stat(follow_symlinks=False).st_size
