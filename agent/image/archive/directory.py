"""The files of an image archive that is a directory of the host: opened beneath it, without following any link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.image.archive.files import FileSink, InvalidArchive, StoredBlob, check_digest
from agent.image.limits import UnpackLimits
from agent.image.space import check_space
from agent.image.storage.content import CHUNK, ContentStore
from agent.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from agent.oci.digest import Digest, render_shortened
from agent.oci.document import MAX_DOCUMENT


class DirectoryFiles:
    """The files beneath a directory of the host; ``keep`` as for TarFiles. Raises OSError."""

    def __init__(
        self, path: Path, content: ContentStore, limits: UnpackLimits, keep: Callable[[Digest], object]
    ) -> None:
        self._content = content
        self._limits = limits
        self._keep = keep
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _open(self, name: str) -> int:
        try:
            fd = openat2(self._root, name, os.O_RDONLY | os.O_NONBLOCK, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError as error:
            raise InvalidArchive(f"the layout's file {render_shortened(name)}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidArchive(f"the layout's file {render_shortened(name)} is no regular file")
        return fd

    def has(self, name: str) -> bool:
        """See ArchiveFiles."""
        try:
            os.close(self._open(name))
        except InvalidArchive:
            return False
        return True

    def read(self, name: str) -> bytes:
        """See ArchiveFiles."""
        with os.fdopen(self._open(name), "rb") as file:
            data = file.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise InvalidArchive(f"the layout's file {render_shortened(name)} is larger than {MAX_DOCUMENT} bytes")
        return data

    def take(self, name: str, expected: Digest | None = None) -> StoredBlob:
        """See ArchiveFiles."""
        if expected is not None:
            self._keep(expected)
        present = self._content.size(expected) if expected is not None else None
        if expected is not None and present is not None:
            return StoredBlob(expected, present, b"")
        fd = self._open(name)
        try:
            size = _size(fd)
            check_space(self._content.root, size, self._limits)
            member = FileSink(self._content, self._limits).fill(_read_up_to(fd, size))
        finally:
            os.close(fd)
        try:
            check_digest(name, member.digest, expected)
            self._keep(member.digest)
            self._content.commit(member.path, member.digest)
        finally:
            member.path.unlink(missing_ok=True)
        return StoredBlob(member.digest, member.size, member.head)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._root)


def _size(fd: int) -> int:
    return os.fstat(fd).st_size


def _read_up_to(fd: int, size: int) -> Iterator[bytes]:
    while size and (chunk := os.read(fd, min(CHUNK, size))):
        size -= len(chunk)
        yield chunk
