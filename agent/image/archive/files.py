"""The files of an image archive, by name, and how each becomes a blob; the archive is a tar or a directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from agent.errors import Refused
from agent.image.errors import DigestMismatch
from agent.image.limits import UnpackLimits
from agent.image.space import SPACE_CHECK, check_space
from agent.image.storage.content import ContentStore
from agent.oci.digest import Digest, digest_of_hex, render_shortened
from agent.store.atomic import write_all
from agent.values import frozen


class InvalidArchive(Refused):
    """An image archive that is not what its format says."""

    reason = "InvalidArchive"


@frozen
class StoredBlob:
    """A file that is a blob of the content store now. ``head`` is its first bytes."""

    digest: Digest
    size: int
    head: bytes


class ArchiveFiles(Protocol):
    """Looks up and takes files of one archive."""

    def has(self, name: str) -> bool:
        """Whether a regular file is there."""

    def read(self, name: str) -> bytes:
        """A small file. Raises InvalidArchive when it is missing, no regular file, or over 4 MiB."""

    def take(self, name: str, expected: Digest | None = None) -> StoredBlob:
        """Make the file a blob. Raises InvalidArchive, DigestMismatch when it is not ``expected``."""


@frozen
class IncomingFile:
    """A file in the content store's place for unfinished blobs. ``head`` is its first bytes."""

    path: Path
    digest: Digest
    size: int
    head: bytes


class FileSink:
    """One file on its way into the content store: written, hashed, and its size kept in bounds."""

    def __init__(self, content: ContentStore, limits: UnpackLimits) -> None:
        self.path = content.new_ingest()
        self._root = content.root
        self._limits = limits
        self._hash = hashlib.sha256()
        self._unchecked = SPACE_CHECK
        self.size = 0
        self.head = b""
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def fill(self, pieces: Iterator[bytes | memoryview]) -> IncomingFile:
        """Write everything; on an error nothing is left."""
        try:
            for piece in pieces:
                self._write(piece)
        except BaseException:
            self.path.unlink()
            raise
        finally:
            os.close(self._fd)
        return IncomingFile(self.path, digest_of_hex(self._hash.hexdigest()), self.size, self.head)

    def _write(self, piece: bytes | memoryview) -> None:
        self._unchecked += len(piece)
        if self._unchecked >= SPACE_CHECK:
            self._unchecked = 0
            check_space(self._root, len(piece), self._limits)
        if len(self.head) < 4:
            self.head += bytes(piece[:4])
        self._hash.update(piece)
        self.size += len(piece)
        write_all(self._fd, piece)


def check_digest(name: str, actual: Digest, expected: Digest | None) -> None:
    """Raises DigestMismatch when a file of an archive is not what was ``expected``."""
    if expected is not None and actual != expected:
        raise DigestMismatch(f"the archive's file {render_shortened(name)} has other content: {actual}")
